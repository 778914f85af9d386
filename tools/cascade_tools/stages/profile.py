"""Measures every tier on this machine: exported ones in process, with ONNX Runtime on one thread.

    tier  |-- load --|-- warm-up --|== repetition 1 ==|== repetition 2 ==| ...
                                   |<- batch after batch of validation rows ->|
          memory: after - before    latency of each batch, CPU seconds, joules

Batches are drawn from the user's own validation rows with a fixed seed, never zeros. A point is complete
after `MIN_SECONDS` and `MIN_RUNS`. Kernel utilization on a CPU device is CPU seconds over wall seconds and
the cores of the device. Energy is dynamic: what a meter counts during the runs minus the idle power, or,
without a meter, CPU seconds times the watts that the device file gives (`modelled`), or unknown.

An adopted tier is asked through Triton, and the time of a call is the one that the server counts. Where
the server is the user's, its CPU time and memory are not known: one busy core while it answers, and no
memory, count as `modelled`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import psutil

from cascade_tools.artifacts import AdoptedTier, Calibration, Exported, Hop, Origin, Profile, ProfilePoint
from cascade_tools.errors import EnvironmentLacks, UsageError
from cascade_tools.machine.facts import machine
from cascade_tools.machine.meters import EnergyMeter, find_meter
from cascade_tools.models.served import open_exported
from cascade_tools.models.usercode import Rows, load_rows
from cascade_tools.runtime import adopted as runtime_adopted
from cascade_tools.serving.adopted import AdoptedModels, adopted_models
from cascade_tools.serving.hop import measure_hop
from cascade_tools.serving.triton_wheel import find_triton
from cascade_tools.spec import DeviceGroup, load_devices
from cascade_tools.stages.calibrate import CALIBRATION_FILE
from cascade_tools.stages.export import EXPORTED_FILE
from cascade_tools.stages.exported_files import changed_file
from cascade_tools.stages.progress import Reporter
from cascade_tools.store import Workspace, readable_disk_errors

PROFILE_FILE = "profile.json"
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)
WARM_UP_RUNS = 3
MIN_RUNS = 12
MIN_SECONDS = 0.25
MIN_SECONDS_SERVED = 0.5  # CPU time of other processes is counted in steps of 10 ms
SHORTEST_S = 1e-6
MAX_RUNS = 2000
IDLE_SECONDS = 1.0
THREADS = 1
SEED = 0


@dataclass(frozen=True)
class _Runs:
    """What each run of one point took; `energy_j` is of all runs above idle, None without a meter."""

    wall_s: list[float]
    cpu_s: list[float]
    energy_j: float | None
    origin: Origin = "measured"


def profile(work: Workspace, made_from: dict[str, str], report: Reporter) -> None:
    """Write `profile.json`.

    Raises:
        UsageError: the device file names no CPU, or an exported file is missing or changed.
    """
    cascade = work.cascade
    exported = work.load(EXPORTED_FILE, Exported, "export")
    calibration = work.load(CALIBRATION_FILE, Calibration, "calibrate")
    device = _cpu_of(work)
    rows = load_rows(cascade, "validation")
    meter = find_meter()
    idle_watts = _idle_watts(meter)
    batches = [b for b in BATCHES if b <= cascade.serving.max_batch_size]
    points: list[ProfilePoint] = []
    with report.task(f"  {len(exported.tiers)} exported tiers x {len(batches)} batch sizes") as advance:
        for tier in exported.tiers:
            path = work.path(tier.file)
            changed = changed_file(work, tier)
            if changed is not None:
                raise UsageError(
                    f"{changed}: missing or not the file that was exported",
                    f"run `{work.command('export')}`",
                )
            before = psutil.Process().memory_info().rss
            session = open_exported(path, tier.format, THREADS)
            _run(session, rows, batches[-1], WARM_UP_RUNS, np.random.default_rng(SEED))
            memory_mib = max(
                (psutil.Process().memory_info().rss - before) / 2**20,
                sum(work.path(entry.file).stat().st_size for entry in tier.files) / 2**20,
            )
            for batch in batches:
                runs = _measure(session, rows, batch, meter, idle_watts)
                points.append(_point(tier.tier, batch, runs, memory_mib, device, tier.format))
                advance(len(points), len(exported.tiers) * len(batches))
    if calibration.adopted:
        points += _adopted(work, calibration, rows, batches, device, report)
        points.sort(key=lambda point: (cascade.tier_names.index(point.tier), point.batch))
    hop = _hop(report)
    with readable_disk_errors(work.build):
        work.save(
            PROFILE_FILE,
            Profile(
                cascade=cascade.name,
                made_from=made_from,
                environment=machine(),
                points=tuple(points),
                hop=hop,
                instances={tier.tier: tier.instances for tier in calibration.adopted if tier.instances},
            ),
        )


def _adopted(
    work: Workspace,
    calibration: Calibration,
    rows: Rows,
    batches: list[int],
    device: DeviceGroup,
    report: Reporter,
) -> list[ProfilePoint]:
    """Points of the adopted tiers, through the server that has them."""
    points = []
    meter = find_meter()
    with adopted_models(work.cascade) as models:
        idle_watts = _idle_watts(meter)
        with report.task(f"  {len(calibration.adopted)} adopted tiers through Triton") as advance:
            for tier in calibration.adopted:
                memory_mib = 0.0
                for batch in batches:
                    runs = _ask(models, tier, rows, batch, meter, idle_watts)
                    if models.server is not None and not memory_mib:  # it has been used by now
                        memory_mib = models.server.memory_mib(tier.model) / (tier.instances or 1)
                    points.append(_point(tier.tier, batch, runs, memory_mib, device, "triton"))
                    advance(len(points), len(calibration.adopted) * len(batches))
    return points


def _ask(
    models: AdoptedModels,
    tier: AdoptedTier,
    rows: Rows,
    batch: int,
    meter: EnergyMeter | None,
    idle_watts: float,
) -> _Runs:
    """As `_measure`, through Triton."""
    rng = np.random.default_rng(SEED)
    wanted = tuple(runtime_adopted.AdoptedInput(**one.model_dump()) for one in tier.inputs)
    drawn = [
        runtime_adopted.model_inputs(rows.take(rng.integers(len(rows), size=batch)).inputs, wanted)
        for _ in range(MIN_RUNS)
    ]
    for inputs in drawn[:WARM_UP_RUNS]:
        models.ask(tier.model, inputs, tier.output)
    cpu_before, start_j = _model_cpu_s(models), meter.read_j() if meter else 0.0
    wall_s: list[float] = []
    start_s = time.perf_counter()
    while len(wall_s) < MIN_RUNS or time.perf_counter() - start_s < MIN_SECONDS_SERVED:
        seconds = models.time(tier.model, drawn[len(wall_s) % len(drawn)], tier.output)
        wall_s.append(max(SHORTEST_S, seconds))
    idle_j = idle_watts * (time.perf_counter() - start_s)
    energy_j = None if meter is None else max(0.0, meter.read_j() - start_j - idle_j)
    if models.server is None:
        return _Runs(wall_s, wall_s, energy_j, "modelled")
    cpu_s = (_model_cpu_s(models) - cpu_before) / len(wall_s)
    return _Runs(wall_s, [cpu_s] * len(wall_s), energy_j)


def _model_cpu_s(models: AdoptedModels) -> float:
    """CPU time of everything that serves models; the server's own share of a call is in the hop."""
    if models.server is None:
        return 0.0
    return sum(seconds for model, seconds in models.server.cpu_seconds().items() if model)


