"""Measures exported tiers in this process, with the library that also serves them.

    tier    |- open -|- warm-up, largest batch -|                               memory: after - before
    batch              |- warm-up -|= repetition 1 =|= repetition 2 =| ... |= repetition n =|
                                   |<- batch after batch, at least 0.1 s ->|

Repetitions end when the medians of the last three lie within 5 %, or after eight. What counts are the last
three: the median of all their batches, the 99th percentile of all their batches, the spread of their medians.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from cascade_tools.artifacts import ExportedTier
from cascade_tools.errors import CascadeError
from cascade_tools.machine.utilization import measured_utilization
from cascade_tools.models.open_model import OpenModel, open_model
from cascade_tools.models.usercode import Rows
from cascade_tools.planning.repetitions import COMPARED, spread, stable
from cascade_tools.serving.closed_loop import Batch
from cascade_tools.spec import DeviceGroup
from cascade_tools.stages.profiling.batches import draw
from cascade_tools.stages.profiling.energy import Metering
from cascade_tools.stages.profiling.runs import Memory, Runs, Utilization, by_cpu_time

WARM_UP_RUNS = 3
REPETITION_S = 0.1
REPETITION_RUNS = 4
MOST_REPETITIONS = 8
SAMPLED_S = 2.5  # NVML samples too seldom for less


@dataclass(frozen=True)
class OpenTier:
    """A tier that is ready to run, and what it took to get there."""

    model: OpenModel
    memory: Memory


def open_tier(exported: ExportedTier, path: Path, device: DeviceGroup, rows: Rows, largest: int) -> OpenTier:
    """Open a tier on a device and run its largest batch, so that its buffers have their size.

    Raises:
        EnvironmentLacks: the device, or what runs the format on it, is not here.
        UsageError: the file is not what it should be.
    """
    before = psutil.Process().memory_info().rss
    model = open_model(exported, path, device.kind)
    for batch in draw(rows, largest)[:WARM_UP_RUNS]:
        model.run(batch)
    grown = (psutil.Process().memory_info().rss - before) / 2**20
    # Freed pages of earlier tiers are taken again without growth; the weights are there in any case.
    names = [path.name, *(Path(entry.file).name for entry in exported.beside)]
    sizes = [(path.parent / name).stat().st_size for name in names]
    own_mib = max(grown, sum(sizes) / 2**20)
    return OpenTier(model, Memory(own_mib if model.device_mib is None else model.device_mib()))


def measure(model: OpenModel, rows: Rows, batch: int, metering: Metering) -> Runs:
    """Run batches of one size until their median is stable."""
    batches = draw(rows, batch)
    for inputs in batches[:WARM_UP_RUNS]:
        model.run(inputs)
    wall_s: list[list[float]] = []
    cpu_s: list[list[float]] = []
    start_s = time.perf_counter()
    with metering.spent() as spent:
        while not _enough(wall_s) or time.perf_counter() - start_s < metering.shortest_s:
            wall, cpu = _repetition(model, batches)
            wall_s.append(wall)
            cpu_s.append(cpu)
    last_wall = np.concatenate(wall_s[-COMPARED:])
    last_cpu = np.concatenate(cpu_s[-COMPARED:])
    p50, p99 = np.percentile(1000.0 * last_wall, (50, 99)).tolist()
    return Runs(
        batch=batch,
        p50_ms=p50,
        p99_ms=p99,
        spread=spread([float(np.median(times)) for times in wall_s]),
        # The median of the shares, because a neighbour that takes the core lengthens a few runs very much.
        cpu_ms=p50 * float(np.median(last_cpu / last_wall)),
        throughput_rps=1000.0 * batch / p50,
        energy_j=spent.per(batch * sum(len(times) for times in wall_s)),
        timed_by="process",
    )


def utilization(model: OpenModel, rows: Rows, device: DeviceGroup, runs: Runs) -> Utilization:
    """Of the batch size of `runs`; on a GPU it is measured apart, since tracing costs time."""
    if device.kind == "cpu":
        return by_cpu_time(runs, device)
    batches = draw(rows, runs.batch)
    model.run(batches[0])
    try:
        with measured_utilization(device) as found:
            _repetition(model, batches)
    except CascadeError:  # a torch without CUDA, or a driver that does not let kernels be traced
        with measured_utilization(device, by="nvml") as found:
            end_s = time.perf_counter() + SAMPLED_S
            while time.perf_counter() < end_s:
                _repetition(model, batches)
    return Utilization(found.share, found.by)


def _enough(wall_s: Sequence[Sequence[float]]) -> bool:
    medians = [float(np.median(times)) for times in wall_s]
    return len(medians) >= MOST_REPETITIONS or stable(medians)


def _repetition(model: OpenModel, batches: Sequence[Batch]) -> tuple[list[float], list[float]]:
    """Wall and CPU seconds of every run."""
    wall_s: list[float] = []
    cpu_s: list[float] = []
    total_s = 0.0
    while len(wall_s) < REPETITION_RUNS or total_s < REPETITION_S:
        inputs = batches[len(wall_s) % len(batches)]
        cpu_before, start = time.process_time(), time.perf_counter()
        model.run(inputs)
        wall_s.append(time.perf_counter() - start)
        cpu_s.append(time.process_time() - cpu_before)
        total_s += wall_s[-1]
    return wall_s, cpu_s
