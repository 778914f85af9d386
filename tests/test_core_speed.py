"""How fast the cores are: what is told of samples, and samples of this machine's cores."""

from __future__ import annotations

import os
import time
from pathlib import Path

import psutil
import pytest

from cascade_tools.machine import core_speed
from cascade_tools.machine.core_speed import CoreSpeed, watched_cores


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What this process has seen so far: full speed is 100 ns, and half of the time the cores were slow."""
    samples = [98.0, 100.0, 102.0, 190.0, 195.0, 200.0]
    monkeypatch.setattr(core_speed, "_seen_ns", samples)
    return samples


def test_slowness_is_held_against_the_best_times(seen: list[float]) -> None:
    assert CoreSpeed([0.0, 0.1], [100.0, 100.0]).slowness() == 1.0
    assert CoreSpeed([0.0, 0.1], [100.0, 200.0]).slowness() == pytest.approx(1.5)
    assert CoreSpeed([0.0], [90.0]).slowness() == 1.0
    assert CoreSpeed().slowness() == 1.0


def test_speed_is_told_of_each_sample(seen: list[float]) -> None:
    assert CoreSpeed([0.0, 0.1, 0.2], [100.0, 200.0, 90.0]).speed().tolist() == [1.0, 0.5, 1.0]
    assert CoreSpeed().speed().tolist() == []


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="cores are watched on Linux alone")
def test_this_machines_cores_are_watched_and_nothing_is_left_running(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core_speed, "has_neighbours", lambda: True)
    before = set(psutil.Process().children())
    with watched_cores() as speed:
        watchers = set(psutil.Process().children()) - before
        time.sleep(0.5)
    cores = min(core_speed.MOST_CORES, len(os.sched_getaffinity(0)))
    assert len(watchers) == cores
    assert not any(one.is_running() for one in watchers)
    assert len(speed.spent_ns) >= 4 * cores
    assert speed.slowness() >= 1.0
    assert max(speed.at_s) - min(speed.at_s) < 5.0


@pytest.mark.parametrize(
    ("flags", "siblings", "watched"),
    [
        ("fpu hypervisor avx", ("0", "1"), True),
        ("fpu avx", ("0", "1"), False),  # a machine of one's own
        ("fpu hypervisor avx", ("0-1", "0-1"), False),  # the other thread of a core is one's own, too
        ("fpu hypervisor avx", ("0,2", "1,3"), False),
        ("fpu hypervisor avx", (), False),
    ],
)
def test_neighbours_are_looked_for_where_nothing_else_can_slow_a_core(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: str, siblings: tuple[str, ...], watched: bool
) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor : 0\nflags\t\t: {flags}\n")
    for number, text in enumerate(siblings):
        folder = tmp_path / f"cpu{number}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{text}\n")
    monkeypatch.setattr(core_speed, "CPU_INFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(core_speed, "CPUS", tmp_path)
    core_speed.has_neighbours.cache_clear()
    try:
        assert core_speed.has_neighbours() is watched
    finally:
        core_speed.has_neighbours.cache_clear()


def test_without_neighbours_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core_speed, "has_neighbours", lambda: False)
    with watched_cores() as speed:
        pass
    assert speed.slowness() == 1.0
