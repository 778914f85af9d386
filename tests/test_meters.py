"""Meters: RAPL's counters over a folder tree of the kernel's shape, NVML's library as it is here."""

from __future__ import annotations

import threading
from pathlib import Path

import pynvml
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascade_tools.errors import CascadeError, EnvironmentLacks
from cascade_tools.machine import meters
from cascade_tools.machine.meters import (
    EnergyMeter,
    EnergyWatch,
    NoMeter,
    Spent,
    find_meter,
    look_for_meter,
    measure_idle_watts,
)
from cascade_tools.machine.nvml import visible
from cascade_tools.machine.sampling import Sampler, Trapezoid


def zone(root: Path, number: str, name: str, energy_uj: int, range_uj: int = 1_000_000) -> Path:
    folder = root / f"intel-rapl:{number}"
    folder.mkdir()
    (folder / "name").write_text(f"{name}\n")
    (folder / "energy_uj").write_text(f"{energy_uj}\n")
    (folder / "max_energy_range_uj").write_text(f"{range_uj}\n")
    return folder


def meter_of(root: Path) -> EnergyMeter:
    meter = find_meter("cpu", root=root)
    assert meter is not None
    return meter


def test_joules_count_from_the_start_over_all_packages(tmp_path: Path) -> None:
    first, second = zone(tmp_path, "0", "package-0", 500_000), zone(tmp_path, "1", "package-1", 100)
    meter = meter_of(tmp_path)
    assert (meter.name, meter.devices) == ("rapl", ("package-0", "package-1"))
    assert meter.read_j() == 0.0
    (first / "energy_uj").write_text("700000\n")
    (second / "energy_uj").write_text("50100\n")
    assert meter.read_j() == pytest.approx(0.25)


def test_a_counter_that_wraps_around_goes_on(tmp_path: Path) -> None:
    only = zone(tmp_path, "0", "package-0", 900_000)
    meter = meter_of(tmp_path)
    (only / "energy_uj").write_text("100000\n")
    assert meter.read_j() == pytest.approx(0.2)
    (only / "energy_uj").write_text("300000\n")
    assert meter.read_j() == pytest.approx(0.4)


@pytest.mark.parametrize(("number", "name"), [("0:0", "core"), ("0:1", "dram"), ("1", "psys")])
def test_what_a_package_counts_is_not_counted_again(tmp_path: Path, number: str, name: str) -> None:
    zone(tmp_path, "0", "package-0", 0)
    other = zone(tmp_path, number, name, 0)
    meter = meter_of(tmp_path)
    (other / "energy_uj").write_text("500000\n")
    assert meter.read_j() == 0.0


def test_without_a_package_there_is_no_meter_and_a_reason(tmp_path: Path) -> None:
    for root in (tmp_path, tmp_path / "missing"):
        found = look_for_meter("cpu", root=root)
        assert isinstance(found, NoMeter)
        assert str(root) in found.why
    assert find_meter("cpu", root=tmp_path) is None


def test_one_package_that_cannot_be_read_is_no_meter_at_all(tmp_path: Path) -> None:
    zone(tmp_path, "0", "package-0", 0)
    closed = zone(tmp_path, "1", "package-1", 0) / "energy_uj"
    closed.unlink()
    closed.mkdir()  # not readable as a file, whoever asks
    found = look_for_meter("cpu", root=tmp_path)
    assert isinstance(found, NoMeter)
    assert str(closed) in found.why


def test_a_counter_that_goes_away_is_one_message(tmp_path: Path) -> None:
    only = zone(tmp_path, "0", "package-0", 0)
    meter = meter_of(tmp_path)
    (only / "energy_uj").unlink()
    with pytest.raises(EnvironmentLacks, match="RAPL"):
        meter.read_j()


def test_idle_power_is_taken_off_what_was_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meters, "IDLE_S", 0.01)
    only = zone(tmp_path, "0", "package-0", 0, range_uj=10**9)
    meter = meter_of(tmp_path)
    assert measure_idle_watts(None) == 0.0
    assert measure_idle_watts(meter) == 0.0  # nothing moves the counter
    watch = EnergyWatch(meter, idle_watts=0.0)
    (only / "energy_uj").write_text("3000000\n")
    assert watch.stop().dynamic_j == pytest.approx(3.0)
    watch.start()
    assert watch.stop().total_j == 0.0


