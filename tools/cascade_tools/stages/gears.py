"""Makes the gear plan: what the router reads at run time."""

from __future__ import annotations

from cascade_tools.artifacts import (
    AdoptedModel,
    AdoptedTier,
    Calibration,
    Exported,
    FallbackGears,
    Gear,
    GearPlan,
    Hysteresis,
    LadderTier,
    Placement,
    PolicyTable,
    PredictedPolicy,
    Profile,
    RouterLimits,
    RoutingPolicy,
)
from cascade_tools.planning.drift_of_plan import tolerated_by_gears
from cascade_tools.planning.fallbacks import losses, policy_without
from cascade_tools.planning.gears import choose_gears
from cascade_tools.runtime.bet import FALSE_ALARM_RATE
from cascade_tools.spec import BatchTrigger, Cascade
from cascade_tools.stages.calibrate import CALIBRATION_FILE, SCORES_FILE
from cascade_tools.stages.export import EXPORTED_FILE
from cascade_tools.stages.place import PLACEMENT_FILE
from cascade_tools.stages.profile import PROFILE_FILE
from cascade_tools.stages.progress import Reporter
from cascade_tools.stages.search import POLICY_FILE, make_question
from cascade_tools.stages.sustained import sustained_by
from cascade_tools.store import Workspace, load_score_table, readable_disk_errors

GEARS_FILE = "gear_plan.json"
NO_WAIT = BatchTrigger()


def gears(work: Workspace, made_from: dict[str, str], report: Reporter) -> None:
    """Write `gear_plan.json`."""
    cascade = work.cascade
    calibration = work.load(CALIBRATION_FILE, Calibration, "calibrate")
    profile = work.load(PROFILE_FILE, Profile, "profile")
    policy = work.load(POLICY_FILE, RoutingPolicy, "search")
    exported = work.load(EXPORTED_FILE, Exported, "export")
    placement = work.load(PLACEMENT_FILE, Placement, "place")
    sustained = sustained_by(work, profile, placement)
    choices = choose_gears(
        # New cuts are for the gears that are in use; no other policy is put into their place.
        policy.alternatives if policy.recalibrated else (policy.reference, *policy.alternatives),
        cascade.objective.max_accuracy_drop,
        cascade.gears.count,
        cascade.gears.reserve,
        cascade.gears.target_busy_share,
        lambda candidate: sustained(candidate.reach),
        (lambda p: p.accuracy_drop_bound) if policy.certified else (lambda p: p.accuracy_drop),
    )
    unseen = load_score_table(work.path(SCORES_FILE)).part("verify")
    policies = [choice.policy.table for choice in choices]
    trigger = cascade.gears.batch_trigger
    tolerated = tolerated_by_gears(unseen, policy, policies, FALSE_ALARM_RATE)
    if len(choices) < cascade.gears.count:
        report.say(f"  {len(choices)} gear(s): more would coincide")
    with readable_disk_errors(work.build):
        work.save(
            GEARS_FILE,
            GearPlan(
                cascade=cascade.name,
                made_from=made_from,
                inputs=calibration.inputs,
                classes=calibration.classes,
                tokens=calibration.tokens,
                probabilities=cascade.serving.probabilities,
                ladder=tuple(
                    _ladder_tier(cascade, calibration, profile, exported, name, tolerated.get(name))
                    for name in cascade.tier_names
                ),
                gears=tuple(
                    _gear(choice.policy, choice.up_to_rps, trigger if choice is choices[-1] else NO_WAIT)
                    for choice in choices
                ),
                fallbacks=_fallbacks(work, profile, placement, policies),
                hysteresis=Hysteresis(),
                limits=RouterLimits(
                    rows_in_flight=cascade.serving.rows_in_flight,
                    max_batch_size=cascade.serving.max_batch_size,
                    shadow_share=cascade.serving.shadow_share,
                    router_instances=cascade.serving.router_instances,
                ),
                cost_unit=policy.cost_unit,
            ),
        )


def _gear(policy: PredictedPolicy, up_to_rps: float | None, trigger: BatchTrigger = NO_WAIT) -> Gear:
    return Gear(
        up_to_rps=up_to_rps,
        policy=policy.table,
        min_queue=trigger.min_queue,
        max_wait_ms=trigger.max_wait_ms,
        predicted_accuracy=policy.accuracy,
        predicted_cost=policy.cost,
    )


def _fallbacks(
    work: Workspace, profile: Profile, placement: Placement, policies: list[PolicyTable]
) -> tuple[FallbackGears, ...]:
    """One gear without every used tier, and one without what every device takes with it."""
    table = load_score_table(work.path(SCORES_FILE))
    held_out = table.where(table.split != "fit")
    question = make_question(work.cascade, profile)
    used = {tier for policy in policies for tier in policy.tiers}
    homes: dict[int, set[str]] = {}
    for placed in placement.instances:
        homes.setdefault(placed.device, set()).add(placed.tier)
    found = ((lost, policy_without(held_out, question, lost)) for lost in losses(used, homes))
    return tuple(
        FallbackGears(without=tuple(sorted(lost)), gears=(_gear(policy, None),))
        for lost, policy in found
        if policy is not None
    )


def _ladder_tier(
    cascade: Cascade,
    calibration: Calibration,
    profile: Profile,
    exported: Exported,
    name: str,
    tolerated: float | None,
) -> LadderTier:
    adopted = calibration.adopted_tier(name)
    points = profile.points_of(name)
    first, last = points[0], points[-1]
    further = (last.latency_tail_ms - first.latency_tail_ms) / max(1, last.batch - first.batch)
    return LadderTier(
        tier=name,
        model=cascade.model_name(name),
        sha256=exported.tier(name).digest if adopted is None else adopted.sha256,
        p50_ms=first.latency_p50_ms,
        p99_ms=first.latency_tail_ms + profile.ask_cost(name).latency_ms,
        further_row_ms=max(0.0, further),
        tolerated_disagreement=tolerated,
        adopted=None if adopted is None else _with_head(adopted, calibration),
    )


def _with_head(adopted: AdoptedTier, calibration: Calibration) -> AdoptedModel:
    head = calibration.tier(adopted.tier)
    return AdoptedModel(
        inputs=adopted.inputs,
        output=adopted.output,
        gives=adopted.gives,
        temperature=head.temperature,
        signal=head.signal,
        curve=head.curve,
        mask=calibration.mask,
    )
