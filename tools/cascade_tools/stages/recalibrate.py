"""Looks for drift in a shadow log and proposes new cuts; the plan changes only where that is asked for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cascade_tools.artifacts import (
    GearPlan,
    Placement,
    PolicyTable,
    PredictedPolicy,
    Profile,
    Recalibrated,
    RoutingPolicy,
)
from cascade_tools.errors import Infeasible, UsageError
from cascade_tools.planning.drift import SampledRows, tolerated_share
from cascade_tools.planning.drift_of_plan import (
    TierDrift,
    compare,
    kept_spread,
    searched_policies,
    served_by,
)
from cascade_tools.planning.evaluate import Evaluator, Question
from cascade_tools.planning.recalibrate import NewCut, planned_answers, refit
from cascade_tools.stages.calibrate import SCORES_FILE
from cascade_tools.stages.gears import GEARS_FILE
from cascade_tools.stages.place import PLACEMENT_FILE
from cascade_tools.stages.profile import PROFILE_FILE
from cascade_tools.stages.search import POLICY_FILE, make_question
from cascade_tools.stages.shadow import read_shadow
from cascade_tools.stages.sustained import sustained_by
from cascade_tools.store import Workspace, digest_file, load_score_table, readable_disk_errors

SHADOW_FILE = "shadow.jsonl"
RECALIBRATED_FILE = "recalibrated.json"


@dataclass(frozen=True)
class Proposal:
    """New cuts, and what they mean.

    Attributes:
        policy: with the new cuts in the chosen policy and in those of the other gears.
        cost: of a row of the logged traffic, in the policy's unit; modelled.
        rate_rps: what the placed instances sustain then; `planned_rate_rps` with the planned cuts.
    """

    cuts: tuple[NewCut, ...]
    policy: RoutingPolicy
    cost: float
    planned_rate_rps: float
    rate_rps: float


@dataclass(frozen=True)
class Drift:
    """What the tests found.

    Attributes:
        tiers: those of the plan that answer and can be doubted.
        unused_rows: rows of the log that belong to none of them.
    """

    tiers: tuple[TierDrift, ...]
    unused_rows: int
    logged: Mapping[str, SampledRows]

    @property
    def drifted(self) -> dict[str, SampledRows]:
        """The log's rows of every tier that has drifted."""
        return {tier.tier: self.logged[tier.tier] for tier in self.tiers if tier.drifted}


def find_drift(
    work: Workspace, shadow: Path, false_alarm_rate: float, smallest_probability: float | None = None
) -> Drift:
    """Test a shadow log against the plan; an earlier proposal is taken away.

    Args:
        work: with a policy and a gear plan.
        shadow: the log; see `shadow`.
        false_alarm_rate: chance that each of the two tests calls a drift of any tier where there is none.
        smallest_probability: with which a row may have been sampled; None if all are the same.

    Raises:
        ArtifactError: the log or a file of the plan does not fit.
    """
    if not 0.0 < false_alarm_rate < 0.5:
        raise UsageError(f"--false-alarm-rate {false_alarm_rate:g}: must be above 0 and below 0.5")
    if smallest_probability is not None and not 0.0 < smallest_probability <= 1.0:
        raise UsageError(f"--smallest-probability {smallest_probability:g}: must be above 0 and at most 1")
    policy = work.load(POLICY_FILE, RoutingPolicy, "search")
    unseen = load_score_table(work.path(SCORES_FILE)).part("verify")
    plan = work.load(GEARS_FILE, GearPlan, "gears")
    everything = read_shadow(shadow, work.cascade.tier_names, smallest_probability)
    used, logged = served_by([gear.policy for gear in plan.gears], everything)
    tiers = compare(unseen, policy, used, logged, false_alarm_rate)
    with readable_disk_errors(work.build):
        work.path(RECALIBRATED_FILE).unlink(missing_ok=True)
    tested = {tier.tier for tier in tiers}
    unused = sum(len(rows) for tier, rows in everything.items() if tier not in tested)
    return Drift(tiers, unused, logged)


def propose(
    work: Workspace,
    drift: Drift,
    shadow: Path,
    false_alarm_rate: float,
    min_rate_rps: float | None = None,
) -> Proposal:
    """Fit the cuts of the drifted tiers again, and write `recalibrated.json`.

    Args:
        work: with a policy, a placement and a gear plan.
        drift: of at least one tier.
        shadow: the log that it was found in.
        false_alarm_rate: of the tests.
        min_rate_rps: what the placed instances must still sustain; None for any rate.

    Raises:
        Infeasible: the new cuts break a bound of the plan; nothing is written.
    """
    policy = work.load(POLICY_FILE, RoutingPolicy, "search")
    profile = work.load(PROFILE_FILE, Profile, "profile")
    question = make_question(work.cascade, profile)
    rate = false_alarm_rate / len(drift.tiers)
    proposal = _propose(work, policy, profile, question, drift.drifted, shadow, rate)
    _check_bounds(work, policy, question, proposal, min_rate_rps)
    with readable_disk_errors(work.build):
        work.save(RECALIBRATED_FILE, proposal.policy)
    return proposal


