"""The types that flow from stage to stage, as they stand on disk.

All are frozen and refuse unknown fields. `made_from` holds the digest of everything that a stage read, by
name; `cascade-tools status` compares it with what is there now.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Literal, NamedTuple, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from cascade_tools.runtime import head as runtime_head
from cascade_tools.runtime import plan as runtime_plan
from cascade_tools.spec import Format, Gives

Labels = Literal["target", "giant"]  # what counts as right: the data's labels, or the last tier's answers
Origin = Literal["measured", "modelled", "given"]
Figure = Literal["time", "utilization", "memory"]
TimedBy = Literal["process", "perf_analyzer", "client"]
UtilizationBy = Literal["cpu_time", "cupti", "nvml"]
INLINE_ENTRY_MS = 2.0  # a tier of `LOCAL_FORMATS` that takes no longer may run in the router's process
LOCAL_FORMATS = ("onnx", "onnx_fp16")
Signal = Literal["max_probability", "margin", "entropy"]
FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


class Artifact(_Value):
    """What every stage's file has in common."""

    kind: str
    format: Literal[1] = 1
    cascade: str
    made_from: dict[str, str]


class ReliabilityBin(_Value):
    """Mean confidence and share of right answers in one of ten bins of equal mass."""

    confidence: float
    right: float


class Reliability(_Value):
    """How well a confidence tells the share of right answers, on rows that the head was not fitted on.

    Attributes:
        ece: over bins of equal mass; `ece_equal_width` over bins of equal width.
        nll: negative log-likelihood of the classes at the head's temperature.
        brier: mean square of confidence minus being right.
        auroc: of the confidence for being right; None if all rows agree.
        bins: for the diagram, by rising confidence.
    """

    ece: float
    ece_equal_width: float
    nll: float
    brier: float
    auroc: float | None
    bins: tuple[ReliabilityBin, ...] = ()


class CalibratedTier(_Value):
    """The confidence head of one tier, and what it was worth."""

    tier: str
    method: Literal["temperature", "platt", "isotonic", "none"]
    signal: Signal
    temperature: float = Field(gt=0.0)
    curve: runtime_head.Curve | None = None
    accuracy: float
    before: Reliability
    after: Reliability


class InputSpec(_Value):
    """One model input, without the batch dimension; `datatype` as requests write it, -1 for any size."""

    name: str
    datatype: str
    dims: tuple[int, ...]


class AdoptedInput(_Value):
    """The cascade's input `name` is the model's `model_input`, which takes `datatype`."""

    name: str
    model_input: str
    datatype: str


class AdoptedCall(_Value):
    """How a model that Triton already serves is asked; see `Adopted` in the runtime."""

    inputs: tuple[AdoptedInput, ...]
    output: str
    gives: Gives


class AdoptedTier(AdoptedCall):
    """An adopted tier as the server described it.

    Attributes:
        sha256: of the model's files, or of what the server says where these are not at hand.
        instances: that its owner gives it; None where the server does not say.
    """

    tier: str
    model: str
    sha256: str
    instances: int | None = Field(default=None, ge=1)


class AdoptedModel(AdoptedCall):
    """An adopted tier as the router asks it: with the head that it applies."""

    temperature: float = Field(gt=0.0)
    signal: Signal
    curve: runtime_head.Curve | None
    mask: str | None


class Calibration(Artifact):
    """One fitted head per tier, and the shape of the problem that running the models showed.

    Attributes:
        tokens: labels per row; None where a row has one.
        mask: the input that says which tokens count; None for all.
        adopted: the tiers whose models Triton already serves.
    """

    kind: Literal["calibration"] = "calibration"
    inputs: tuple[InputSpec, ...]
    classes: int
    tokens: int | None = None
    mask: str | None = None
    labels: Labels = "target"
    rows: dict[str, int]
    tiers: tuple[CalibratedTier, ...]
    adopted: tuple[AdoptedTier, ...] = ()

    def tier(self, name: str) -> CalibratedTier:
        """The head of the tier of this name."""
        return next(tier for tier in self.tiers if tier.tier == name)

    def adopted_tier(self, name: str) -> AdoptedTier | None:
        """The adopted tier of this name; None for one that is exported."""
        return next((tier for tier in self.adopted if tier.tier == name), None)


ExportPath = Annotated[str, Field(pattern=r"^export/[A-Za-z0-9][A-Za-z0-9_.-]*$")]