def _hop(report: Reporter) -> Hop | None:
    """The cost of a call between models, where the embedded server runs."""
    try:
        find_triton()
    except EnvironmentLacks as error:
        report.say(f"  hops count as free: {error.message}")
        return None
    report.say("  calls between models on the embedded Triton")
    return measure_hop()


def _cpu_of(work: Workspace) -> DeviceGroup:
    groups = [group for group in load_devices(work.cascade).devices if group.kind == "cpu"]
    if not groups:
        raise UsageError(
            f"{work.cascade.folder / work.cascade.devices}: names no device of kind cpu, "
            "the kind that this profiler measures"
        )
    return groups[0]


def _idle_watts(meter: EnergyMeter | None) -> float:
    if meter is None:
        return 0.0
    start_j, start = meter.read_j(), time.perf_counter()
    time.sleep(IDLE_SECONDS)
    return (meter.read_j() - start_j) / (time.perf_counter() - start)


def _run(session: Any, rows: Rows, batch: int, count: int, rng: np.random.Generator) -> list[float]:
    wall_s = []
    for _ in range(count):
        inputs = rows.take(rng.integers(len(rows), size=batch)).inputs
        start = time.perf_counter()
        session.run(None, inputs)
        wall_s.append(time.perf_counter() - start)
    return wall_s


def _measure(session: Any, rows: Rows, batch: int, meter: EnergyMeter | None, idle_watts: float) -> _Runs:
    rng = np.random.default_rng(SEED)
    _run(session, rows, batch, WARM_UP_RUNS, rng)
    drawn = [rows.take(rng.integers(len(rows), size=batch)).inputs for _ in range(MIN_RUNS)]
    wall_s: list[float] = []
    cpu_s: list[float] = []
    start_j, start_s = meter.read_j() if meter else 0.0, time.perf_counter()
    while len(wall_s) < MAX_RUNS and (len(wall_s) < MIN_RUNS or sum(wall_s) < MIN_SECONDS):
        inputs = drawn[len(wall_s) % len(drawn)]
        cpu_before, start = time.process_time(), time.perf_counter()
        session.run(None, inputs)
        wall_s.append(time.perf_counter() - start)
        cpu_s.append(time.process_time() - cpu_before)
    if meter is None:
        return _Runs(wall_s, cpu_s, None)
    idle_j = idle_watts * (time.perf_counter() - start_s)
    return _Runs(wall_s, cpu_s, max(0.0, meter.read_j() - start_j - idle_j))


def _point(
    tier: str,
    batch: int,
    runs: _Runs,
    memory_mib: float,
    device: DeviceGroup,
    kind: str = "onnx",
) -> ProfilePoint:
    rows = len(runs.wall_s) * batch
    assert device.cores is not None
    wall_s, cpu_s = np.array(runs.wall_s), np.array(runs.cpu_s)
    # Medians, because a neighbour that takes the core lengthens a few runs very much.
    utilization = min(1.0, max(float(np.median(cpu_s / wall_s)) / device.cores, 1e-6))
    cpu_s_per_row = float(np.median(cpu_s)) / batch
    energy_j: float | None = None
    origin: Origin | None = None
    if runs.energy_j is not None:
        energy_j = runs.energy_j / rows
        origin = "measured"
    elif device.busy_watts is not None:
        energy_j, origin = device.busy_watts * cpu_s_per_row, "modelled"
    p50, p99 = np.percentile(wall_s * 1000.0, [50, 99])
    return ProfilePoint(
        tier=tier,
        format=kind,
        device=device.type,
        batch=batch,
        latency_p50_ms=float(p50),
        latency_p99_ms=float(p99),
        throughput_rps=batch * 1000.0 / float(p50),
        cpu_ms_per_row=1000.0 * cpu_s_per_row,
        memory_mib=memory_mib,
        kernel_utilization=utilization,
        energy_j=energy_j,
        origin=runs.origin,
        energy_origin=origin,
    )
