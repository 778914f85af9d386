"""New accept cuts for drifted traffic, from rows that tier and giant both labelled.

Of the rows that a tier answers, it may differ from the giant on as large a share as the plan tolerates.
Where the log does not contradict that, the cut stays; else the new one is the lowest from which up the logged
rows keep the share. Where the log holds rows from below, it may fall again, down to where it was searched.
What goes where below the cut stays as it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from cascade_tools.artifacts import PolicyTable, Route, ScoreTable
from cascade_tools.planning.drift import SampledRows
from cascade_tools.planning.evaluate import follow
from cascade_tools.runtime.policy import ANSWER


@dataclass(frozen=True)
class NewCut:
    """The cut from which a tier answers.

    Attributes:
        planned: so far.
        cut: from now on.
        tolerated: share of the tier's answers that the giant need not have given.
        disagreement: the same in the log, with the new cut; 0 where it answers nothing.
        kept: share of its answers in the log that the tier still gives.
    """

    tier: str
    planned: float
    cut: float
    tolerated: float
    disagreement: float
    kept: float


@dataclass(frozen=True)
class PlannedAnswers:
    """What a policy's tier answered on the plan's rows: [rows] each."""

    confidence: npt.NDArray[np.float64]
    agrees: npt.NDArray[np.bool_]
    group: npt.NDArray[np.int64]

    def from_confidence(self, cut: float) -> PlannedAnswers:
        """The rows of at least this confidence."""
        keep = self.confidence >= cut
        return PlannedAnswers(self.confidence[keep], self.agrees[keep], self.group[keep])


def planned_answers(table: ScoreTable, policy: PolicyTable) -> dict[str, PlannedAnswers]:
    """By tier that answers from a cut up; the last agrees with itself and is left out."""
    answered = follow(table, policy).answered
    found = {}
    for tier, route in zip(policy.tiers, policy.routes, strict=True):
        if accept_cut(route) is None:
            continue
        own = table.tiers.index(tier)
        mine = answered[:, own]
        found[tier] = PlannedAnswers(
            np.nan_to_num(table.confidence[mine, own]).astype(np.float64),
            table.label[mine, own] == table.label[mine, -1],
            table.group[mine],
        )
    return found


def accept_cut(route: Route) -> float | None:
    """The confidence from which up a tier answers, as the router sees it; None for nothing or everything."""
    if not route.cuts or route.to[-1] != ANSWER or route.cuts[-1] > 1.0:
        return None
    return float(np.float32(route.cuts[-1]))


def refit(
    policy: PolicyTable,
    searched: PolicyTable,
    tolerated: Mapping[str, float],
    logged: Mapping[str, SampledRows],
    at_least: Mapping[str, float] = MappingProxyType({}),
) -> tuple[PolicyTable, tuple[NewCut, ...]]:
    """The policy with new accept cuts, and what changed.

    Args:
        policy: in use.
        searched: the same before any cut was fitted again; no cut falls below its.
        tolerated: by tier, the share of its answers that the giant need not have given.
        logged: by tier; a tier without rows keeps its cut.
        at_least: by tier, where a cut may not be lower: those of a policy that gives up more accuracy.
    """
    routes, changed = list(policy.routes), []
    for own, tier in enumerate(policy.tiers):
        old = policy.routes[own]
        cut, rows = accept_cut(old), logged.get(tier)
        if cut is None or rows is None or not len(rows):
            continue
        lowest = accept_cut(searched.routes[own])
        new = _lowest_cut(rows, cut, cut if lowest is None else lowest, tolerated[tier])
        new = max(new, at_least.get(tier, new))
        above, kept = rows.where(rows.confidence >= cut), rows.where(rows.confidence >= new)
        changed.append(
            NewCut(
                tier=tier,
                planned=cut,
                cut=new,
                tolerated=tolerated[tier],
                disagreement=kept.disagreement,
                kept=min(1.0, float(kept.weight.sum() / above.weight.sum())) if len(above) else 0.0,
            )
        )
        routes[own] = Route(cuts=(*(min(low, new) for low in old.cuts[:-1]), new), to=old.to)
    return PolicyTable(tiers=policy.tiers, routes=tuple(routes)), tuple(changed)


def _lowest_cut(rows: SampledRows, now: float, lowest: float, share: float) -> float:
    """The lowest cut with at most `share` of disagreements above it.

    Where the cut has to rise, one disagreement more is counted than was seen.
    """
    order = np.argsort(-rows.confidence, kind="stable")
    order = order[rows.confidence[order] >= lowest]
    confidence, weight = rows.confidence[order], rows.weight[order]
    if not len(confidence):
        return now
    differ, total = np.cumsum(weight * ~rows.agrees[order]), np.cumsum(weight)
    last_of_equal = np.append(confidence[1:] < confidence[:-1], True)
    above = confidence >= now
    if not above.any() or differ[above][-1] <= share * total[above][-1]:
        fine = np.flatnonzero((differ <= share * total) & last_of_equal & ~above)
        return float(confidence[fine[-1]]) if len(fine) else now
    one = weight.mean()
    good = np.flatnonzero((differ + one <= share * (total + one)) & last_of_equal & above)
    if not len(good):
        return float(np.nextafter(np.float32(1.0), np.float32(2.0)))
    return float(confidence[good[-1]])
