"""A tier measured on a real Triton, by the built-in client and by perf_analyzer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cascade_tools.artifacts import Calibration, Exported, TimedBy
from cascade_tools.errors import CascadeError
from cascade_tools.models.usercode import load_rows
from cascade_tools.planning.memory import held_mib
from cascade_tools.repository.profiling import TierLimits, profiling_files
from cascade_tools.serving.perf_analyzer import find_perf_analyzer
from cascade_tools.serving.stubs import live_stubs
from cascade_tools.serving.tier_load import Target, load_tier
from cascade_tools.serving.tier_server import TierServer, tier_server
from cascade_tools.stages.calibrate import CALIBRATION_FILE
from cascade_tools.stages.export import EXPORTED_FILE
from cascade_tools.stages.profiling.batches import draw
from cascade_tools.stages.profiling.energy import Metering
from cascade_tools.stages.profiling.runs import Memory, Runs
from cascade_tools.stages.profiling.through_server import Sweep, measure_tier
from cascade_tools.store import Workspace

from ..cli_calls import forgotten_user_code

MODEL = "small_kernel"
BATCH = 8


@pytest.fixture(scope="module")
def alone(triton: None, small: Workspace) -> Iterator[TierServer]:
    """A server with one tier, which is not loaded."""
    cascade = small.cascade
    limits = TierLimits(cascade.name, cascade.serving.max_batch_size, cascade.serving.probabilities)
    calibration = small.load(CALIBRATION_FILE, Calibration, "calibrate")
    exported = small.load(EXPORTED_FILE, Exported, "export").tier("kernel")
    with tier_server(profiling_files(limits, calibration, {MODEL: exported}, small.build)) as server:
        yield server


def measure(
    server: TierServer, work: Workspace, instances: tuple[int, ...], program: Path | None
) -> list[tuple[Runs, Memory]]:
    with forgotten_user_code():
        rows = load_rows(work.cascade, "validation")
    sweep = Sweep(server, rows, (BATCH,), instances, program, Metering(None, 0.0))
    return measure_tier(sweep, MODEL, lambda: None)


def assert_complete(run: Runs, instances: int, timed_by: TimedBy) -> None:
    assert (run.batch, run.instances, run.timed_by, run.origin) == (BATCH, instances, timed_by, "measured")
    assert 0 < run.p50_ms <= run.p99_ms
    assert run.overhead_ms is not None and run.overhead_ms >= 0
    assert run.client_p50_ms is not None and run.client_p50_ms > 0
    assert run.queue_ms is not None and run.queue_ms >= 0
    assert run.cpu_ms is not None and 0 < run.cpu_ms <= run.p50_ms
    assert run.throughput_rps > 0
    assert run.spread is not None and run.spread >= 0


def test_the_built_in_client_measures_one_and_two_instances(alone: TierServer, small: Workspace) -> None:
    (one, memory), (two, memory_of_two) = measure(alone, small, (1, 2), None)
    assert_complete(one, 1, "client")
    assert_complete(two, 2, "client")
    held = 2 * memory_of_two.own_mib
    assert held == pytest.approx(held_mib(memory.own_mib, memory.shared_mib, 2), rel=0.15)
    assert live_stubs(alone.server.process.pid) == {}, "nothing stays loaded"


def test_perf_analyzer_gives_the_same_table(alone: TierServer, small: Workspace) -> None:
    try:
        program = find_perf_analyzer()
    except CascadeError as error:
        pytest.skip(f"NOT MEASURED WITH perf_analyzer: {error.message}; {error.hint}")
    ((run, memory),) = measure(alone, small, (1,), program)
    assert_complete(run, 1, "perf_analyzer")
    assert memory.own_mib > 0


def test_a_batch_that_is_refused_is_one_message(alone: TierServer, small: Workspace) -> None:
    with forgotten_user_code():
        rows = load_rows(small.cascade, "validation")
    with alone.loaded(MODEL, 1), pytest.raises(CascadeError, match=f"model {MODEL}: .*batch-size") as caught:
        load_tier(Target(alone.url, MODEL, 1, None), draw(rows, BATCH + 1))
    assert len(caught.value.message.splitlines()) == 1
    assert live_stubs(alone.server.process.pid) == {}