class ExportedFile(_Value):
    """One written file, relative to the cascade's build folder."""

    file: ExportPath
    sha256: str


class HalfPrecision(_Value):
    """What half precision changed, on validation rows that heads were not fitted on.

    Of `onnx_fp16` it is what a GPU computes, every value between operators rounded; of `tensorrt` the plan's.

    Attributes:
        rows: that were compared.
        labels_changed: rows (of tokens: rows with a token) of another label than in float32.
        ece_before: of the float32 source with its head, over bins of equal mass; None where the labels of
            the rows are not at hand (tokens that the last tier labelled).
        ece_after: of the exported model.
    """

    rows: int
    labels_changed: int
    ece_before: float | None
    ece_after: float | None


class ExportedStage(_Value):
    """One stage of a tier that was cut: a model that the next one goes on from.

    Attributes:
        number: from 1.
        beside: what `file` refers to.
        inputs: tensors without the batch dimension, `outputs` likewise.
        weights_mib: of its initializers.
        time_ms: median of one batch of `Partition.batch` rows in process, on one thread.
        crossing_bytes: per row, of all that goes over the cut behind it; 0 for the last stage.
    """

    number: int = Field(ge=1)
    file: ExportPath
    sha256: str
    beside: tuple[ExportedFile, ...] = ()
    inputs: tuple[InputSpec, ...]
    outputs: tuple[InputSpec, ...]
    weights_mib: float = Field(ge=0.0)
    time_ms: float = Field(gt=0.0)
    crossing_bytes: int = Field(ge=0)

    @property
    def files(self) -> tuple[ExportedFile, ...]:
        """All files, `file` first."""
        return (ExportedFile(file=self.file, sha256=self.sha256), *self.beside)


class Partition(_Value):
    """How a tier was cut into stages, and what that was worth.

    Attributes:
        batch: rows of the timed batches.
        whole_ms: median of one batch by the whole graph, as `ExportedStage.time_ms`.
        balance: time of the slowest stage over the mean of all; 1 is even.
        label_mismatches: of the stages against the whole graph, on the rows of the parity check.
        confidence_error: the largest difference of the confidences.
    """

    stages: tuple[ExportedStage, ...] = Field(min_length=2)
    batch: int = Field(ge=1)
    whole_ms: float = Field(gt=0.0)
    balance: float = Field(ge=1.0)
    label_mismatches: int
    confidence_error: float


class ExportedTier(_Value):
    """One exported model: the user's, with its head.

    Attributes:
        file: the whole model, also where it is cut into stages.
        beside: what belongs to `file`: weights over 2 GiB, or the record of a TensorRT plan.
        parity_label_mismatches: of the file as it ran here: labels other than the source's, ties apart.
        parity_confidence_error: the largest difference of the confidences, likewise.
        half: of formats in half precision.
        partition: of a tier that is served in stages.
    """

    tier: str
    format: Format
    file: ExportPath
    sha256: str
    beside: tuple[ExportedFile, ...] = ()
    parameters: int
    parity_rows: int
    parity_label_mismatches: int
    parity_confidence_error: float
    half: HalfPrecision | None = None
    partition: Partition | None = None

    @property
    def files(self) -> tuple[ExportedFile, ...]:
        """All files, `file` first, those of stages last."""
        stages = self.partition.stages if self.partition else ()
        own = ExportedFile(file=self.file, sha256=self.sha256)
        return (own, *self.beside, *(entry for stage in stages for entry in stage.files))

    @property
    def digest(self) -> str:
        """Of all files: that of `file` where it is alone."""
        if len(self.files) == 1:
            return self.sha256
        return hashlib.sha256("\n".join(entry.sha256 for entry in self.files).encode()).hexdigest()


class TensorRTPlan(_Value):
    """What a TensorRT plan was built by, on and from; it runs nowhere else.

    Attributes:
        tensorrt: version, all four parts.
        gpu: name as NVML gives it.
        compute_capability: such as `9.0`.
        flags: of the builder, by name.
        onnx_sha256: of the graph in half precision that it was built from.
        min_batch: of the one optimization profile, whose other dimensions are fixed; `opt_batch`,
            `max_batch` likewise.
    """

    kind: Literal["tensorrt_plan"] = "tensorrt_plan"
    tensorrt: str
    gpu: str
    compute_capability: str
    flags: tuple[str, ...]
    onnx_sha256: str
    min_batch: int = Field(ge=1)
    opt_batch: int = Field(ge=1)
    max_batch: int = Field(ge=1)


