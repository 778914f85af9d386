"""What the host of a virtual machine took while its cores had work: time, and speed (`core_speed`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

import psutil

from cascade_tools.machine.core_speed import watched_cores

Found = TypeVar("Found")
CALM = 1.05  # how many times longer work may take because cores were taken away
CALM_CORES = 1.08  # and because they were slower, too
ATTEMPTS = 4
IDLE = ("idle", "iowait", "steal", "guest", "guest_nice")  # guests are in user time already


def stretch_since_now() -> Callable[[], float]:
    """A function that says how many times longer all work has taken since, because cores were taken away.

    1 where nothing was, or where the system does not tell.
    """
    before = psutil.cpu_times()

    def stretch() -> float:
        now = psutil.cpu_times()
        spent = {name: getattr(now, name) - getattr(before, name) for name in now._fields}
        worked_s = sum(seconds for name, seconds in spent.items() if name not in IDLE)
        return 1.0 + max(0.0, spent.get("steal", 0.0)) / worked_s if worked_s > 0.0 else 1.0

    return stretch


class Calmest(NamedTuple, Generic[Found]):
    """What was measured while the host took the least.

    Attributes:
        stretch: how many times longer all work took because cores were taken away.
        slowness: how many times longer than at the cores' full speed; CPU times have it in them.
    """

    found: Found
    stretch: float
    slowness: float

    @property
    def is_calm(self) -> bool:
        """It need not be measured again."""
        return self.stretch <= CALM and self.stretch * self.slowness <= CALM_CORES


def calmest(measure: Callable[[], Found]) -> Calmest[Found]:
    """Measure, and again while the host takes too much away, `ATTEMPTS` times at most.

    What counts is time that is taken from the cores and speed that they lose to a neighbour alike.
    """
    best: Calmest[Found] | None = None
    for _ in range(ATTEMPTS):
        with watched_cores() as speed:
            stretch = stretch_since_now()
            found = measure()
            taken = stretch()
        made = Calmest(found, taken, speed.slowness())
        if best is None or made.stretch * made.slowness < best.stretch * best.slowness:
            best = made
        if best.is_calm:
            break
    assert best is not None
    return best
