"""How requests come in."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from typing import Any

from cascade_tools.planning.simulator.clock import Clock


class Front:
    """Requests by arrival.

    Args:
        clock: of the simulation.
        arrival_s: of every request, ascending.
        wake: is called when something has come that nobody took.
    """

    __slots__ = ("_arrival_s", "_clock", "_planned", "_wake", "count")

    def __init__(self, clock: Clock, arrival_s: list[float], wake: Callable[[], None]) -> None:
        self._clock = clock
        self._arrival_s = arrival_s
        self._wake = wake
        self._planned = -1
        self.count = len(arrival_s)

    def come(self, first: int, most: int) -> int:
        """Requests from `first` up to this number have come, `most` at most; if none, `wake` will tell."""
        arrival_s, now = self._arrival_s, self._clock.now
        if first >= self.count:
            return first
        if arrival_s[first] > now:
            if self._planned < first:
                self._planned = first
                self._clock.at(arrival_s[first], self._arrive, None)
            return first
        return bisect_right(arrival_s, now, first + 1, min(self.count, first + most))

    def _arrive(self, _: Any) -> None:
        self._wake()