class Exported(Artifact):
    """The exported tiers, without the adopted ones, and the versions that exported them."""

    kind: Literal["exported"] = "exported"
    tiers: tuple[ExportedTier, ...]
    environment: dict[str, str]

    def tier(self, name: str) -> ExportedTier:
        """The exported graph of the tier of this name."""
        return next(tier for tier in self.tiers if tier.tier == name)


class ProfilePoint(_Value):
    """One measured (or modelled, or given) point of one tier.

    Attributes:
        instances: that ran at the same time, each with this batch.
        latency_p50_ms: one whole batch, without client and network; `latency_p99_ms` likewise, None where a
            given table does not say.
        latency_spread: of the medians of the repetitions, (largest - smallest) / median; None if not known.
        overhead_ms: what the server counts for a batch beyond the model: no part of `latency_p50_ms`, but of
            the hop; None in process.
        client_p50_ms: one whole batch as a client saw it; None in process.
        queue_ms: mean wait in the server before the batch began; None in process.
        throughput_rps: rows per second of all `instances`.
        cpu_ms_per_row: CPU time of the process over rows.
        memory_mib: what one instance holds by itself.
        shared_mib: what all instances on one device hold once, such as the weights of a static plan.
        kernel_utilization: (0, 1]; on a CPU device, CPU seconds over wall seconds and the device's cores.
        energy_j: dynamic energy of one row, or None where no meter and no watts are known.
        origin: of the times, the memory and the utilization.
        modelled: which of these are modelled all the same, in a point that is given.
        energy_origin: of `energy_j`.
        timed_by: who took the times; `process` is ONNX Runtime or torch without a server.
        utilization_by: what the utilization comes from.
    """

    tier: str
    format: str
    device: str
    batch: int = Field(ge=1)
    instances: int = Field(default=1, ge=1)
    latency_p50_ms: float = Field(gt=0.0)
    latency_p99_ms: float | None = Field(gt=0.0)
    latency_spread: float | None = Field(default=None, ge=0.0)
    overhead_ms: float | None = Field(default=None, ge=0.0)
    client_p50_ms: float | None = Field(default=None, gt=0.0)
    queue_ms: float | None = Field(default=None, ge=0.0)
    throughput_rps: float = Field(gt=0.0)
    cpu_ms_per_row: float | None
    memory_mib: float = Field(ge=0.0)
    shared_mib: float = Field(default=0.0, ge=0.0)
    kernel_utilization: float = Field(gt=0.0, le=1.0)
    energy_j: float | None
    origin: Origin
    modelled: tuple[Figure, ...] = ()
    energy_origin: Origin | None
    timed_by: TimedBy | None = None
    utilization_by: UtilizationBy | None = None

    @model_validator(mode="after")
    def _energy_has_an_origin(self) -> Self:
        if (self.energy_j is None) != (self.energy_origin is None):
            raise ValueError("energy_j and energy_origin go together")
        return self

    @property
    def latency_tail_ms(self) -> float:
        """The p99, or the median where no p99 is known."""
        return self.latency_p50_ms if self.latency_p99_ms is None else self.latency_p99_ms


class Hop(_Value):
    """What asking a tier costs the router beside the tier's own work.

    Attributes:
        latency_ms: median of calls through the server, one after the other.
        cpu_ms: CPU time of all server processes per such call, under load.
        step_ms: of a tier that the router runs in its own process: latency and CPU time alike.
    """

    latency_ms: float = Field(gt=0.0)
    cpu_ms: float = Field(ge=0.0)
    step_ms: float = Field(ge=0.0)
    origin: Origin


class AskCost(NamedTuple):
    """What asking one tier costs beside its own work: latency and CPU time of one call."""

    latency_ms: float
    cpu_ms: float


