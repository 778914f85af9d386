"""Searches the accept thresholds: the cheapest policy whose accuracy drop is bounded.

HybridServe, Algorithm 1, but exact on a grid instead of sampled: for a subset of the tiers and a list of
cuts per tier, the accuracy, the cost and the disagreement with the reference of *every* combination of cuts
come from cumulative histograms. With k_j the correctness at level j, and because a row that reaches level j
has been refused by all before it,

    right(q) = sum k_0 + sum_j C_j[k_j - k_(j-1)](q_0 .. q_(j-1)),

where C_j sums over the rows whose confidences at levels 0 .. j-1 are all below the cuts q. Cost and
disagreement telescope alike. The grid is then refined around the best combination. Every subset of the
tiers is tried, so tiers that do not pay are left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.stats import norm

from cascade_tools.artifacts import (
    FloatArray,
    PolicyTable,
    PredictedPolicy,
    Route,
    ScoreTable,
)
from cascade_tools.runtime.plan import parse_policy
from cascade_tools.runtime.policy import ANSWER, route

Array = npt.NDArray[np.float64]

MAX_GRID_CELLS = 400_000
MAX_CUTS = 60
REFINEMENTS = 2
FRONTIER_SIZE = 60


@dataclass(frozen=True)
class Question:
    """What is searched for.

    Attributes:
        cost: one row's cost at each tier, in the table's order of tiers.
        latency_ms: one row's time at each tier at batch 1, for the prediction.
        max_accuracy_drop: points below the last tier.
        confidence: of the one-sided bound on that drop.
    """

    cost: tuple[float, ...]
    latency_ms: tuple[float, ...]
    max_accuracy_drop: float
    confidence: float


@dataclass(frozen=True)
class Answer:
    """The cheapest policy within the bound, the reference alone, and the frontier, cheapest first."""

    chosen: PredictedPolicy
    reference: PredictedPolicy
    frontier: tuple[PredictedPolicy, ...]


class _Point(NamedTuple):
    """One combination of cuts of one subset, with its figures from the grid."""

    cost: float
    accuracy: float
    subset: tuple[int, ...]
    cuts: tuple[float, ...]

    def policy(self, tiers: Sequence[str]) -> PolicyTable:
        return threshold_policy([tiers[i] for i in self.subset], self.cuts)


@dataclass(frozen=True)
class _Grid:
    """Everything about all combinations of cuts of one subset; arrays have one axis per cut."""

    subset: tuple[int, ...]
    cuts: tuple[FloatArray, ...]
    accuracy: Array
    cost: Array
    drop_bound: Array

    def points(self, flat: npt.NDArray[np.intp]) -> list[_Point]:
        """The combinations of flat indices, as values that outlive the arrays."""
        where = np.unravel_index(flat, self.accuracy.shape) if self.cuts else ()
        chosen = [values[index].tolist() for values, index in zip(self.cuts, where, strict=True)]
        cuts = list(zip(*chosen, strict=True)) if chosen else [()] * len(flat)
        cost, accuracy = self.cost.ravel()[flat].tolist(), self.accuracy.ravel()[flat].tolist()
        return [_Point(c, a, self.subset, k) for c, a, k in zip(cost, accuracy, cuts, strict=True)]

    def cheapest_within(self, question: Question) -> list[_Point]:
        flat = np.flatnonzero(self.drop_bound <= question.max_accuracy_drop / 100.0)
        order = np.lexsort((-self.accuracy.ravel()[flat], self.cost.ravel()[flat]))[:FRONTIER_SIZE]
        return self.points(flat[order])

    def front(self) -> list[_Point]:
        cost, accuracy = self.cost.ravel(), self.accuracy.ravel()
        return self.points(_front(cost, accuracy))


def threshold_policy(tiers: Sequence[str], cuts: Sequence[float]) -> PolicyTable:
    """A policy without skips: tier i answers from `cuts[i]` up, the last always."""
    routes = [Route(cuts=(cut,), to=(level + 1, ANSWER)) for level, cut in enumerate(cuts)]
    return PolicyTable(tiers=tuple(tiers), routes=(*routes, Route(cuts=(), to=(ANSWER,))))


def search(table: ScoreTable, question: Question) -> Answer:
    """Find the cheapest policy and the frontier.

    Deterministic. Ties in cost go to the higher accuracy.

    Args:
        table: rows that the heads were not fitted on.
        question: costs and the allowance.
    """
    right = (table.label == table.target[:, None]).astype(np.float64)
    confidence = np.where(np.isnan(table.confidence), np.float32(0.0), table.confidence)
    ladder = range(len(table.tiers))
    reference = evaluate(table, threshold_policy(table.tiers[-1:], []), question)
    candidates: list[_Point] = []
    front: list[_Point] = []
    for size in range(1, len(table.tiers) + 1):
        for subset in combinations(ladder, size):
            for grid in _search_subset(confidence, right, subset, question):
                candidates += grid.cheapest_within(question)
                front += grid.front()
    best = _cheapest_that_holds(table, candidates, question) or reference
    chosen = min(best, reference, key=lambda policy: (policy.cost, -policy.accuracy))
    return Answer(chosen, reference, _frontier(table, front, question, [chosen, reference]))


def evaluate(table: ScoreTable, policy: PolicyTable, question: Question) -> PredictedPolicy:
    """Send every row through the policy with the router's own `route`.

    The bound on the drop is paired (policy and reference answer the same rows) and counts whole groups:
    mean + z * standard error of the group sums, with z^2 pseudo-disagreements so that a sample without
    any disagreement does not promise certainty. A policy that only asks the reference has drop 0.
    """
    parsed = parse_policy(policy.model_dump(), "policy")
    column = [table.tiers.index(tier) for tier in parsed.tiers]
    rows = len(table.target)
    level = np.zeros(rows, np.int64)
    label = np.zeros(rows, np.int64)
    seen = np.zeros(len(table.tiers))
    answered = np.zeros(len(table.tiers))
    for own, tier in enumerate(column):
        here = np.flatnonzero(level == own)
        goal = route(parsed.bands[own], table.confidence[here, tier])
        done = here[goal == ANSWER]
        label[done] = table.label[done, tier]
        level[here] = goal
        seen[tier] += len(here)
        answered[tier] += len(done)
    right = label == table.target
    reference_right = table.label[:, -1] == table.target
    lost = reference_right.astype(np.float64) - right.astype(np.float64)
    only_reference = column == [len(table.tiers) - 1]
    bound = 0.0 if only_reference else _drop_bound(lost, table.group, question.confidence)
    reach = seen / rows
    names = table.tiers
    return PredictedPolicy(
        table=policy,
        accuracy=float(right.mean()),
        accuracy_drop=100.0 * float(lost.mean()),
        accuracy_drop_bound=100.0 * bound,
        cost=float(reach @ np.asarray(question.cost)),
        latency_mean_ms=float(reach @ np.asarray(question.latency_ms)),
        reach={name: float(share) for name, share in zip(names, reach, strict=True)},
        answers={name: float(n) / rows for name, n in zip(names, answered, strict=True)},
    )


def _drop_bound(lost: Array, group: npt.NDArray[np.int64], confidence: float) -> float:
    """One-sided upper bound on the mean of `lost`, with groups as the unit of sampling."""
    z = float(norm.ppf(confidence))
    rows = len(lost)
    mean = float(lost.mean())
    _, member = np.unique(group, return_inverse=True)
    sums = np.bincount(member, weights=lost - mean)
    variance = (float(sums @ sums) + z * z) / rows**2
    return float(mean + z * np.sqrt(variance))


def _search_subset(
    confidence: FloatArray, right: Array, subset: tuple[int, ...], question: Question
) -> Iterator[_Grid]:
    """The whole grid of one subset, then finer grids around its best combination."""
    levels = len(subset) - 1
    if levels == 0:
        yield _tabulate(confidence, right, subset, (), question)
        return
    cuts_per_level = max(2, min(MAX_CUTS, int(MAX_GRID_CELLS ** (1.0 / levels))))
    windows = [(-np.inf, np.inf)] * levels
    for _ in range(1 + REFINEMENTS):
        cuts = tuple(
            _cuts(confidence[:, tier], window, cuts_per_level)
            for tier, window in zip(subset, windows, strict=False)
        )
        if any(len(values) == 0 for values in cuts):
            break
        grid = _tabulate(confidence, right, subset, cuts, question)
        yield grid
        best = _best_index(grid, question)
        if best is None:
            break
        where = [int(i) for i in np.unravel_index(best, grid.cost.shape)]
        windows = [
            (float(values[max(i - 1, 0)]), float(values[min(i + 1, len(values) - 1)]))
            for values, i in zip(cuts, where, strict=True)
        ]


def _cuts(values: FloatArray, window: tuple[float, float], count: int) -> FloatArray:
    """At most `count` of the values that occur inside the window, evenly spread over its rows."""
    inside: FloatArray = np.sort(values[(values >= window[0]) & (values <= window[1])])
    if not len(inside):
        return inside
    pick = np.linspace(0, len(inside) - 1, min(count, len(inside))).round().astype(int)
    cuts: FloatArray = np.unique(inside[pick])
    return cuts


def _tabulate(
    confidence: FloatArray,
    right: Array,
    subset: tuple[int, ...],
    cuts: tuple[FloatArray, ...],
    question: Question,
) -> _Grid:
    rows = len(right)
    reference = right[:, -1]
    shape = tuple(len(values) for values in cuts)
    first = right[:, subset[0]]
    good: Array = np.full(shape, first.sum())
    differ: Array = np.full(shape, (first != reference).sum(), np.float64)
    cost: Array = np.full(shape, question.cost[subset[0]] * rows)
    # Row r is refused at a level by cut number q or above, where q = below[level][r].
    below = [
        np.searchsorted(values, confidence[:, tier], side="right")
        for tier, values in zip(subset, cuts, strict=False)
    ]
    for level in range(1, len(subset)):
        here, before = right[:, subset[level]], right[:, subset[level - 1]]
        open_axes = shape[:level]
        refused = np.ones(rows, bool)
        for axis in range(level):
            refused &= below[axis] < shape[axis]
        if not refused.any():
            continue
        cell = np.ravel_multi_index([below[axis][refused] for axis in range(level)], open_axes)
        cells = _Cells(cell, open_axes, len(shape))
        here, before = here[refused], before[refused]
        good = good + cells.cumulate(here - before)
        wanted = reference[refused]
        differ = differ + cells.cumulate((here != wanted).astype(np.float64) - (before != wanted))
        cost = cost + question.cost[subset[level]] * cells.cumulate(np.ones(len(cell)))
    drop = (reference.sum() - good) / rows
    z = float(norm.ppf(question.confidence))
    spread = np.maximum(differ / rows - drop**2, 0.0) + z * z / rows
    bound = drop + z * np.sqrt(spread / rows)
    if subset == (right.shape[1] - 1,):
        bound = np.zeros(shape)
    return _Grid(subset, cuts, good / rows, cost / rows, bound)


class _Cells(NamedTuple):
    """The grid cell of every row that somebody refused, over the first axes of a grid of `axes` axes."""

    cell: npt.NDArray[np.intp]
    shape: tuple[int, ...]
    axes: int

    def cumulate(self, weight: Array) -> Array:
        """Sum of the rows' weights below every combination of cuts; broadcasts over the other axes."""
        sums = np.bincount(self.cell, weight, math.prod(self.shape))
        table: Array = np.asarray(sums, np.float64).reshape(self.shape)
        for axis in range(len(self.shape)):
            table = np.cumsum(table, axis=axis, dtype=np.float64)
        return table.reshape(self.shape + (1,) * (self.axes - len(self.shape)))


