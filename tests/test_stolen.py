from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import NamedTuple

import psutil
import pytest

from cascade_tools.machine import stolen
from cascade_tools.machine.core_speed import CoreSpeed
from cascade_tools.machine.stolen import calmest, stretch_since_now


class Times(NamedTuple):
    user: float
    system: float
    idle: float
    steal: float


@pytest.mark.parametrize(
    ("after", "stretch"),
    [
        (Times(3.0, 2.0, 50.0, 0.0), 1.0),
        (Times(3.0, 2.0, 50.0, 2.0), 1.5),  # four seconds of work took six
        (Times(0.5, 0.5, 50.0, 0.0), 1.0),  # nothing was done
    ],
)
def test_what_the_host_takes_away_stretches_the_work(
    monkeypatch: pytest.MonkeyPatch, after: Times, stretch: float
) -> None:
    told = iter([Times(0.5, 0.5, 0.0, 0.0), after])
    monkeypatch.setattr(psutil, "cpu_times", lambda: next(told))
    assert stretch_since_now()() == pytest.approx(stretch)


@pytest.mark.parametrize(
    ("taken_s", "found", "stretch"),
    [
        ((0.0,), 1, 1.0),
        ((3.0, 0.0), 2, 1.0),
        ((3.0, 1.0, 2.0, 4.0), 2, 2.0),  # the calmest of as many as there are
        ((0.04,), 1, 1.04),
        ((0.06, 0.01), 2, 1.01),
        ((0.2,) * stolen.ATTEMPTS, 1, 1.2),
    ],
)
def test_what_was_measured_while_the_host_took_cores_is_measured_again(
    monkeypatch: pytest.MonkeyPatch, taken_s: tuple[float, ...], found: int, stretch: float
) -> None:
    """Every time one second of work."""
    told = [Times(0.0, 0.0, 0.0, 0.0)]
    made = []

    def measure() -> int:
        made.append(1)
        before = told[-1]
        more_s = taken_s[len(made) - 1]
        told.append(before._replace(user=before.user + 1.0, steal=before.steal + more_s))
        return len(made)

    monkeypatch.setattr(psutil, "cpu_times", lambda: told[-1])
    monkeypatch.setattr(stolen, "watched_cores", lambda: nullcontext(CoreSpeed()))
    calm = calmest(measure)
    assert calm.found == found
    assert calm.stretch == pytest.approx(stretch)
    assert calm.slowness == 1.0
    assert len(made) == len(taken_s)


def test_what_was_measured_while_the_cores_were_slow_is_measured_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """CPU times have it in them, so it is no part of the stretch."""
    slowness = iter((1.9, 1.3, 1.02))
    made: list[int] = []

    @contextmanager
    def watched() -> Iterator[SimpleNamespace]:
        seen = next(slowness)
        yield SimpleNamespace(slowness=lambda: seen)

    def measure() -> int:
        made.append(1)
        return len(made)

    monkeypatch.setattr(psutil, "cpu_times", lambda: Times(1.0, 1.0, 1.0, 0.0))
    monkeypatch.setattr(stolen, "watched_cores", watched)
    assert calmest(measure) == (3, 1.0, 1.02)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells it, other systems need not")
def test_linux_tells_it() -> None:
    assert "steal" in psutil.cpu_times()._fields
