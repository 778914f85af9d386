"""What was measured of one tier at one batch size, and the profile's point that it becomes."""

from __future__ import annotations

from dataclasses import dataclass

from cascade_tools.artifacts import Origin, ProfilePoint, TimedBy, UtilizationBy
from cascade_tools.spec import DeviceGroup

SMALLEST_UTILIZATION = 1e-6


@dataclass(frozen=True)
class Memory:
    """What an instance holds by itself, and what all instances on a device hold once."""

    own_mib: float
    shared_mib: float = 0.0


@dataclass(frozen=True)
class Utilization:
    """Share of the device, (0, 1], that the instances take while they are busy, and where it comes from."""

    share: float
    by: UtilizationBy


@dataclass(frozen=True)
class Runs:
    """Batches of one size.

    Attributes:
        p50_ms: of one batch, the model alone; `p99_ms` likewise.
        spread: of the medians of the last repetitions, see `planning.repetitions`.
        cpu_ms: CPU time of one batch; None where it is not known.
        stretch: how many times longer all work took because the host took cores away; `cpu_ms` is without.
        throughput_rps: rows per second of all instances.
        energy_j: dynamic energy of one row; None without a meter.
        origin: of the times.
    """

    batch: int
    p50_ms: float
    p99_ms: float
    spread: float | None
    cpu_ms: float | None
    throughput_rps: float
    energy_j: float | None
    timed_by: TimedBy
    instances: int = 1
    overhead_ms: float | None = None
    client_p50_ms: float | None = None
    queue_ms: float | None = None
    stretch: float = 1.0
    origin: Origin = "measured"


def by_cpu_time(runs: Runs, device: DeviceGroup) -> Utilization:
    """CPU seconds over wall seconds and the cores of the device, of all instances while they are busy.

    Where the CPU time is not known, one core for each instance. What the host takes away lengthens the times
    and not the CPU time: without it an instance that computes all the time would seem to leave room.
    """
    assert device.cores is not None
    cores = 1.0 if runs.cpu_ms is None else runs.cpu_ms / runs.p50_ms
    busy_cores = runs.instances * max(cores, min(1.0, runs.stretch * cores))
    return Utilization(min(1.0, max(busy_cores / device.cores, SMALLEST_UTILIZATION)), "cpu_time")


def make_point(
    tier: str, kind: str, device: DeviceGroup, runs: Runs, memory: Memory, utilization: Utilization
) -> ProfilePoint:
    """The point of the profile; energy is measured, or modelled from `busy_watts`, or not known."""
    energy_j, energy_origin = runs.energy_j, None if runs.energy_j is None else "measured"
    if energy_j is None and device.busy_watts is not None:
        busy_ms = runs.p50_ms if device.kind == "gpu" or runs.cpu_ms is None else runs.cpu_ms
        energy_j, energy_origin = device.busy_watts * busy_ms / 1000.0 / runs.batch, "modelled"
    return ProfilePoint(
        tier=tier,
        format=kind,
        device=device.type,
        batch=runs.batch,
        instances=runs.instances,
        latency_p50_ms=runs.p50_ms,
        latency_p99_ms=runs.p99_ms,
        latency_spread=runs.spread,
        overhead_ms=runs.overhead_ms,
        client_p50_ms=runs.client_p50_ms,
        queue_ms=runs.queue_ms,
        throughput_rps=runs.throughput_rps,
        cpu_ms_per_row=None if runs.cpu_ms is None else runs.cpu_ms / runs.batch,
        memory_mib=memory.own_mib,
        shared_mib=memory.shared_mib,
        kernel_utilization=utilization.share,
        energy_j=energy_j,
        origin=runs.origin,
        energy_origin=energy_origin,
        timed_by=runs.timed_by,
        utilization_by=utilization.by,
    )