def test_the_idle_share() -> None:
    spent = Spent(total_j=50.0, seconds=2.0, idle_watts=10.0)
    assert (spent.dynamic_j, spent.idle_share) == (30.0, 0.4)
    assert Spent(0.0, 1.0, 0.0).idle_share is None
    less_than_idle = Spent(total_j=5.0, seconds=1.0, idle_watts=10.0)
    assert (less_than_idle.dynamic_j, less_than_idle.idle_share) == (0.0, 1.0)


TIMES = st.lists(st.floats(0.001, 10.0), min_size=1, max_size=20)


@given(TIMES, st.floats(-100.0, 100.0), st.floats(-1000.0, 1000.0))
def test_power_on_a_straight_line_is_integrated_exactly(
    gaps: list[float], slope: float, start: float
) -> None:
    under, now = Trapezoid(), 5.0
    under.add(now, start)
    for gap in gaps:
        now += gap
        under.add(now, start + slope * (now - 5.0))
    whole = now - 5.0
    assert under.duration_s == pytest.approx(whole)
    assert under.area == pytest.approx(start * whole + slope * whole**2 / 2.0, rel=1e-9, abs=1e-6)


@given(st.lists(st.tuples(st.floats(0.001, 10.0), st.floats(0.0, 700.0)), min_size=2, max_size=20))
def test_joules_never_fall_and_lie_between_the_extremes(samples: list[tuple[float, float]]) -> None:
    under, now, before = Trapezoid(), 0.0, 0.0
    for gap, watts in samples:
        now += gap
        under.add(now, watts)
        assert under.area >= before
        before = under.area
        under.add(now, 1e6)  # the same moment again says nothing new
        assert under.area == before
    watts_seen = [watts for _, watts in samples]
    assert min(watts_seen) * under.duration_s <= under.area + 1e-6
    assert under.area <= max(watts_seen) * under.duration_s + 1e-6


def test_the_sampler_reads_on_its_own_and_stops() -> None:
    several, count = threading.Event(), 0

    def watts() -> float:
        nonlocal count
        count += 1
        if count >= 4:
            several.set()
        return 7.0

    sampler = Sampler(watts, period_s=0.001)
    assert several.wait(30.0)
    under = sampler.take()
    assert under.area == pytest.approx(7.0 * under.duration_s)
    sampler.close()
    assert not any(thread.name == "sampler" for thread in threading.enumerate())
    stopped = count
    assert sampler.take().area == pytest.approx(7.0 * under.duration_s)
    assert count == stopped


def test_a_sampler_that_nobody_holds_stops() -> None:
    sampler = Sampler(lambda: 1.0, period_s=0.001)
    thread = next(thread for thread in threading.enumerate() if thread.name == "sampler")
    del sampler
    thread.join(30.0)
    assert not thread.is_alive()


def test_what_fails_while_sampling_is_said_to_who_reads() -> None:
    failed, gone = threading.Event(), CascadeError("the GPU is gone")

    def watts() -> float:
        if threading.current_thread().name == "sampler":
            failed.set()
            raise gone
        return 1.0

    sampler = Sampler(watts, period_s=0.001)
    assert failed.wait(30.0)
    sampler.close()
    with pytest.raises(CascadeError, match="the GPU is gone"):
        sampler.take()


def has_gpu() -> bool:
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return False
    pynvml.nvmlShutdown()
    return True


def test_without_a_driver_the_reason_is_what_nvml_says() -> None:
    if has_gpu():
        pytest.skip("there is an NVIDIA GPU here: tests/gpu reads its meter")
    found = look_for_meter("gpu")
    assert isinstance(found, NoMeter)
    assert "NVML" in found.why
    assert find_meter("gpu", gpu=0) is None


UUIDS = ["GPU-aa11", "GPU-ab22", "GPU-cc33"]


@pytest.mark.parametrize(
    ("setting", "seen"),
    [
        (None, [0, 1, 2]),
        ("", []),
        ("2,0", [2, 0]),
        ("1, 2", [1, 2]),
        ("0,7,1", [0]),  # CUDA stops at the first that it does not know
        ("-1", []),
        ("GPU-cc,GPU-aa11", [2, 0]),
        ("GPU-a", []),  # names two
        ("MIG-aa11", []),
    ],
)
def test_gpus_have_the_numbers_that_cuda_gives_them(setting: str | None, seen: list[int]) -> None:
    assert visible(setting, UUIDS) == seen
