from __future__ import annotations

import sys
from typing import NamedTuple

import psutil
import pytest

from cascade_tools.machine.stolen import stretch_since_now


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


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells it, other systems need not")
def test_linux_tells_it() -> None:
    assert "steal" in psutil.cpu_times()._fields
