"""A shadow log against the plan: which of its rows can be compared with what, and both tests on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cascade_tools.artifacts import PolicyTable, RoutingPolicy, ScoreTable, Spread
from cascade_tools.errors import UsageError
from cascade_tools.planning.drift import (
    Agreement,
    ConfidenceSpread,
    SampledRows,
    Stability,
    agreement,
    population_stability,
    spread_of,
    tolerated_share,
)
from cascade_tools.planning.recalibrate import accept_cut, planned_answers

# Fewer rows of a tier say too little for any of the tests.
FEWEST_ROWS = 50
KEPT_QUANTILES = 200


@dataclass(frozen=True)
class TierDrift:
    """What the log says of one tier of the policy; None where it has too few rows of it.

    Attributes:
        comparable: the same rows reach the tier in every gear that may have served the log.
    """

    tier: str
    rows: int
    stability: Stability | None
    agreement: Agreement | None
    comparable: bool = True

    @property
    def drifted(self) -> bool:
        """One of the two tests called it."""
        moved = self.stability is not None and self.stability.shifted
        return moved or (self.agreement is not None and self.agreement.noticed_at is not None)


def served_by(
    gears: Sequence[PolicyTable], logged: Mapping[str, SampledRows]
) -> tuple[list[PolicyTable], dict[str, SampledRows]]:
    """The policies that may have served the log's rows, and the rows.

    Where every row says its gear, the rows of the gear that served most are taken, and its policy alone.
    """
    numbers = np.concatenate([rows.gear for rows in logged.values()]) if logged else np.zeros(0, np.int64)
    if not len(numbers) or numbers.min() < 0:
        return list(gears), dict(logged)
    if numbers.max() >= len(gears):
        raise UsageError(
            f"the log has rows of gear {numbers.max()}, the plan has {len(gears)} gear(s)",
            "begin a new log with every new plan",
        )
    most = int(np.bincount(numbers).argmax())
    return [gears[most]], {tier: rows.where(rows.gear == most) for tier, rows in logged.items()}


def answered_by_all(policies: Sequence[PolicyTable]) -> dict[str, float]:
    """By tier, the confidence from which up it answers whichever of the policies is used.

    Left out are tiers that not all policies use, or that are reached by other rows from policy to policy.
    """
    cuts: dict[str, float] = {}
    first = policies[0]
    for own, tier in enumerate(first.tiers):
        reached_alike = all(
            other.tiers[: own + 1] == first.tiers[: own + 1] and _same_routes(other, first, own)
            for other in policies
        )
        found = [accept_cut(other.routes[own]) for other in policies] if reached_alike else [None]
        if all(cut is not None for cut in found):
            cuts[tier] = max(cut for cut in found if cut is not None)
    return cuts


def _same_routes(one: PolicyTable, other: PolicyTable, before: int) -> bool:
    """The tiers before one send the same rows to the same tiers."""
    return all(
        (a.cuts, [one.tiers[to] for to in a.to if to >= 0])
        == (b.cuts, [other.tiers[to] for to in b.to if to >= 0])
        for a, b in zip(one.routes[:before], other.routes[:before], strict=True)
    )


def compare(
    unseen: ScoreTable,
    policy: RoutingPolicy,
    used: Sequence[PolicyTable],
    logged: Mapping[str, SampledRows],
    false_alarm_rate: float,
) -> tuple[TierDrift, ...]:
    """Both tests for every tier that answers and can be doubted; they share the rate of false alarms.

    Agreement is measured against what was searched, wherever the cut lies by now; confidences against those
    that the present cuts were fitted to.

    Args:
        unseen: rows that the search did not see.
        policy: in use.
        used: the gears' policies that may have served the log.
        logged: by tier.
        false_alarm_rate: of each test, over all tiers.
    """
    refitted = policy.recalibrated
    cuts = answered_by_all(used)
    searched = searched_as(policy, used[0])
    answers = planned_answers(unseen, searched)
    doubted = [tier for tier in answers if any(tier in other.tiers for other in used)]
    found = []
    for tier in doubted:
        rows = logged.get(tier)
        if tier not in cuts:
            found.append(TierDrift(tier, 0 if rows is None else len(rows), None, None, comparable=False))
            continue
        planned = answers[tier] if refitted else answers[tier].from_confidence(cuts[tier])
        accepted = rows.where(rows.confidence >= cuts[tier]) if rows is not None else None
        count = 0 if accepted is None else len(accepted)
        if accepted is None or count < FEWEST_ROWS or len(planned.agrees) < FEWEST_ROWS:
            found.append(TierDrift(tier, count, None, None))
            continue
        rate = false_alarm_rate / len(doubted)
        was = answers[tier].from_confidence(cuts[tier])
        kept = refitted.spread.get(tier) if refitted else None
        spread = (
            spread_of(was.confidence, np.ones(len(was.agrees)), float(len(np.unique(was.group))))
            if kept is None
            else _spread_from(kept, cuts[tier])
        )
        stability = population_stability(spread, accepted, rate) if spread.rows else None
        agree = agreement(planned.agrees, planned.group, accepted, rate)
        found.append(TierDrift(tier, count, stability, agree))
    return tuple(found)


def searched_policies(policy: RoutingPolicy) -> list[PolicyTable]:
    """The search's own policies: the chosen one, then the alternatives."""
    if policy.recalibrated:
        return list(policy.recalibrated.searched)
    return [policy.chosen.table, *(other.table for other in policy.alternatives)]


def searched_as(policy: RoutingPolicy, table: PolicyTable) -> PolicyTable:
    """What a gear's policy was before any cut was fitted again."""
    present = [policy.chosen.table, *(other.table for other in policy.alternatives)]
    return searched_policies(policy)[present.index(table)] if table in present else table


def tolerated_by_gears(
    unseen: ScoreTable, policy: RoutingPolicy, gears: Sequence[PolicyTable], false_alarm_rate: float
) -> dict[str, float]:
    """By tier, the largest share of its answers that the giant need not have given in any gear.

    Args:
        unseen: rows that the search did not see.
        policy: whose gears they are.
        gears: their policies.
        false_alarm_rate: over all tiers; half of it pays for not knowing the planned share exactly.
    """
    shares: dict[str, float] = {}
    for gear in gears:
        answers = planned_answers(unseen, searched_as(policy, gear))
        for tier, was in answers.items():
            if len(was.agrees) >= FEWEST_ROWS:
                found = tolerated_share(was.agrees, was.group, false_alarm_rate / len(answers))
                shares[tier] = max(found, shares.get(tier, 0.0))
    return shares


def kept_spread(rows: SampledRows) -> Spread:
    """What later logs are compared with, once cuts were fitted to these rows."""
    order = np.argsort(rows.confidence, kind="stable")
    mass = np.cumsum(rows.weight[order]) / rows.weight.sum()
    pick = np.searchsorted(mass, (np.arange(KEPT_QUANTILES) + 0.5) / KEPT_QUANTILES)
    return Spread(confidence=tuple(rows.confidence[order][pick].tolist()), rows=rows.effective)


def _spread_from(kept: Spread, cut: float) -> ConfidenceSpread:
    """Of the confidences from a cut up."""
    confidence = np.array(kept.confidence)
    above = confidence[confidence >= cut]
    rows = kept.rows * len(above) / len(confidence)
    return spread_of(above, np.ones(len(above)), rows) if len(above) else ConfidenceSpread(above, above, 0.0)