class Profile(Artifact):
    """All points, and the machine they come from; `hop` is None where no server could be started.

    Attributes:
        instances: of the adopted tiers, which no placement changes.
        idle_watts: of each device type whose meter could be read: what it draws without work.
        energy_meter: the name of the meter behind `energy_origin: measured`; None without one.
        graphs: by tier, the SHA-256 of the exported graph that was measured; nothing for given points.
    """

    kind: Literal["profile"] = "profile"
    environment: dict[str, str]
    points: tuple[ProfilePoint, ...]
    hop: Hop | None
    instances: dict[str, int] = Field(default_factory=dict)
    idle_watts: dict[str, float] = Field(default_factory=dict)
    energy_meter: str | None = None
    graphs: dict[str, str] = Field(default_factory=dict)

    def points_of(self, tier: str, device: str | None = None) -> tuple[ProfilePoint, ...]:
        """The points of one tier with one instance, by batch size.

        Args:
            tier: its name.
            device: type of the device; default: the tier's first one.
        """
        mine = [point for point in self.points if point.tier == tier and point.instances == 1]
        if mine and device is None:
            device = mine[0].device
        return tuple(sorted((p for p in mine if p.device == device), key=lambda point: point.batch))

    def ask_cost(self, tier: str) -> AskCost:
        """What it costs to ask a tier where the embedded server runs the cascade; 0 where none does."""
        if self.hop is None:
            return AskCost(0.0, 0.0)
        alone = self.at(tier, 1)
        if alone.format in LOCAL_FORMATS and alone.latency_p50_ms <= INLINE_ENTRY_MS:
            return AskCost(self.hop.step_ms, self.hop.step_ms)
        # What the server adds to this tier's row, where that is more than a call that does nothing.
        return AskCost(max(self.hop.latency_ms, alone.overhead_ms or 0.0), self.hop.cpu_ms)

    def at(self, tier: str, batch: int, device: str | None = None) -> ProfilePoint:
        """The point of the largest profiled batch that is not above `batch`."""
        points = self.points_of(tier, device)
        return max((p for p in points if p.batch <= batch), key=lambda p: p.batch, default=points[0])


class ScoreTable(_Value):
    """What every tier says of every held-out row. After this no model runs in the planning chain.

    Attributes:
        tiers: names, smallest first.
        confidence: float32 [rows, tiers]; NaN counts as 0.
        label: int64 [rows, tiers], each tier's answer.
        target: int64 [rows].
        group: int64 [rows]; rows of one source share a number.
        split: str [rows]: `fit` (heads), `search` (policies) or `verify` (the promise).
    """

    tiers: tuple[str, ...]
    confidence: FloatArray
    label: IntArray
    target: IntArray
    group: IntArray
    split: npt.NDArray[np.str_]

    @model_validator(mode="after")
    def _shapes_agree(self) -> Self:
        rows, tiers = len(self.target), len(self.tiers)
        for field, shape in (
            ("target", (rows,)),
            ("confidence", (rows, tiers)),
            ("label", (rows, tiers)),
            ("group", (rows,)),
            ("split", (rows,)),
        ):
            found = getattr(self, field).shape
            if found != shape:
                raise ValueError(f"{field} must have shape {shape}, found {found}")
        if rows == 0:
            raise ValueError("the table has no rows")
        if not tiers or len(set(self.tiers)) < tiers:
            raise ValueError(f"tier: needs at least one name, and none twice; found {list(self.tiers)}")
        if np.isinf(self.confidence).any():
            raise ValueError("confidence must be finite, or NaN for none")
        unknown = sorted(set(np.unique(self.split).tolist()) - {"fit", "search", "verify"})
        if unknown:
            raise ValueError(f"split: {unknown[0]!r} is none of fit, search and verify")
        return self

    def part(self, split: str) -> ScoreTable:
        """The rows of one split."""
        return self.where(self.split == split)

    def where(self, keep: npt.NDArray[np.bool_]) -> ScoreTable:
        """The rows for which `keep` is true."""
        return self.model_copy(
            update={
                name: getattr(self, name)[keep]
                for name in ("confidence", "label", "target", "group", "split")
            }
        )


class Route(_Value):
    """The bands of one tier: `cuts` ascending, one destination per band, -1 = answer."""

    cuts: tuple[float, ...]
    to: tuple[int, ...]


class PolicyTable(_Value):
    """A routing policy as one table; the rules are those of `runtime/policy.py`."""

    tiers: tuple[str, ...] = Field(min_length=1)
    routes: tuple[Route, ...]

    @model_validator(mode="after")
    def _routes_are_legal(self) -> Self:
        runtime_plan.parse_policy(self.model_dump(), "policy")
        return self


class PredictedPolicy(_Value):
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


class Spread(_Value):
    """Where accepted confidences lay: evenly spaced quantiles, worth so many independent rows."""

    confidence: tuple[float, ...]
    rows: float


