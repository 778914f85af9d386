"""Reads the tables that NVIDIA's Model Analyzer writes.

Its `results` folder holds `metrics-model-inference.csv` (what the clients saw), `metrics-model-gpu.csv` (what
the GPU showed meanwhile) and `metrics-server-only.csv` (the GPU before a model was loaded). What is taken:

- Runs with as many clients as instances: each instance has one request under way, so none waits and
  Triton's dynamic batcher joins none. Runs with more or fewer clients say nothing of one batch.
- The time of a batch: the server's compute times where the table has them, else clients * batch /
  throughput (Little's law), the mean that a client saw. Either is a mean, so the time counts as modelled.
- Of several configurations of a model at the same batch and instances, the one of the highest throughput.
- Memory of one instance: what the GPU held above the server alone, over the instances; MB are 10^6 bytes.
- Energy of a row: power above the idle server's, over throughput.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cascade_tools.artifacts import ProfilePoint
from cascade_tools.errors import UsageError
from cascade_tools.planning.profile_tables import PointKey, key_of
from cascade_tools.stages.given_table import GivenPoints
from cascade_tools.stages.table_cells import Cell, Row, read_csv

INFERENCE_FILE = "metrics-model-inference.csv"
GPU_FILE = "metrics-model-gpu.csv"
SERVER_FILE = "metrics-server-only.csv"
MIB_PER_MB = 1e6 / 2**20

MODEL, BATCH, CONCURRENCY, CONFIG = "Model", "Batch", "Concurrency", "Model Config Path"
INSTANCES = "Instance Group"
THROUGHPUT = "Throughput (infer/sec)"
P99 = "p99 Latency (ms)"
QUEUE = "Server Queue time (ms)"
COMPUTE = tuple(f"Server Compute {part} time (ms)" for part in ("Input", "Infer", "Output"))
GPU = ("GPU UUID", "GPU ID")
# Releases differ in whether they say how a figure was made one of many.
MEMORY = ("GPU Memory Usage (MB)", "Max GPU Memory Usage (MB)")
UTILIZATION = ("GPU Utilization (%)", "Average GPU Utilization (%)")
POWER = ("GPU Power Usage (W)", "Average GPU Power Usage (W)")
_GROUP = re.compile(r"(\d+)[:/](GPU|CPU)")


@dataclass(frozen=True)
class Served:
    """What Model Analyzer calls a model is this tier, in this format."""

    tier: str
    format: str


@dataclass(frozen=True)
class _Idle:
    """The GPU without a model; `watts` is None where the table does not say."""

    memory_mib: float
    watts: float | None


def is_model_analyzer(path: Path) -> bool:
    """Whether this is one of its files, or a folder of them."""
    if path.is_dir():
        return True
    return path.suffix == ".csv" and path.is_file() and {MODEL, CONFIG} <= set(read_csv(path)[0])


def read_model_analyzer(path: Path, models: Mapping[str, Served], device: str) -> GivenPoints:
    """The points of a run of Model Analyzer.

    Args:
        path: its `metrics-model-inference.csv`, with the other two files beside it, or their folder.
        models: Triton's name of each tier's model.
        device: type of the GPU that it measured.

    Raises:
        UsageError: a file or column is missing, or a cell does not do; names file, line and column.
    """
    inference = _inference_file(path)
    rows = [
        row
        for row in _table(inference, MODEL, BATCH, CONCURRENCY, INSTANCES, THROUGHPUT)
        if _is_ours(row, models)
    ]
    if not rows:
        raise UsageError(
            f"{inference}: no row of a model of this cascade", f"its models are {', '.join(models)}"
        )
    gpu, idle = _gpu_rows(inference), _idle(inference)
    points: dict[PointKey, ProfilePoint] = {}
    for row in rows:
        instances = _instances(row.cell(INSTANCES))
        if row.count(CONCURRENCY) != instances:
            continue
        point = _point(row, instances, gpu, idle, models[row.cell(MODEL).text], device)
        best = points.get(key_of(point))
        if best is None or point.throughput_rps > best.throughput_rps:
            points[key_of(point)] = point
    if not points:
        raise UsageError(
            f"{inference}: no row has as many clients (column {CONCURRENCY!r}) as instances "
            f"(column {INSTANCES!r})",
            "profile with concurrency 1, too: other rows mix the batch with waiting or idling",
        )
    watts = () if idle.watts is None else ((device, idle.watts),)
    return GivenPoints(tuple(points.values()), "Model Analyzer", watts)


def _inference_file(path: Path) -> Path:
    if not path.is_dir():
        if path.is_file() and (set(GPU) & set(read_csv(path)[0])):
            raise UsageError(
                f"{path}: holds what the GPU showed alone", f"give {INFERENCE_FILE}, which stands beside it"
            )
        return path
    for folder in (path, path / "results"):
        if (folder / INFERENCE_FILE).is_file():
            return folder / INFERENCE_FILE
    raise UsageError(
        f"{path}: holds no {INFERENCE_FILE}", "give the folder `results` that Model Analyzer wrote"
    )


def _table(path: Path, *columns: str | tuple[str, ...]) -> list[Row]:
    """The rows of a file that has these columns, each under one of its names."""
    header, rows = read_csv(path)
    for names in columns:
        wanted = (names,) if isinstance(names, str) else names
        if not set(wanted) & set(header):
            raise UsageError(f"{path}, line 1: no column {wanted[0]!r}", f"found: {', '.join(header)}")
    return rows


def _beside(inference: Path, name: str, why: str) -> Path:
    path = inference.with_name(name)
    if not path.is_file():
        raise UsageError(
            f"{path}: no such file; {why}", "copy all three files of Model Analyzer's `results` there"
        )
    return path


def _is_ours(row: Row, models: Mapping[str, Served]) -> bool:
    model = row.cell(MODEL)
    if "," in model.text:
        raise model.refusal(
            f"{model.text!r} were measured at the same time",
            "profile every model alone; they share the GPU otherwise",
        )
    return model.text in models


def _instances(cell: Cell) -> int:
    found = _GROUP.fullmatch(cell.text)
    if found is None:
        raise cell.refusal(f"{cell.text!r} is no single instance group such as '1:GPU'")
    if found.group(2) == "CPU":
        raise cell.refusal(
            "Model Analyzer does not say how busy a CPU was", "measure CPUs with `cascade-tools profile`"
        )
    return int(found.group(1))


def _run(row: Row) -> tuple[str, ...]:
    """What joins the lines of two files."""
    return tuple(row.cell(name).text for name in (MODEL, BATCH, CONCURRENCY, CONFIG))


def _gpu_rows(inference: Path) -> dict[tuple[str, ...], Row]:
    path = _beside(inference, GPU_FILE, "it has utilization and memory")
    found: dict[tuple[str, ...], Row] = {}
    for row in _table(path, MODEL, BATCH, CONCURRENCY, CONFIG, GPU, MEMORY, UTILIZATION):
        known = found.setdefault(_run(row), row)
        here, there = row.cell(*GPU), known.cell(*GPU)
        if here.text != there.text:
            raise here.refusal(
                f"the run used {there.text} and {here.text}; a profile is of one device",
                "let Model Analyzer use one GPU: `gpus: [UUID]`",
            )
    return found


def _idle(inference: Path) -> _Idle:
    path = _beside(inference, SERVER_FILE, "it says what the GPU holds and draws without a model")
    rows = _table(path, MEMORY)
    if not rows:
        raise UsageError(f"{path}: has no row")
    return _Idle(
        max(row.amount(*MEMORY) for row in rows) * MIB_PER_MB,
        max((watts for row in rows if (watts := row.maybe_positive(*POWER)) is not None), default=None),
    )


def _point(
    row: Row,
    instances: int,
    gpu: Mapping[tuple[str, ...], Row],
    idle: _Idle,
    served: Served,
    device: str,
) -> ProfilePoint:
    batch, throughput_rps = row.count(BATCH), row.positive(THROUGHPUT)
    beside = gpu.get(_run(row))
    if beside is None:
        raise row.cell(MODEL).refusal(f"{GPU_FILE} has no row of this run")
    held_mib = beside.positive(*MEMORY) * MIB_PER_MB
    watts = beside.maybe_positive(*POWER)
    energy_j = None
    if watts is not None and idle.watts is not None:
        energy_j = max(0.0, watts - idle.watts) / throughput_rps
    compute_ms = [row.maybe_amount(column) for column in COMPUTE]
    client_ms = 1000.0 * instances * batch / throughput_rps
    known = [ms for ms in compute_ms if ms is not None]
    served_ms = sum(known) if len(known) == len(COMPUTE) else 0.0
    busy = min(1.0, served_ms / client_ms) if served_ms else 1.0
    return ProfilePoint(
        tier=served.tier,
        format=served.format,
        device=device,
        batch=batch,
        instances=instances,
        latency_p50_ms=served_ms or client_ms,
        latency_p99_ms=row.maybe_amount(P99) or None,  # 0.0 is rounded away
        queue_ms=row.maybe_amount(QUEUE),
        throughput_rps=throughput_rps,
        cpu_ms_per_row=None,
        memory_mib=max(0.0, held_mib - idle.memory_mib) / instances,
        # NVML's share is of the whole time, ours of the time in which the instance works.
        kernel_utilization=min(1.0, beside.positive(*UTILIZATION, most=100.0) / 100.0 / busy),
        energy_j=energy_j,
        origin="given",
        modelled=("time", "utilization"),
        energy_origin=None if energy_j is None else "given",
        timed_by="perf_analyzer",
    )
