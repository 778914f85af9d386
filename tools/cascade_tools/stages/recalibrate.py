"""Looks for drift in a shadow log and proposes new cuts; the plan changes only where that is asked for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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
    ScoreTable,
    Spread,
)
from cascade_tools.errors import Infeasible, UsageError
from cascade_tools.planning.drift import (
    Agreement,
    ConfidenceSpread,
    SampledRows,
    Stability,
    agreement,
    population_stability,
    spread_of,
)
from cascade_tools.planning.evaluate import Evaluator, Question
from cascade_tools.planning.placement import Device, sustainable_rate
from cascade_tools.planning.recalibrate import NewCut, accept_cut, planned_answers, refit
from cascade_tools.stages.calibrate import SCORES_FILE
from cascade_tools.stages.gears import GEARS_FILE
from cascade_tools.stages.place import PLACEMENT_FILE, expand, placed_counts, tier_loads
from cascade_tools.stages.profile import PROFILE_FILE
from cascade_tools.stages.search import POLICY_FILE, make_question
from cascade_tools.stages.shadow import read_shadow
from cascade_tools.store import Workspace, digest_file, load_score_table, readable_disk_errors

SHADOW_FILE = "shadow.jsonl"
RECALIBRATED_FILE = "recalibrated.json"
# Fewer rows of a tier say too little for any of the tests.
FEWEST_ROWS = 50


@dataclass(frozen=True)
class TierDrift:
    """What the log says of one tier of the policy; None where it has too few rows of it."""

    tier: str
    rows: int
    stability: Stability | None
    agreement: Agreement | None

    @property
    def drifted(self) -> bool:
        """One of the two tests called it."""
        moved = self.stability is not None and self.stability.shifted
        return moved or (self.agreement is not None and self.agreement.noticed_at is not None)


@dataclass(frozen=True)
class Proposal:
    """New cuts, and what they mean.

    Attributes:
        policy: with the new cuts in the chosen policy and in every alternative.
        cost: of a row of the logged traffic, in the policy's unit; modelled, at most this much.
        rate_rps: what the placed instances sustain then; `planned_rate_rps` with the planned cuts.
    """

    cuts: tuple[NewCut, ...]
    policy: RoutingPolicy
    cost: float
    planned_rate_rps: float
    rate_rps: float


@dataclass(frozen=True)
class Recalibration:
    """The findings; no proposal where nothing has drifted."""

    tiers: tuple[TierDrift, ...]
    proposal: Proposal | None


def recalibrate(
    work: Workspace, shadow: Path, false_alarm_rate: float, min_rate_rps: float | None
) -> Recalibration:
    """Test a shadow log, and write `recalibrated.json` if the traffic has drifted.

    Args:
        work: with a policy and a placement.
        shadow: the log; see `shadow`.
        false_alarm_rate: chance that each of the two tests calls a drift of any tier where there is none.
        min_rate_rps: what the placed instances must still sustain; None for any rate.

    Raises:
        ArtifactError: the log or a file of the plan does not fit.
        Infeasible: the new cuts break a bound of the plan; nothing is written.
    """
    if not 0.0 < false_alarm_rate < 0.5:
        raise UsageError(f"--false-alarm-rate {false_alarm_rate:g}: must be above 0 and below 0.5")
    policy = work.load(POLICY_FILE, RoutingPolicy, "search")
    table = load_score_table(work.path(SCORES_FILE))
    unseen = table.part("verify")
    logged = read_shadow(shadow, work.cascade.tier_names)
    plan = work.load(GEARS_FILE, GearPlan, "gears")
    cuts = answered_by_all([gear.policy for gear in plan.gears])
    tiers = compare(unseen, policy, cuts, logged, false_alarm_rate)
    if not any(tier.drifted for tier in tiers):
        return Recalibration(tiers, None)
    ready = {tier.tier: logged[tier.tier] for tier in tiers if tier.agreement is not None}
    proposal = _propose(work, policy, table, ready, shadow)
    _check_bounds(work, policy, proposal, min_rate_rps)
    with readable_disk_errors(work.build):
        work.save(RECALIBRATED_FILE, proposal.policy)
    return Recalibration(tiers, proposal)


def answered_by_all(policies: Sequence[PolicyTable]) -> dict[str, float]:
    """By tier, the confidence from which up it answers whichever of the policies is used.

    The log does not say which gear a row was served with; these rows are in it with any.
    """
    cuts: dict[str, float] = {}
    for policy in policies:
        for tier, route in zip(policy.tiers, policy.routes, strict=True):
            cut = accept_cut(route)
            if cut is not None:
                cuts[tier] = max(cut, cuts.get(tier, cut))
    return cuts


def compare(
    unseen: ScoreTable,
    policy: RoutingPolicy,
    cuts: Mapping[str, float],
    logged: Mapping[str, SampledRows],
    false_alarm_rate: float,
) -> tuple[TierDrift, ...]:
    """Both tests for every tier that answers and can be doubted; they share the rate of false alarms.

    Agreement is measured against what was searched, wherever the cut lies by now; confidences against those
    that the present cuts were fitted to.

    Args:
        unseen: rows that the search did not see.
        policy: in use.
        cuts: by tier; only rows from this confidence up are compared.
        logged: by tier.
        false_alarm_rate: of each test, over all tiers.
    """
    refitted = policy.recalibrated
    searched = refitted.searched[0] if refitted else policy.chosen.table
    found = []
    answers = {tier: was for tier, was in planned_answers(unseen, searched).items() if tier in cuts}
    for tier, was in answers.items():
        if refitted is None:
            was = was.from_confidence(cuts[tier])
        rows = logged.get(tier)
        accepted = rows.where(rows.confidence >= cuts[tier]) if rows is not None else None
        count = 0 if accepted is None else len(accepted)
        if accepted is None or count < FEWEST_ROWS or len(was.agrees) < FEWEST_ROWS:
            found.append(TierDrift(tier, count, None, None))
            continue
        rate = false_alarm_rate / len(answers)
        if refitted is None:
            alone = np.ones(len(was.agrees))
            spread = spread_of(was.confidence, alone, float(len(np.unique(was.group))))
        else:
            kept = refitted.spread[tier]
            spread = ConfidenceSpread(np.array(kept.edges), np.array(kept.shares), kept.rows)
        found.append(
            TierDrift(
                tier,
                count,
                population_stability(spread, accepted, rate),
                agreement(was.agrees, was.group, accepted, rate),
            )
        )
    return tuple(found)


def _propose(
    work: Workspace,
    policy: RoutingPolicy,
    table: ScoreTable,
    logged: dict[str, SampledRows],
    shadow: Path,
) -> Proposal:
    profile = work.load(PROFILE_FILE, Profile, "profile")
    question = make_question(work.cascade, profile)
    unseen = table.part("verify")
    judged, checked = Evaluator(table.where(table.split != "fit"), question), Evaluator(unseen, question)
    present = [policy.chosen, *policy.alternatives]
    searched = policy.recalibrated.searched if policy.recalibrated else [p.table for p in present]
    fitted = []
    for used, wanted in zip(present, searched, strict=True):
        shares = {tier: was.disagreement for tier, was in planned_answers(unseen, wanted).items()}
        fitted.append(refit(used.table, shares, logged))
    again = []
    for new, _ in fitted:
        predicted = judged(new)
        if policy.certified:
            predicted = predicted.model_copy(update={"accuracy_drop_bound": checked.bound_points(new)})
        again.append(predicted)
    chosen, cuts = again[0], fitted[0][1]
    reach = _reach(policy.chosen, cuts)
    times = np.concatenate([rows.time for rows in logged.values()])
    new_policy = policy.model_copy(
        update={
            "chosen": chosen,
            "alternatives": tuple(again[1:]),
            # Chosen without the verify rows: the bound holds for rows such as the plan's.
            "certified": policy.certified and chosen.accuracy_drop_bound <= policy.max_accuracy_drop,
            "recalibrated": Recalibrated(
                shadow_sha256=digest_file(shadow),
                rows={tier: len(rows) for tier, rows in logged.items()},
                first_time=float(times.min()),
                last_time=float(times.max()),
                searched=tuple(searched),
                spread={cut.tier: _spread(logged[cut.tier], cut.cut) for cut in cuts},
            ),
        }
    )
    return Proposal(
        cuts=cuts,
        policy=new_policy,
        cost=float(sum(reach[t] * c for t, c in zip(table.tiers, question.cost, strict=True))),
        planned_rate_rps=_sustained(work, profile, policy.chosen.reach),
        rate_rps=_sustained(work, profile, reach),
    )


def _spread(rows: SampledRows, cut: float) -> Spread:
    kept = rows.where(rows.confidence >= cut)
    if not len(kept):
        return Spread(edges=(), shares=(1.0,), rows=1.0)
    found = spread_of(kept.confidence, kept.weight, kept.effective)
    return Spread(edges=tuple(found.edges.tolist()), shares=tuple(found.shares.tolist()), rows=found.rows)


def _reach(planned: PredictedPolicy, cuts: Iterable[NewCut]) -> dict[str, float]:
    """Share of the logged traffic that every tier sees.

    Modelled: the tiers answered as large a share as planned before, and every row that one gives up goes to
    the next destination and from there to the last tier.
    """
    reach = dict(planned.reach)
    names = planned.table.tiers
    for cut in cuts:
        given_up = planned.answers[cut.tier] * (1.0 - cut.kept)
        own = names.index(cut.tier)
        to = planned.table.routes[own].to
        for name in {names[to[-2]], names[-1]}:
            reach[name] = min(1.0, reach[name] + given_up)
    return reach


def _sustained(work: Workspace, profile: Profile, reach: dict[str, float]) -> float:
    groups = expand(work.cascade)
    loads = tier_loads(work.cascade, profile, reach, groups)
    devices = tuple(Device(g.type, g.memory_mib - g.reserved_mib) for g in groups)
    counts = placed_counts(work.cascade, work.load(PLACEMENT_FILE, Placement, "place"), len(loads))
    return sustainable_rate(loads, devices, counts)[0]


def _check_bounds(
    work: Workspace, policy: RoutingPolicy, proposal: Proposal, min_rate_rps: float | None
) -> None:
    question: Question = make_question(work.cascade, work.load(PROFILE_FILE, Profile, "profile"))
    giant = policy.reference.cost
    replan = f"label rows of the new traffic and run `{work.command('run')}` again"
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
