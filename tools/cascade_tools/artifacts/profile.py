"""What `profile` measured, or was given."""

from __future__ import annotations

from typing import Literal, NamedTuple, Self

from pydantic import Field, model_validator

from cascade_tools.artifacts.base import Artifact, Value

Origin = Literal["measured", "modelled", "given"]
Figure = Literal["time", "utilization", "memory"]
TimedBy = Literal["process", "perf_analyzer", "client"]
UtilizationBy = Literal["cpu_time", "cupti", "nvml"]
INLINE_ENTRY_MS = 2.0  # a tier of `LOCAL_FORMATS` that takes no longer may run in the router's process
LOCAL_FORMATS = ("onnx", "onnx_fp16")


class ProfilePoint(Value):
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


class Hop(Value):
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


class WorkCost(Value):
    """CPU time that one party takes beside the tiers' own work, in ms.

    Attributes:
        batch_ms: for each batch of the router; the client: for each group of answers.
        request_ms: for each request.
        call_ms: for each call of a tier that the router does not run itself.
        late_ms: for each answer that is sent after such a call.
    """

    batch_ms: float = Field(0.0, ge=0.0)
    request_ms: float = Field(0.0, ge=0.0)
    call_ms: float = Field(0.0, ge=0.0)
    late_ms: float = Field(0.0, ge=0.0)

    def per_row_ms(self, batch_rows: float, calls: float, late_share: float) -> float:
        """Of one row, where so many share a batch, make so many calls each, and are answered late."""
        return self.batch_ms / batch_rows + self.request_ms + calls * self.call_ms + late_share * self.late_ms


class RouterCost(Value):
    """What the embedded server and its client spend beside the tiers.

    Attributes:
        router: its process, which does one thing after the other (Python's lock).
        server: Triton itself and the processes of called tiers.
        client: `replay`, an open loop.
        rest_ms: latency of a request that comes alone beside the sum of all these: quantiles, ascending.
    """

    router: WorkCost
    server: WorkCost
    client: WorkCost
    rest_ms: tuple[float, ...] = Field(min_length=1)
    origin: Origin

    def cpu_ms_per_row(self, batch_rows: float, calls: float, late_share: float) -> float:
        """CPU ms on the server's cores, Triton and the router's process together, that one row costs.

        Without the client.

        Args:
            batch_rows: rows of a batch of the router, from 1.
            calls: of tiers through the server, per row.
            late_share: of the rows, that leave `execute` and are answered late, 0..1.
        """
        return self.serial_ms_per_row(batch_rows, calls, late_share) + self.server.per_row_ms(
            batch_rows, calls, late_share
        )

    def serial_ms_per_row(self, batch_rows: float, calls: float, late_share: float) -> float:
        """What one instance of the router does of that, one thing after another."""
        return self.router.per_row_ms(batch_rows, calls, late_share)


class AskCost(NamedTuple):
    """What asking one tier costs beside its own work: latency and CPU time of one call."""

    latency_ms: float
    cpu_ms: float


class Profile(Artifact):
    """All points, and the machine they come from.

    Attributes:
        hop: None where no server could be started; `router` likewise.
        instances: of the adopted tiers, which no placement changes.
        idle_watts: of each device type whose meter could be read: what it draws without work.
        energy_meter: the name of the meter behind `energy_origin: measured`; None without one.
        graphs: by tier, the SHA-256 of the exported graph that was measured; nothing for given points.
    """

    kind: Literal["profile"] = "profile"
    environment: dict[str, str]
    points: tuple[ProfilePoint, ...]
    hop: Hop | None
    router: RouterCost | None
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

    def runs_inline(self, tier: str, entry_ms: float = INLINE_ENTRY_MS) -> bool:
        """Whether the router may run a tier in its own process, on a CPU.

        Args:
            tier: its name.
            entry_ms: the longest time of one row with which it may.
        """
        alone = self.at(tier, 1)
        return alone.format in LOCAL_FORMATS and alone.latency_p50_ms <= entry_ms

    def ask_cost(self, tier: str, inline: bool | None = None) -> AskCost:
        """What it costs to ask a tier where the embedded server runs the cascade; 0 where none does.

        Args:
            tier: its name.
            inline: whether the router runs it itself; None: if it may.
        """
        if self.hop is None:
            return AskCost(0.0, 0.0)
        if self.runs_inline(tier) if inline is None else inline:
            return AskCost(self.hop.step_ms, self.hop.step_ms)
        # What the server adds to this tier's row, where that is more than a call that does nothing.
        overhead_ms = self.at(tier, 1).overhead_ms or 0.0
        return AskCost(max(self.hop.latency_ms, overhead_ms), self.hop.cpu_ms)

    def at(self, tier: str, batch: int, device: str | None = None) -> ProfilePoint:
        """The point of the largest profiled batch that is not above `batch`."""
        points = self.points_of(tier, device)
        return max((p for p in points if p.batch <= batch), key=lambda p: p.batch, default=points[0])
