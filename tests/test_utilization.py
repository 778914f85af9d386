"""Kernel utilization of this process and of others, and the time of kernels in torch's traces."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascade_tools.errors import CascadeError, EnvironmentLacks, UsageError
from cascade_tools.machine.kernel_trace import busy_s, covered, intervals_s
from cascade_tools.machine.sampling import Trapezoid
from cascade_tools.machine.utilization import Utilization, measured_utilization, settle
from cascade_tools.spec import DeviceGroup

CPU = DeviceGroup(type="cpu", kind="cpu", cores=4, memory_mib=1000)
GPU = DeviceGroup(type="gpu24", kind="gpu", memory_mib=24_000)

# As Kineto writes it: two kernels that overlap, one on another GPU, a copy, and what a CPU did.
TRACE = {
    "schemaVersion": 1,
    "deviceProperties": [],
    "traceEvents": [
        {"ph": "X", "cat": "cpu_op", "name": "aten::mm", "pid": 9, "tid": 9, "ts": 100.0, "dur": 900.0},
        {"ph": "X", "cat": "kernel", "name": "gemm", "pid": 0, "tid": 7, "ts": 200.0, "dur": 100.5,
         "args": {"device": 0, "stream": 7}},
        {"ph": "X", "cat": "kernel", "name": "relu", "pid": 0, "tid": 8, "ts": 250.0, "dur": 150.0,
         "args": {"device": 0, "stream": 8}},
        {"ph": "X", "cat": "kernel", "name": "gemm", "pid": 1, "tid": 7, "ts": 600.0, "dur": 40.0,
         "args": {"device": 1, "stream": 7}},
        {"ph": "X", "cat": "gpu_memcpy", "name": "HtoD", "pid": 0, "tid": 7, "ts": 150.0, "dur": 20.0,
         "args": {"device": 0, "stream": 7}},
        {"ph": "s", "cat": "ac2g", "name": "ac2g", "id": 1, "pid": 9, "tid": 9, "ts": 110.0},
        {"ph": "M", "name": "process_name", "pid": 0, "ts": 0.0, "args": {"name": "python"}},
    ],
}  # fmt: skip


def test_kernels_that_run_at_once_count_once(tmp_path: Path) -> None:
    file = tmp_path / "trace.json"
    file.write_text(json.dumps(TRACE))
    assert busy_s(file, device=0) == pytest.approx(200e-6)
    assert busy_s(file, device=1) == pytest.approx(40e-6)
    assert busy_s(file) == pytest.approx(240e-6)
    assert busy_s(file, device=2) == 0.0


def test_the_traces_of_this_torch_have_that_form(tmp_path: Path) -> None:
    import torch
    from torch.profiler import ProfilerActivity, profile

    start_s = time.perf_counter()
    with profile(activities=[ProfilerActivity.CPU]) as trace:
        for _ in range(3):
            torch.ones(32, 32) @ torch.ones(32, 32)
    wall_s = time.perf_counter() - start_s
    file = tmp_path / "trace.json"
    trace.export_chrome_trace(str(file))
    assert 0.0 < busy_s(file, category="cpu_op") <= wall_s
    assert busy_s(file) == 0.0  # no kernel without a GPU
    events = json.loads(file.read_text())["traceEvents"]
    found = intervals_s(events, "cpu_op")
    # Operations call each other, so their sum is more than the time that they cover.
    assert covered(found) < sum(stop - start for start, stop in found)


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 10)), max_size=12))
def test_covered_time_is_that_of_the_marked_ticks(drawn: list[tuple[int, int]]) -> None:
    intervals = [(float(start), float(start + length)) for start, length in drawn]
    marked = {tick for start, length in drawn for tick in range(start, start + length)}
    assert covered(intervals) == len(marked)


def test_this_process_is_measured_by_its_cpu_time() -> None:
    with measured_utilization(CPU) as found:
        ends_s = time.process_time() + 0.05
        while time.process_time() < ends_s:
            pass
    # One thread keeps at most one of the four cores busy.
    assert found.by == "cpu_time"
    assert 0.0 < found.share <= 0.3


def test_a_process_that_waits_keeps_nothing_busy_but_has_a_share() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as waiting:
        with measured_utilization(CPU, processes=[waiting.pid]) as found:
            pass
        assert 0.0 < found.share <= 1.0
        waiting.communicate(b"\n")


def test_a_process_that_has_ended_is_one_message() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    with (
        pytest.raises(CascadeError, match=f"process {ended.pid}"),
        measured_utilization(CPU, processes=[ended.pid]),
    ):
        pass


def test_the_share_is_not_known_before_the_end_nor_after_an_error() -> None:
    with measured_utilization(CPU) as found, pytest.raises(RuntimeError, match="when the block has ended"):
        _ = found.share
    with pytest.raises(KeyError), measured_utilization(CPU) as broken:
        raise KeyError
    with pytest.raises(RuntimeError):
        _ = broken.share


@pytest.mark.parametrize(("device", "by"), [(CPU, "cupti"), (CPU, "nvml"), (GPU, "cpu_time")])
def test_what_does_not_fit_the_device_is_refused(device: DeviceGroup, by: str) -> None:
    with pytest.raises(UsageError, match=by), measured_utilization(device, by=by):  # type: ignore[arg-type]
        pass


def test_without_a_gpu_both_ways_say_so() -> None:
    # A number that no machine has.
    for by, processes in (("CUPTI", None), ("NVML|GPU", [os.getpid()])):
        with (
            pytest.raises(EnvironmentLacks, match=by),
            measured_utilization(GPU, processes=processes, gpu=999),
        ):
            pass


def samples(*shares: float) -> Trapezoid:
    under = Trapezoid()
    for number, share in enumerate(shares):
        under.add(float(number), share)
    return under


def test_nvml_samples_are_averaged_over_time() -> None:
    found = Utilization("nvml")
    settle(found, samples(0.5, 1.0, 0.5), 3.0)
    assert found.share == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("under", "seconds", "words"),
    [
        (samples(0.5, 1.0), 1.0, "at least 2 s"),
        (samples(0.5), 3.0, "at least 2 s"),
        (samples(0.0, 0.0), 3.0, "no kernel"),
    ],
)
def test_too_little_work_for_nvml_is_said(under: Trapezoid, seconds: float, words: str) -> None:
    with pytest.raises(CascadeError, match=words):
        settle(Utilization("nvml"), under, seconds)
