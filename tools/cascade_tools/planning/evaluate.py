"""What a policy does with rows: every row is sent through the router's own `route`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cascade_tools.artifacts import PolicyTable, PredictedPolicy, Route, ScoreTable
from cascade_tools.planning.bounds import Groups, PairedSample, paired_sample
from cascade_tools.runtime.plan import parse_policy
from cascade_tools.runtime.policy import ANSWER, route

Array = npt.NDArray[np.float64]
QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


@dataclass(frozen=True)
class Question:
    """What is searched for. Sequences are in the table's order of tiers.

    Attributes:
        cost: one row's cost at each tier, in the unit of the objective.
        max_accuracy_drop: points below the reference; None where accuracy is what is maximised.
        reference: position of the tier that the drop is measured against.
        max_cost: bound of the mean cost, or None.
        latency_ms: one row's median time at each tier at batch 1, hops included.
        latency_spread_ms: how much longer the 99th percentile of that time is.
        max_latency_ms: bounds by `p50`, `p95` or `p99` of the routed path.
        energy_j: one row's energy at each tier, or None where it is not known.
        confidence: of the bound on the drop.
    """

    cost: tuple[float, ...]
    max_accuracy_drop: float | None = 1.0
    reference: int = -1
    max_cost: float | None = None
    latency_ms: tuple[float, ...] | None = None
    latency_spread_ms: tuple[float, ...] | None = None
    max_latency_ms: Mapping[str, float] = field(default_factory=dict)
    energy_j: tuple[float, ...] | None = None
    confidence: float = 0.95


class _Paths(NamedTuple):
    """What became of every row: label int64 [rows], and visited / answered bool [rows, tiers]."""

    label: npt.NDArray[np.int64]
    visited: npt.NDArray[np.bool_]
    answered: npt.NDArray[np.bool_]


def threshold_policy(tiers: Sequence[str], cuts: Sequence[float]) -> PolicyTable:
    """A policy without skips: tier i answers from `cuts[i]` up, the last always."""
    routes = [Route(cuts=(cut,), to=(level + 1, ANSWER)) for level, cut in enumerate(cuts)]
    return PolicyTable(tiers=tuple(tiers), routes=(*routes, Route(cuts=(), to=(ANSWER,))))


def follow(table: ScoreTable, policy: PolicyTable) -> _Paths:
    """Send every row through the policy."""
    parsed = parse_policy(policy.model_dump(), "policy")
    column = [table.tiers.index(tier) for tier in parsed.tiers]
    rows = len(table.target)
    level = np.zeros(rows, np.int64)
    label = np.zeros(rows, np.int64)
    visited = np.zeros((rows, len(table.tiers)), bool)
    answered = np.zeros((rows, len(table.tiers)), bool)
    for own, tier in enumerate(column):
        here = np.flatnonzero(level == own)
        goal = route(parsed.bands[own], table.confidence[here, tier])
        done = here[goal == ANSWER]
        label[done] = table.label[done, tier]
        level[here] = goal
        visited[here, tier] = True
        answered[done, tier] = True
    return _Paths(label, visited, answered)


class Evaluator:
    """Scores policies on one table; what does not depend on the policy is computed once.

    Latencies are modelled: quantiles over the rows of the summed medians of the visited tiers; the 99th
    percentile adds the largest spread among them. Waiting in queues is not in them.
    """

    def __init__(self, table: ScoreTable, question: Question) -> None:
        self.table = table
        self.question = question
        self._groups = Groups.of(table.group)
        self._reference_right = table.label[:, question.reference] == table.target

    @property
    def reference_policy(self) -> PolicyTable:
        """The reference alone."""
        return threshold_policy([self.table.tiers[self.question.reference]], [])

    def is_reference(self, policy: PolicyTable) -> bool:
        """The policy asks the reference and nobody else; its drop is 0 whatever the sample."""
        return policy.tiers == (self.table.tiers[self.question.reference],)

    def sample(self, policy: PolicyTable) -> PairedSample:
        """Policy and reference on the same rows, for the bound."""
        return self._sample(follow(self.table, policy).label == self.table.target)

    def _sample(self, right: npt.NDArray[np.bool_]) -> PairedSample:
        return paired_sample(self._reference_right.astype(np.float64) - right, self._groups)

    def bound_points(self, policy: PolicyTable) -> float:
        """Upper bound of the drop in points, at the question's confidence."""
        if self.is_reference(policy):
            return 0.0
        return 100.0 * self.sample(policy).upper_bound(self.question.confidence)

    def __call__(self, policy: PolicyTable) -> PredictedPolicy:
        """Accuracy, cost, latency and paths of a policy on all rows."""
        table, question = self.table, self.question
        paths = follow(table, policy)
        right = paths.label == table.target
        sample = self._sample(right)
        bound = 0.0 if self.is_reference(policy) else sample.upper_bound(question.confidence)
        reach = paths.visited.mean(axis=0)
        answered = paths.answered.sum(axis=0)
        latency = _latency_ms(paths.visited, question)
        return PredictedPolicy(
            table=policy,
            accuracy=float(right.mean()),
            accuracy_drop=100.0 * sample.drop,
            accuracy_drop_bound=100.0 * bound,
            cost=float(reach @ np.asarray(question.cost)),
            latency_mean_ms=latency.get("mean"),
            latency_p50_ms=latency.get("p50"),
            latency_p95_ms=latency.get("p95"),
            latency_p99_ms=latency.get("p99"),
            energy_j=None if question.energy_j is None else float(reach @ np.asarray(question.energy_j)),
            reach=_by_name(table, reach),
            answers=_by_name(table, answered / len(right)),
            answer_accuracy=_by_name(
                table, (paths.answered & right[:, None]).sum(axis=0) / np.maximum(answered, 1)
            ),
        )


def evaluate(table: ScoreTable, policy: PolicyTable, question: Question) -> PredictedPolicy:
    """One policy on all rows of a table; see `Evaluator`."""
    return Evaluator(table, question)(policy)


def _by_name(table: ScoreTable, values: Array) -> dict[str, float]:
    return dict(zip(table.tiers, values.tolist(), strict=True))


def _latency_ms(visited: npt.NDArray[np.bool_], question: Question) -> dict[str, float]:
    """Mean and quantiles over the rows; there are few different paths, so they are counted first."""
    if question.latency_ms is None:
        return {}
    weights = 1 << np.arange(visited.shape[1])
    codes, count = np.unique(visited @ weights, return_counts=True)
    paths = (codes[:, None] & weights) > 0
    median = paths @ np.asarray(question.latency_ms)
    slow = median
    if question.latency_spread_ms is not None:
        slow = median + (paths * np.asarray(question.latency_spread_ms)).max(axis=1)
    found = {"mean": float(median @ count / count.sum())}
    for name, share in QUANTILES.items():
        times = slow if name == "p99" else median
        order = np.argsort(times, kind="stable")
        index = np.searchsorted(np.cumsum(count[order]), share * count.sum() - 1e-9)
        found[name] = float(times[order][min(index, len(order) - 1)])
    return found
