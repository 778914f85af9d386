"""What the router reads at run time."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal, Self

from pydantic import Field, model_validator

from cascade_tools.artifacts.base import Artifact, Value
from cascade_tools.artifacts.calibration import AdoptedModel, InputSpec
from cascade_tools.artifacts.policy import PolicyTable
from cascade_tools.artifacts.profile import INLINE_ENTRY_MS
from cascade_tools.runtime import plan as runtime_plan


class LadderTier(Value):
    """What the router needs to know of one tier of the full ladder; see `TierInfo` in the runtime.

    Attributes:
        tolerated_disagreement: share of its answers that the last tier need not have given; None where
            nothing is planned for it.
        adopted: how a model is asked that Triton serves already; None for an exported one.
    """

    tier: str
    model: str
    sha256: str
    p50_ms: float
    p99_ms: float
    further_row_ms: float
    tolerated_disagreement: float | None = Field(default=None, gt=0.0, lt=1.0)
    adopted: AdoptedModel | None = None


class PlannedRates(Value):
    """The arrival rates that were planned for, as a histogram.

    Attributes:
        edges_rps: [bins + 1], rows/s, ascending; the last is the highest rate that is planned for.
        shares: [bins], share of time between two edges; they sum to 1.
        source: where they come from.
    """

    edges_rps: tuple[float, ...] = Field(min_length=2)
    shares: tuple[float, ...] = Field(min_length=1)
    source: Literal["histogram", "trace", "zipf", "measured"]

    @model_validator(mode="after")
    def _is_a_histogram(self) -> Self:
        if len(self.edges_rps) != len(self.shares) + 1:
            raise ValueError("edges_rps: one more than shares")
        if not all(low < high for low, high in pairwise(self.edges_rps)):
            raise ValueError("edges_rps: must grow from edge to edge")
        if not all(share >= 0.0 for share in self.shares) or not abs(sum(self.shares) - 1.0) < 1e-6:
            raise ValueError("shares: must be at least 0 and sum to 1")
        return self


class GearForecast(Value):
    """What the simulator says of a gear at one rate: modelled, all of it.

    Attributes:
        rate_rps: the steady rate (Poisson arrivals) that the other figures are for.
        p50_ms: latency of a request, waiting included; `p95_ms` and `p99_ms` likewise.
        energy_j: of one request, with the idle power of the devices where it is known; None where the
            tiers' energy is not known.
        busy_share: of the busiest device, 0..1.
    """

    rate_rps: float = Field(gt=0.0)
    p50_ms: float = Field(ge=0.0)
    p95_ms: float = Field(ge=0.0)
    p99_ms: float = Field(ge=0.0)
    energy_j: float | None = None
    busy_share: float = Field(ge=0.0)


class PlannedService(Value):
    """What was asked of the gears, and what is expected over the planned rates.

    The means are over requests: each bin counts with its share of time and its rate. Latency and energy are
    simulated at the upper edge of every bin.

    Attributes:
        slo: which figure is kept: `p95_ms`, `p99_ms`, `accuracy` or `energy_j`; `bound` is its value.
        accuracy: fraction of right answers.
        p95_ms: mean of the bins' p95, and `p99_ms` likewise.
        energy_j: of one request; None where it is not known.
        sustains_rps: what the placement sustains with the last gear.
    """

    slo: Literal["p95_ms", "p99_ms", "accuracy", "energy_j"]
    bound: float
    accuracy: float
    p95_ms: float
    p99_ms: float
    energy_j: float | None = None
    sustains_rps: float


class Gear(Value):
    """One policy and the arrival rates that it serves; the last gear has no upper rate.

    Attributes:
        min_queue: rows for which the first tier waits; 1 for none (CascadeServe's batch trigger).
        max_wait_ms: how long it waits for them at most.
        predicted: what it will do at its highest planned rate; None where that was not planned.
    """

    up_to_rps: float | None
    policy: PolicyTable
    min_queue: int = Field(ge=1)
    max_wait_ms: float = Field(ge=0.0)
    predicted_accuracy: float
    predicted_cost: float
    predicted: GearForecast | None = None


class FallbackGears(Value):
    """What serves while the tiers of `without` are broken; nothing is promised of it, no SLO either.

    Attributes:
        reach: share of all rows that each tier sees then.
        sustains_rps: the highest rate that is sustained so: by all instances, or where a device or a host
            takes these tiers with it, by what is left without the worst of them; None where it is not known.
    """

    without: tuple[str, ...]
    gears: tuple[Gear, ...]
    reach: dict[str, float] = Field(default_factory=dict)
    sustains_rps: float | None = None


class Hysteresis(Value):
    """When a slower gear may come back: never while `rate < alpha * queue` (CascadeServe: alpha = 8)."""

    alpha: float = Field(default=8.0, ge=0.0)
    window_ms: float = Field(default=100.0, gt=0.0)


class RouterLimits(Value):
    """Bounds of the router inside Triton.

    Attributes:
        rows_in_flight: admitted and unanswered rows; above it UNAVAILABLE at once.
        max_batch_size: of the router model, for the queue estimate.
        inline_entry_ms: a first tier that is planned to take longer is not called inside `execute`.
        escalation_threads: calls to later tiers that may be under way at once.
        shadow_share: share of the answered rows that is also shown to the last tier, where a log is kept.
        router_instances: processes that route; the limits are for all of them together.
    """

    rows_in_flight: int = Field(ge=1)
    max_batch_size: int = Field(ge=1)
    inline_entry_ms: float = Field(default=INLINE_ENTRY_MS, ge=0.0)
    escalation_threads: int = Field(default=16, ge=1, le=256)
    shadow_share: float = Field(default=0.01, ge=0.0, le=1.0)
    router_instances: int = Field(default=1, ge=1, le=64)


class GearPlan(Artifact):
    """All that the router needs at run time; read back by `runtime/plan.py`, the one parser.

    Attributes:
        rates: what was planned for, which `watch` holds against what arrives; None where nothing was said.
        service: of gears that were planned for an SLO.
    """

    kind: Literal["gear_plan"] = "gear_plan"
    inputs: tuple[InputSpec, ...]
    classes: int
    tokens: int | None = None
    probabilities: bool
    ladder: tuple[LadderTier, ...]
    gears: tuple[Gear, ...]
    fallbacks: tuple[FallbackGears, ...] = ()
    hysteresis: Hysteresis
    limits: RouterLimits
    cost_unit: str
    rates: PlannedRates | None = None
    service: PlannedService | None = None

    @model_validator(mode="after")
    def _router_accepts_it(self) -> Self:
        runtime_plan.parse_plan(self.model_dump(mode="json"))
        return self
