"""The pieces of a profile that need no server: batches, repetitions, points, configs for measuring."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2 as pb

from cascade_tools.artifacts import Calibration, InputSpec
from cascade_tools.backends.repeated_tier import Repeated
from cascade_tools.errors import UsageError
from cascade_tools.machine.meters import EnergyMeter
from cascade_tools.models.open_model import OpenModel
from cascade_tools.models.usercode import Rows
from cascade_tools.repository.profiling import TierLimits, for_measuring, profiling_files
from cascade_tools.spec import DeviceGroup
from cascade_tools.stages.profiling.batches import DIFFERENT, draw
from cascade_tools.stages.profiling.energy import Metering
from cascade_tools.stages.profiling.in_process import REPETITION_RUNS, measure
from cascade_tools.stages.profiling.runs import Memory, Runs, by_cpu_time, make_point

from .helpers import exported, spec_content, write_cascade

DEVICE = DeviceGroup(type="cpu", kind="cpu", cores=4, memory_mib=100, busy_watts=5.0)


def some_rows(count: int = 50) -> Rows:
    values = np.random.default_rng(1).normal(size=(count, 3)).astype(np.float32)
    return Rows({"X": values}, np.zeros(count, np.int64), np.arange(count))


def runs(**changes: Any) -> Runs:
    values: dict[str, Any] = {
        "batch": 4,
        "p50_ms": 8.0,
        "p99_ms": 9.0,
        "spread": 0.01,
        "cpu_ms": 4.0,
        "throughput_rps": 500.0,
        "energy_j": None,
        "timed_by": "process",
    }
    return Runs(**{**values, **changes})


# Inputs


def test_batches_are_the_users_rows_and_the_same_every_time() -> None:
    rows = some_rows()
    known = {row.tobytes() for row in rows.inputs["X"]}
    batches = draw(rows, 8)
    assert len(batches) == DIFFERENT
    assert all(len(batch["X"]) == 8 for batch in batches)
    assert {row.tobytes() for batch in batches for row in batch["X"]} <= known
    assert len({batch["X"].tobytes() for batch in batches}) == DIFFERENT
    for one, other in zip(batches, draw(rows, 8), strict=True):
        np.testing.assert_array_equal(one["X"], other["X"])


# In process


def test_every_batch_that_is_run_is_one_of_those_that_were_drawn() -> None:
    rows, seen = some_rows(), list[bytes]()
    found = measure(
        OpenModel(lambda inputs: seen.append(inputs["X"].tobytes())), rows, 2, Metering(None, 0.0)
    )
    assert set(seen) == {batch["X"].tobytes() for batch in draw(rows, 2)}
    assert len(seen) >= REPETITION_RUNS
    assert 0 < found.p50_ms <= found.p99_ms
    assert found.throughput_rps == pytest.approx(2000.0 / found.p50_ms)
    assert found.energy_j is None


class Counter:
    """A meter that counts one joule every time that it is read."""

    name = "counter"
    devices: tuple[str, ...] = ("nothing",)
    period_s = 0.0

    def __init__(self) -> None:
        self.joules = 0.0

    def read_j(self) -> float:
        self.joules += 1.0
        return self.joules

    def close(self) -> None:
        pass


def test_energy_is_what_the_meter_counted_less_what_idling_takes() -> None:
    meter: EnergyMeter = Counter()
    with Metering(meter, 0.0).spent() as spent:
        pass
    assert spent.joules == 1.0
    assert spent.per(4) == 0.25
    with Metering(meter, 1e9).spent() as spent:
        pass
    assert spent.joules == 0.0, "never below nothing"
    with Metering(None, 0.0).spent() as spent:
        pass
    assert spent.per(4) is None


# Points


def test_utilization_is_cpu_time_over_wall_time_and_cores() -> None:
    assert by_cpu_time(runs(), DEVICE).share == pytest.approx(0.125)
    assert by_cpu_time(runs(instances=4), DEVICE).share == pytest.approx(0.5)
    assert by_cpu_time(runs(cpu_ms=None), DEVICE).share == pytest.approx(0.25), "one core per instance"
    assert by_cpu_time(runs(cpu_ms=1e9), DEVICE).share == 1.0
    assert by_cpu_time(runs(cpu_ms=0.0), DEVICE).share > 0.0
    taken = runs(stretch=1.5)  # the host took a third of the time: the same work in less of it
    assert by_cpu_time(taken, DEVICE).share == pytest.approx(0.1875)
    energy = [
        make_point("a", "onnx", DEVICE, r, Memory(1.0), by_cpu_time(r, DEVICE)).energy_j
        for r in (runs(), taken)
    ]
    assert energy[0] == energy[1], "what the host took did not take our energy"


def test_energy_is_modelled_only_without_a_meter_and_with_watts() -> None:
    utilization = by_cpu_time(runs(), DEVICE)
    modelled = make_point("a", "onnx", DEVICE, runs(), Memory(1.0), utilization)
    assert modelled.energy_j == pytest.approx(5.0 * 0.004 / 4)
    assert modelled.energy_origin == "modelled"
    measured = make_point("a", "onnx", DEVICE, runs(energy_j=0.5), Memory(1.0), utilization)
    assert (measured.energy_j, measured.energy_origin) == (0.5, "measured")
    no_watts = DEVICE.model_copy(update={"busy_watts": None})
    unknown = make_point("a", "onnx", no_watts, runs(), Memory(1.0), utilization)
    assert (unknown.energy_j, unknown.energy_origin) == (None, None)


# Through the server


def test_the_config_that_is_measured_is_the_rendered_one_but_for_instances_and_joining(
    tmp_path: Path,
) -> None:
    calibration = Calibration(
        cascade="c",
        made_from={},
        inputs=(InputSpec(name="X", datatype="FP32", dims=(3,)),),
        classes=2,
        rows={},
        tiers=(),
    )
    tier = exported("onnx", "a.onnx")
    files = profiling_files(TierLimits("c", 8, probabilities=False), calibration, {"c_a": tier}, tmp_path)
    assert files["c_a/1/model.onnx"] == tmp_path / "export" / "a.onnx"
    assert {"tier.py", "model.py", "onnx_session.py"} <= {Path(name).name for name in files}
    config = files["c_a/config.pbtxt"]
    assert isinstance(config, bytes)
    rendered = text_format.Parse(config.decode(), pb.ModelConfig())
    assert rendered.HasField("dynamic_batching")
    measured = json_format.Parse(for_measuring(config, 3), pb.ModelConfig())
    assert not measured.HasField("dynamic_batching")
    assert [group.count for group in measured.instance_group] == [3]
    rendered.ClearField("dynamic_batching")
    rendered.instance_group[0].count = 3
    assert measured == rendered


def test_a_repeated_session_runs_so_often_and_is_otherwise_the_same() -> None:
    class Session:
        inputs = ("X",)
        ran = 0

        def run(self, outputs: list[str], inputs: dict[str, int]) -> list[int]:
            self.ran += 1
            return [inputs["X"]]

    session = Session()
    repeated = Repeated(session)
    assert repeated.run(["Y"], {"X": 7}) == [7]
    assert session.ran == 1
    repeated.times = 5
    assert repeated.run(["Y"], {"X": 8}) == [8]
    assert session.ran == 6
    assert repeated.inputs == ("X",)


# What is asked for


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"batches": [2, 4]}, "'batches' must hold 1"),
        ({"batches": [1, 0]}, "'batches' must be whole numbers from 1"),
        ({"instances": [1, 1]}, "'instances' must be whole numbers from 1, none of them twice"),
        ({"instances": [1, 1000]}, "'instances' must be at most 64"),
        ({"through": "magic"}, "profile.through"),
    ],
)
def test_a_wrong_profile_section_is_named(tmp_path: Path, section: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        write_cascade(tmp_path, {**spec_content(), "profile": section})


def test_the_command_line_comes_before_the_spec(tmp_path: Path) -> None:
    cascade = write_cascade(tmp_path, {**spec_content(), "profile": {"batches": [1, 8]}})
    changed = cascade.with_profile({"through": "process"})
    assert (changed.profile.through, changed.profile.batches) == ("process", (1, 8))
    assert changed.folder == cascade.folder
    with pytest.raises(UsageError, match=r"profile: .*must hold 1"):
        cascade.with_profile({"batches": (2,)})
    assert json.loads(cascade.profile.model_dump_json())["batches"] == [1, 8]
