from __future__ import annotations

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


def test_this_system_tells_it() -> None:
    stretch = stretch_since_now()
    sum(range(3_000_000))
    assert stretch() >= 1.0
