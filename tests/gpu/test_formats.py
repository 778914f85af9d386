"""Formats on a GPU: each answers as its source, and a cascade of torch tiers is served there."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from rich.table import Table

from cascade_tools.artifacts import Exported, TensorRTPlan
from cascade_tools.backends.torch_session import TorchSession
from cascade_tools.errors import EnvironmentLacks
from cascade_tools.machine.gpus import find_gpus
from cascade_tools.machine.meters import EnergyMeter, EnergyWatch, find_meter, measure_idle_watts
from cascade_tools.models.served import open_exported
from cascade_tools.models.to_tensorrt import require_tensorrt
from cascade_tools.serving.embedded import embedded_triton
from cascade_tools.serving.load import LoadResult, run_load
from cascade_tools.serving.triton_wheel import find_triton
from cascade_tools.stages.build_repo import build_repo
from cascade_tools.stages.export import EXPORTED_FILE, export
from cascade_tools.stages.gears import GEARS_FILE
from cascade_tools.stages.place import PLACEMENT_FILE
from cascade_tools.stages.plans import mismatches
from cascade_tools.stages.progress import Reporter
from cascade_tools.store import Workspace
from tests.gpu.ladder import BATCH, INPUT, TIERS, all_rows, ladder, on_gpu, plan
from tests.helpers import Array

pytestmark = pytest.mark.gpu
REPORT = Reporter(Console(quiet=True))
CLIENTS = 32
# Of a GPU: matrix products of float32 may run in TF32, with ten bits behind the point.
CONFIDENCE_TOLERANCE = 5e-3


@pytest.fixture(autouse=True)
def imports_stay() -> Iterator[None]:
    path = list(sys.path)
    yield
    sys.path[:] = path
    sys.modules.pop("ladder", None)


def exported(folder: Path, kind: str) -> tuple[Workspace, Exported]:
    work = ladder(folder, kind)
    export(work, {}, REPORT)
    return work, work.load(EXPORTED_FILE, Exported, "export")


def test_a_torch_program_answers_on_the_gpu_as_on_the_cpu(gpu: str, tmp_path: Path) -> None:
    work, made = exported(tmp_path, "pt2")
    for tier in made.tiers:
        path = work.path(tier.file)
        rows = {INPUT.name: all_rows()[:BATCH]}
        label, confidence = TorchSession(path, device="cuda:0").run(["LABEL", "CONFIDENCE"], rows)
        on_cpu = TorchSession(path).run(["LABEL", "CONFIDENCE"], rows)
        assert (label == on_cpu[0]).mean() > 0.98
        np.testing.assert_allclose(confidence, on_cpu[1], atol=CONFIDENCE_TOLERANCE)


def test_a_tensorrt_plan_answers_as_its_source_and_says_what_it_is_for(gpu: str, tmp_path: Path) -> None:
    try:
        trt = require_tensorrt()
    except EnvironmentLacks as error:
        pytest.skip(f"NOT TESTED WITH TENSORRT: {error.message}; {error.hint}")
    work, made = exported(tmp_path, "tensorrt")
    assert work.path("export/timing.cache").stat().st_size > 0
    for tier in made.tiers:
        assert tier.half is not None
        assert tier.half.labels_changed <= 0.02 * tier.half.rows
        record = TensorRTPlan.model_validate_json(work.path(tier.beside[0].file).read_bytes())
        assert (record.gpu, record.min_batch, record.max_batch) == (gpu, 1, BATCH)
        assert mismatches(record, [find_gpus()[0]], trt.__version__, BATCH) == []
        for rows in (1, 7, BATCH):
            session = open_exported(work.path(tier.file), tier.format)
            label, confidence = session.run(["LABEL", "CONFIDENCE"], {INPUT.name: all_rows()[:rows]})
            assert (label.shape, confidence.shape) == ((rows, 1), (rows, 1))


def test_a_cascade_of_torch_tiers_on_the_gpu_against_its_giant_alone(
    gpu: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        find_triton()
    except EnvironmentLacks as error:
        pytest.skip(f"NOT TESTED AGAINST A REAL TRITON: {error.message}; {error.hint}")
    work, made = exported(tmp_path, "pt2")
    inputs = {INPUT.name: all_rows()}
    tiers = [TorchSession(work.path(tier.file), device="cuda:0") for tier in made.tiers]
    label, confidence = (
        np.stack([_in_batches(session, name, inputs) for session in tiers], axis=1)
        for name in ("LABEL", "CONFIDENCE")
    )
    cut = float(np.quantile(confidence[:, 0], 0.3))
    work.save(PLACEMENT_FILE, on_gpu())
    work.save(GEARS_FILE, plan({tier.tier: tier.digest for tier in made.tiers}, cut))
    repository = build_repo(work, "embedded", check=False, report=REPORT)
    datatypes = {INPUT.name: INPUT.datatype}
    meter = find_meter("gpu")
    with embedded_triton(repository) as server:
        loads = {}
        idle_watts = measure_idle_watts(meter)
        for model, outputs in (("pair_giant", ("LABEL",)), ("pair", ("LABEL", "TIER"))):
            run_load(server.grpc_url, model, inputs, datatypes, CLIENTS, outputs)  # warm-up
            loads[model] = _measured(server.grpc_url, model, outputs, meter, idle_watts)
    if meter is not None:
        meter.close()
    answers = loads["pair"][0].outputs
    clear = np.abs(confidence[:, 0] - cut) > CONFIDENCE_TOLERANCE
    wanted = np.where(confidence[:, 0] >= cut, 0, 1)
    np.testing.assert_array_equal(answers["TIER"][clear], wanted[clear])
    same = answers["LABEL"] == label[np.arange(len(label)), answers["TIER"]]
    assert same.mean() > 0.98
    with capsys.disabled():
        _show(gpu, loads, answers["TIER"], meter, idle_watts)


def _in_batches(session: TorchSession, output: str, inputs: dict[str, Array]) -> Array:
    parts = [
        session.run([output], {name: values[start : start + BATCH] for name, values in inputs.items()})[0]
        for start in range(0, len(all_rows()), BATCH)
    ]
    found: Array = np.concatenate(parts)[:, 0]
    return found


def _measured(
    url: str, model: str, outputs: tuple[str, ...], meter: EnergyMeter | None, idle_watts: float
) -> tuple[LoadResult, float | None]:
    """One pass over all rows, and the joules per request above idle; None without a meter."""
    watch = EnergyWatch(meter, idle_watts) if meter else None
    load = run_load(url, model, {INPUT.name: all_rows()}, {INPUT.name: INPUT.datatype}, CLIENTS, outputs)
    return load, watch.stop().dynamic_j / len(all_rows()) if watch else None


def _show(
    gpu: str,
    loads: dict[str, tuple[LoadResult, float | None]],
    tier: Array,
    meter: EnergyMeter | None,
    idle_watts: float,
) -> None:
    name = f"energy by {meter.name} above {idle_watts:.0f} W idle" if meter else "no readable energy meter"
    table = Table("served", "requests/s", "p50 ms", "p99 ms", "J per request", title=f"{gpu}: {name}")
    for model, (load, joules) in loads.items():
        p50, p99 = np.percentile(load.latency_ms, [50, 99])
        table.add_row(
            "giant alone" if model == "pair_giant" else "cascade",
            f"{load.throughput_rps:,.0f}",
            f"{p50:.2f}",
            f"{p99:.2f}",
            "-" if joules is None else f"{joules:.4f}",
        )
    console = Console()
    console.print(table)
    console.print(
        f"{TIERS[0]} answered {(tier == 0).mean():.0%} of {len(tier)} requests at {CLIENTS} clients"
    )