def _best_index(grid: _Grid, question: Question) -> int | None:
    feasible = grid.drop_bound <= question.max_accuracy_drop / 100.0
    if not feasible.any():
        return None
    return int(np.argmin(np.where(feasible, grid.cost, np.inf)))


def _cheapest_that_holds(
    table: ScoreTable, candidates: list[_Point], question: Question
) -> PredictedPolicy | None:
    """Check candidates by rising cost with the grouped bound; the grids only know the plain one."""
    for point in sorted(candidates, key=lambda point: (point.cost, -point.accuracy)):
        policy = evaluate(table, point.policy(table.tiers), question)
        if policy.accuracy_drop_bound <= question.max_accuracy_drop:
            return policy
    return None


def _front(cost: Array, accuracy: Array) -> npt.NDArray[np.intp]:
    """Indices of the points that no other beats, by rising cost and accuracy."""
    order = np.lexsort((-accuracy, cost))
    best_before = np.concatenate([[-np.inf], np.maximum.accumulate(accuracy[order])[:-1]])
    return np.asarray(order[accuracy[order] > best_before])


def _frontier(
    table: ScoreTable, points: list[_Point], question: Question, always: list[PredictedPolicy]
) -> tuple[PredictedPolicy, ...]:
    """Non-dominated policies on cost and accuracy, thinned evenly along the accuracy."""
    front = _front(np.array([p.cost for p in points]), np.array([p.accuracy for p in points]))
    if len(front) > FRONTIER_SIZE:
        front = front[np.linspace(0, len(front) - 1, FRONTIER_SIZE).round().astype(int)]
    policies = [evaluate(table, points[i].policy(table.tiers), question) for i in front.tolist()]
    known = {policy.table: policy for policy in [*policies, *always]}
    return tuple(
        policy
        for policy in sorted(known.values(), key=lambda p: (p.cost, -p.accuracy))
        if not any(_dominates(other, policy) for other in known.values())
    )


def _dominates(one: PredictedPolicy, other: PredictedPolicy) -> bool:
    no_worse = one.cost <= other.cost and one.accuracy >= other.accuracy
    return no_worse and (one.cost < other.cost or one.accuracy > other.accuracy)
