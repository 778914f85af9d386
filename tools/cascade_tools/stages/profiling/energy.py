"""Joules above idle that a block of work takes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from cascade_tools.machine.meters import EnergyMeter, EnergyWatch, find_meter, measure_idle_watts
from cascade_tools.spec import DeviceGroup

PERIODS = 10  # what is measured must be long against the step of the counter


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

    @property
    def shortest_s(self) -> float:
        """For which the work must last."""
        return 0.0 if self.meter is None else PERIODS * self.meter.period_s

    @contextmanager
    def spent(self) -> Iterator[Spent]:
        """Count the energy of a block, what idling would have taken apart."""
        found = Spent()
        if self.meter is None:
            yield found
            return
        watch = EnergyWatch(self.meter, self.idle_watts)
        yield found
        found.joules = watch.stop().dynamic_j


@contextmanager
def metering(device: DeviceGroup) -> Iterator[Metering]:
    """The meter of a device that has nothing to do now, and its idle power."""
    meter = find_meter(device.kind, gpu=None if device.kind == "cpu" else 0)
    try:
        yield Metering(meter, measure_idle_watts(meter))
    finally:
        if meter is not None:
            meter.close()