def _propose(
    work: Workspace,
    policy: RoutingPolicy,
    profile: Profile,
    question: Question,
    logged: dict[str, SampledRows],
    shadow: Path,
    false_alarm_rate: float,
) -> Proposal:
    table = load_score_table(work.path(SCORES_FILE))
    unseen = table.part("verify")
    judged, checked = Evaluator(table.where(table.split != "fit"), question), Evaluator(unseen, question)

    def fitted(
        used: PolicyTable, wanted: PolicyTable, at_least: Mapping[str, float]
    ) -> tuple[PredictedPolicy, tuple[NewCut, ...]]:
        tolerated = {
            tier: tolerated_share(was.agrees, was.group, false_alarm_rate)
            for tier, was in planned_answers(unseen, wanted).items()
            if len(was.agrees)
        }
        rows = {tier: found for tier, found in logged.items() if tier in tolerated}
        new, changed = refit(used, wanted, tolerated, rows, at_least)
        predicted = judged(new)
        if policy.certified:
            predicted = predicted.model_copy(update={"accuracy_drop_bound": checked.bound_points(new)})
        return predicted, changed

    searched, *of_others = searched_policies(policy)
    chosen, cuts = fitted(policy.chosen.table, searched, {})
    at_least = {cut.tier: cut.cut for cut in cuts}
    gears = {gear.policy for gear in work.load(GEARS_FILE, GearPlan, "gears").gears}
    in_use = [
        (used.table, wanted)
        for used, wanted in zip(policy.alternatives, of_others, strict=True)
        if used.table in gears and used.table != policy.chosen.table
    ]
    if policy.reference.table in gears and policy.reference.table not in dict(in_use):
        in_use.insert(0, (policy.reference.table, policy.reference.table))
    others = [fitted(used, wanted, at_least)[0] for used, wanted in in_use]
    reach = _reach(policy.chosen, cuts)
    placement = work.load(PLACEMENT_FILE, Placement, "place")
    sustained = sustained_by(work, profile, placement)
    times = np.concatenate([rows.time for rows in logged.values()])
    before = policy.recalibrated.spread if policy.recalibrated else {}
    new_policy = policy.model_copy(
        update={
            "chosen": chosen,
            "alternatives": (*others, chosen),
            "recalibrated": Recalibrated(
                shadow_sha256=digest_file(shadow),
                rows={tier: len(rows) for tier, rows in logged.items()},
                first_time=float(times.min()),
                last_time=float(times.max()),
                searched=(searched, *(wanted for _, wanted in in_use), searched),
                spread={**before, **{tier: kept_spread(rows) for tier, rows in logged.items()}},
            ),
        }
    )
    return Proposal(
        cuts=cuts,
        policy=new_policy,
        cost=float(sum(reach[t] * c for t, c in zip(table.tiers, question.cost, strict=True))),
        planned_rate_rps=sustained(policy.chosen.reach, policy.chosen.table),
        rate_rps=sustained(reach, chosen.table),
    )


def _reach(planned: PredictedPolicy, cuts: Iterable[NewCut]) -> dict[str, float]:
    """Share of the logged traffic that every tier sees.

    Modelled: the tiers answered as large a share as planned before, and every row that one gives up goes to
    the next destination and to every tier from there to the last.
    """
    reach = dict(planned.reach)
    names = planned.table.tiers
    for cut in cuts:
        given_up = planned.answers[cut.tier] * (1.0 - cut.kept)
        own = names.index(cut.tier)
        for name in names[planned.table.routes[own].to[-2] :]:
            reach[name] = min(1.0, reach[name] + given_up)
    return reach


def _check_bounds(
    work: Workspace,
    policy: RoutingPolicy,
    question: Question,
    proposal: Proposal,
    min_rate_rps: float | None,
) -> None:
    giant = policy.reference.cost
    replan = f"label rows of the new traffic and run `{work.command('run')}` again"
    lost = proposal.policy.chosen
    points = lost.accuracy_drop_bound if policy.certified else lost.accuracy_drop
    if points > policy.max_accuracy_drop:
        raise Infeasible(
            f"cuts that restore the agreement lose {points:.2f} points on the plan's own rows, more than "
            f"objective.max_accuracy_drop: {policy.max_accuracy_drop:g}",
            replan,
            constraint="accuracy",
        )
    if proposal.cost >= giant:
        raise Infeasible(
            f"cuts that restore the agreement cost {proposal.cost:.4g} a row, "
            f"{policy.reference.table.tiers[0]} alone {giant:.4g}",
            replan,
            constraint="cost",
        )
    if question.max_cost is not None and proposal.cost > question.max_cost:
        raise Infeasible(
            f"cuts that restore the agreement cost {proposal.cost:.4g} a row, above objective.max_cost",
            f"allow at least {proposal.cost:.4g}, or {replan}",
            constraint="cost",
        )
    for name, most in question.max_latency_ms.items():
        slow = getattr(proposal.policy.chosen, f"latency_{name}_ms")
        if slow > most:
            raise Infeasible(
                f"with cuts that restore the agreement the {name} latency is {slow:.3g} ms, above "
                f"objective.max_latency_ms.{name}",
                f"allow at least {slow:.3g} ms, or {replan}",
                constraint="latency",
            )
    if min_rate_rps is not None and proposal.rate_rps < min_rate_rps:
        raise Infeasible(
            f"with cuts that restore the agreement the placed instances sustain {proposal.rate_rps:.0f} "
            f"rows/s, below --min-rate {min_rate_rps:g}",
            "give more devices, or a lower rate",
            constraint="rate",
        )