class Recalibrated(_Value):
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


class PlacedInstances(_Value):
    """Instances of one tier on one device, and the load that the plan predicts for them.

    Attributes:
        device: index into the devices, in the order of the device file.
        busy_instances: mean number of busy instances at the planned rate, 0..count.
    """

    tier: str
    device: int
    count: int = Field(ge=1)
    busy_instances: float


class PlacedDevice(_Value):
    """One device of the plan; `gpu` is its index among the GPUs of its host, None on a CPU."""

    type: str
    kind: Literal["cpu", "gpu"]
    gpu: int | None
    memory_mib: int
    used_memory_mib: float
    busy_share: float


class Placement(Artifact):
    """Instances per tier and device; verified after solving."""

    kind: Literal["placement"] = "placement"
    rate_rps: float
    bound_rps: float
    gap: float
    status: str
    giant_only_rps: float | None
    batch: dict[str, int]
    devices: tuple[PlacedDevice, ...]
    instances: tuple[PlacedInstances, ...]

    def count(self, tier: str) -> int:
        """Instances of one tier on all devices."""
        return sum(placed.count for placed in self.instances if placed.tier == tier)


class LadderTier(_Value):
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


class Gear(_Value):
    """One policy and the arrival rates that it serves; the last gear has no upper rate.

    Attributes:
        min_queue: rows for which the first tier waits; 1 for none (CascadeServe's batch trigger).
        max_wait_ms: how long it waits for them at most.
    """

    up_to_rps: float | None
    policy: PolicyTable
    min_queue: int = Field(ge=1)
    max_wait_ms: float = Field(ge=0.0)
    predicted_accuracy: float
    predicted_cost: float


class FallbackGears(_Value):
    """What serves while the tiers of `without` are broken; nothing is promised of it."""

    without: tuple[str, ...]
    gears: tuple[Gear, ...]


class Hysteresis(_Value):
    """When a slower gear may come back: never while `rate < alpha * queue` (CascadeServe: alpha = 8)."""

    alpha: float = Field(default=8.0, ge=0.0)
    window_ms: float = Field(default=100.0, gt=0.0)


class RouterLimits(_Value):
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
    """All that the router needs at run time; read back by `runtime/plan.py`, the one parser."""

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

    @model_validator(mode="after")
    def _router_accepts_it(self) -> Self:
        runtime_plan.parse_plan(self.model_dump(mode="json"))
        return self


class TierScore(_Value):
    """One tier of the served ladder; `accuracy` on the test rows, the times from the profile."""

    name: str
    parameters: int
    accuracy: float
    cpu_ms_per_row: float
    energy_j: float | None
    energy_origin: Origin | None
    answer_share: float


class ServedScore(_Value):
    """One served model, as a client measured it through Triton.

    Attributes:
        accuracy: over all test rows.
        latency_mean_ms: at 1 client.
        throughput_rps: at `Score.clients` clients.
        cpu_ms_per_request: CPU time of the tiers' and the router's processes over requests, at
            `Score.clients` clients.
        router_cpu_ms_per_request: the router's share of it; None where there is none.
        server_cpu_ms_per_request: of tritonserver itself.
        client_cpu_ms_per_request: of the sending process.
        energy_j: per request; modelled from the CPU time of all server processes, or measured for the
            whole machine, the client included.
    """

    accuracy: float
    latency_mean_ms: float
    latency_p50_ms: float
    latency_p99_ms: float
    throughput_rps: float
    cpu_ms_per_request: float
    router_cpu_ms_per_request: float | None
    server_cpu_ms_per_request: float
    client_cpu_ms_per_request: float
    energy_j: float | None
    energy_origin: Origin | None


class Score(Artifact):
    """The last tier alone against the cascade on the test rows.

    Attributes:
        allowance: accuracy that may be given up, as a fraction.
        promise_held: measured accuracy is within the allowance.
        accuracy_drop_bound: fraction; where certified, from validation rows that the search never saw.
        certified: that bound is a promise, and within the allowance.
    """

    kind: Literal["score"] = "score"
    tiers: tuple[TierScore, ...]
    giant: ServedScore
    cascade_score: ServedScore
    allowance: float
    accuracy_drop_bound: float
    certified: bool
    promise_held: bool
    test_rows: int
    latency_rows: int
    clients: int
    environment: dict[str, str]
