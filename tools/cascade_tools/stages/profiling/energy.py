"""Joules above idle that a block of work takes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from cascade_tools.machine.meters import EnergyMeter

IDLE_SECONDS = 1.0


@dataclass
class Spent:
    """Dynamic energy of the block, once it has ended; None without a meter."""

    joules: float | None = None

    def per(self, count: float) -> float | None:
        """Joules of one of so many rows, or whatever is counted."""
        return None if self.joules is None else self.joules / count


@dataclass(frozen=True)
class Metering:
    """A meter, if there is one, and the watts that it counts without work."""

    meter: EnergyMeter | None
    idle_watts: float

    @contextmanager
    def spent(self) -> Iterator[Spent]:
        """Count the energy of a block, what idling would have taken apart."""
        found = Spent()
        if self.meter is None:
            yield found
            return
        start_j, start_s = self.meter.read_j(), time.perf_counter()
        yield found
        idle_j = self.idle_watts * (time.perf_counter() - start_s)
        found.joules = max(0.0, self.meter.read_j() - start_j - idle_j)


def metering(meter: EnergyMeter | None) -> Metering:
    """Measure the idle power of a machine that has nothing to do now."""
    if meter is None:
        return Metering(None, 0.0)
    start_j, start_s = meter.read_j(), time.perf_counter()
    time.sleep(IDLE_SECONDS)
    return Metering(meter, (meter.read_j() - start_j) / (time.perf_counter() - start_s))
