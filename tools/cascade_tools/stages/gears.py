"""Makes the gear plan: what the router reads at run time."""

from __future__ import annotations

from cascade_tools.artifacts import (
    Calibration,
    Exported,
    FallbackGears,
    Gear,
    GearForecast,
    GearPlan,
    Hysteresis,
    Placement,
    PlannedRates,
    PlannedService,
    PolicyTable,
    PredictedPolicy,
    Profile,
    RoutingPolicy,
)
from cascade_tools.planning.drift_of_plan import tolerated_by_gears
from cascade_tools.planning.fallbacks import losses
from cascade_tools.planning.gears import RateBins, choose_gears, plan_gears
from cascade_tools.runtime.bet import FALSE_ALARM_RATE
from cascade_tools.spec import BatchTrigger
from cascade_tools.stages.calibrate import CALIBRATION_FILE, SCORES_FILE
from cascade_tools.stages.export import EXPORTED_FILE
from cascade_tools.stages.fallback_routes import policies_without
from cascade_tools.stages.gear_question import gear_question, rates_of
from cascade_tools.stages.ladder import ladder_of, limits_of
from cascade_tools.stages.place import PLACEMENT_FILE
from cascade_tools.stages.profile import PROFILE_FILE
from cascade_tools.stages.progress import Reporter
from cascade_tools.stages.search import POLICY_FILE
from cascade_tools.stages.solver_output import solver_output_on_stderr
from cascade_tools.stages.sustained import placed_counts, sustained_by, sustained_without
from cascade_tools.stages.tier_loads import partitions_of, problem_of
from cascade_tools.store import Workspace, load_score_table, readable_disk_errors

GEARS_FILE = "gear_plan.json"
NO_WAIT = BatchTrigger()


def gears(work: Workspace, made_from: dict[str, str], report: Reporter) -> None:
    """Write `gear_plan.json`; the placement stays as it is.

    Raises:
        Infeasible: the placed instances cannot keep the SLO at the planned rates.
    """
    cascade = work.cascade
    calibration = work.load(CALIBRATION_FILE, Calibration, "calibrate")
    profile = work.load(PROFILE_FILE, Profile, "profile")
    policy = work.load(POLICY_FILE, RoutingPolicy, "search")
    exported = work.load(EXPORTED_FILE, Exported, "export")
    placement = work.load(PLACEMENT_FILE, Placement, "place")
    if cascade.gears.slo is None:
        chosen, service = _within_allowance(work, profile, policy, placement, report), None
    else:
        chosen, service = _for_slo(work, profile, policy, placement, report)
    unseen = load_score_table(work.path(SCORES_FILE)).part("verify")
    policies = [gear.policy for gear in chosen]
    tolerated = tolerated_by_gears(unseen, policy, policies, FALSE_ALARM_RATE)
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
                ladder=ladder_of(cascade, calibration, profile, exported, tolerated),
                gears=chosen,
                fallbacks=_fallbacks(work, profile, placement, policies),
                hysteresis=Hysteresis(),
                limits=limits_of(cascade),
                cost_unit=policy.cost_unit,
                rates=_planned_rates(rates_of(cascade)),
                service=service,
            ),
        )


def _within_allowance(
    work: Workspace, profile: Profile, policy: RoutingPolicy, placement: Placement, report: Reporter
) -> tuple[Gear, ...]:
    """Gears that all keep the accuracy allowance and differ by a reserve of it."""
    wanted = work.cascade.gears
    sustained = sustained_by(work, profile, placement)
    choices = choose_gears(
        # New cuts are for the gears that are in use; no other policy is put into their place.
        policy.alternatives if policy.recalibrated else (policy.reference, *policy.alternatives),
        work.cascade.objective.max_accuracy_drop,
        wanted.count,
        wanted.reserve,
        wanted.target_busy_share,
        lambda candidate: sustained(candidate.reach, candidate.table),
        (lambda p: p.accuracy_drop_bound) if policy.certified else (lambda p: p.accuracy_drop),
    )
    if len(choices) < wanted.count:
        report.say(f"  {len(choices)} gear(s): more would coincide")
    return tuple(
        _gear(choice.policy, choice.up_to_rps, wanted.batch_trigger if choice is choices[-1] else NO_WAIT)
        for choice in choices
    )


def _for_slo(
    work: Workspace, profile: Profile, policy: RoutingPolicy, placement: Placement, report: Reporter
) -> tuple[tuple[Gear, ...], PlannedService]:
    """Gears for an SLO and planned rates, on the instances that there are."""
    problem = problem_of(work.cascade, profile, partitions_of(work), policy.chosen.reach)
    count = placed_counts(work, problem, placement)
    with solver_output_on_stderr():
        found = plan_gears(gear_question(work, problem, placement, count))
    slo = work.cascade.gears.slo
    assert slo is not None
    report.say(f"  {len(found.gears)} gear(s) after {found.rounds} rounds")
    report.say("  the SLO is not planned for while a tier is broken")
    planned = tuple(
        _gear(
            gear.policy,
            gear.up_to_rps,
            BatchTrigger(min_queue=gear.trigger.min_queue, max_wait_ms=gear.trigger.max_wait_ms),
            GearForecast(
                rate_rps=gear.forecast.rate_rps,
                p50_ms=gear.forecast.p50_ms,
                p95_ms=gear.forecast.p95_ms,
                p99_ms=gear.forecast.p99_ms,
                energy_j=gear.forecast.energy_j,
                busy_share=gear.forecast.busy_share,
            ),
        )
        for gear in found.gears
    )
    service = PlannedService.model_validate(
        {
            "slo": slo.name,
            "bound": slo.bound,
            "accuracy": found.accuracy,
            "p95_ms": found.p95_ms,
            "p99_ms": found.p99_ms,
            "energy_j": found.energy_j,
            "sustains_rps": found.sustains_rps,
        }
    )
    return planned, service


def _planned_rates(rates: RateBins | None) -> PlannedRates | None:
    if rates is None:
        return None
    return PlannedRates(
        edges_rps=tuple(rates.edges_rps.tolist()), shares=tuple(rates.shares.tolist()), source=rates.source
    )


def _gear(
    policy: PredictedPolicy,
    up_to_rps: float | None,
    trigger: BatchTrigger = NO_WAIT,
    forecast: GearForecast | None = None,
) -> Gear:
    return Gear(
        up_to_rps=up_to_rps,
        policy=policy.table,
        min_queue=trigger.min_queue,
        max_wait_ms=trigger.max_wait_ms,
        predicted_accuracy=policy.accuracy,
        predicted_cost=policy.cost,
        predicted=forecast,
    )


def _fallbacks(
    work: Workspace, profile: Profile, placement: Placement, policies: list[PolicyTable]
) -> tuple[FallbackGears, ...]:
    """One gear without every used tier, and one without what every device and host takes with it."""
    used = {tier for policy in policies for tier in policy.tiers}
    without, sustained = policies_without(work, profile), sustained_by(work, profile, placement)
    found = []
    for lost in losses(used, [left.homeless for left in placement.losses]):
        policy = without(lost)
        if policy is None:
            continue
        found.append(
            FallbackGears(
                without=tuple(sorted(lost)),
                gears=(_gear(policy, None),),
                reach=policy.reach,
                sustains_rps=sustained_without(lost, policy, sustained, placement.losses),
            )
        )
    return tuple(found)
