from __future__ import annotations

import sys
from typing import NamedTuple

import psutil
import pytest

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
    ("stolen", "found", "stretch"),
    [
        ((0.0,), 1, 1.0),
        ((3.0, 0.0), 2, 1.0),
        ((3.0, 1.0, 2.0), 2, 2.0),  # the calmest of as many as there are
        ((0.04,), 1, 1.04),
    ],
)
def test_what_was_measured_while_the_host_took_cores_is_measured_again(
    monkeypatch: pytest.MonkeyPatch, stolen: tuple[float, ...], found: int, stretch: float
) -> None:
    """Every time one second of work."""
    told = [Times(0.0, 0.0, 0.0, 0.0)]
    made = []

    def measure() -> int:
        made.append(1)
        before = told[-1]
        taken = stolen[len(made) - 1]
        told.append(before._replace(user=before.user + 1.0, steal=before.steal + taken))
        return len(made)

    monkeypatch.setattr(psutil, "cpu_times", lambda: told[-1])
    kept, taken = calmest(measure)
    assert kept == found
    assert taken == pytest.approx(stretch)
    assert len(made) == len(stolen)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells it, other systems need not")
def test_linux_tells_it() -> None:
    assert "steal" in psutil.cpu_times()._fields
