"""Routing policies, and what they did on held-out rows."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from cascade_tools.artifacts.base import Artifact, Value
from cascade_tools.artifacts.calibration import Labels
from cascade_tools.runtime import plan as runtime_plan


class Route(Value):
    """The bands of one tier: `cuts` ascending, one destination per band, -1 = answer."""

    cuts: tuple[float, ...]
    to: tuple[int, ...]


class PolicyTable(Value):
    """A routing policy as one table; the rules are those of `runtime/policy.py`."""

    tiers: tuple[str, ...] = Field(min_length=1)
    routes: tuple[Route, ...]

    @model_validator(mode="after")
    def _routes_are_legal(self) -> Self:
        runtime_plan.parse_policy(self.model_dump(), "policy")
        return self


class PredictedPolicy(Value):
    """A policy with what it did on held-out rows.

    Attributes:
        accuracy: fraction of right answers.
        accuracy_drop: points below the reference; negative where the policy is better.
        accuracy_drop_bound: upper bound of the drop in points, at the objective's confidence.
        cost: mean over rows of the summed costs of the visited tiers, in `cost_unit`.
        latency_mean_ms: mean over rows of the summed times at batch 1, hops included; modelled, as are
            the quantiles; None where no latencies were given.
        energy_j: per row; None where it is not known.
        reach: share of rows that each tier sees; a tier that is not in the table has 0.
        answers: share of rows that each tier answers.
        answer_accuracy: share of right answers among those.
    """

    table: PolicyTable
    accuracy: float
    accuracy_drop: float
    accuracy_drop_bound: float
    cost: float
    reach: dict[str, float]
    answers: dict[str, float]
    answer_accuracy: dict[str, float] = Field(default_factory=dict)
    latency_mean_ms: float | None = None
    latency_p50_ms: float | None = None
    latency_p95_ms: float | None = None
    latency_p99_ms: float | None = None
    energy_j: float | None = None


class Spread(Value):
    """Where accepted confidences lay: evenly spaced quantiles, worth so many independent rows."""

    confidence: tuple[float, ...]
    rows: float


class Recalibrated(Value):
    """What a policy's cuts were fitted to again.

    Attributes:
        shadow_sha256: of the log.
        rows: of the log, by tier.
        first_time: seconds since the epoch, and `last_time` likewise.
        searched: the search's policies: the chosen one, then the alternatives.
        spread: by tier whose cut was fitted again, of the confidences in the log.
    """

    shadow_sha256: str
    rows: dict[str, int]
    first_time: float
    last_time: float
    searched: tuple[PolicyTable, ...]
    spread: dict[str, Spread]


class RoutingPolicy(Artifact):
    """The policy that the search chose, beside the reference alone.

    Attributes:
        chosen: its figures are from all held-out rows, its bound from the verify rows alone.
        alternatives: policies that keep the same promise, from the most careful to the chosen one.
        certified: `chosen` is within the allowance on rows that the search never saw.
        max_accuracy_drop: the allowance in points.
        recalibrated: where the cuts are not the search's; figures and promise are still for the plan's rows.
    """

    kind: Literal["policy"] = "policy"
    chosen: PredictedPolicy
    reference: PredictedPolicy
    alternatives: tuple[PredictedPolicy, ...]
    certified: bool
    max_accuracy_drop: float
    confidence: float
    labels: Labels = "target"
    cost_unit: str
    search_rows: int
    verify_rows: int
    recalibrated: Recalibrated | None = None


class Frontier(Artifact):
    """Policies of which none is both cheaper and more accurate than another, cheapest first."""

    kind: Literal["frontier"] = "frontier"
    cost_unit: str
    policies: tuple[PredictedPolicy, ...] = Field(min_length=1)
