"""Where requests come from, and what of them has reached the router's queue."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from typing import Any

from cascade_tools.planning.simulator.clock import Clock
from cascade_tools.planning.simulator.device import Device

ROWS_AT_ONCE = 8  # that client and front end work on in one event: a bound on how coarse the stream gets


class Front:
    """Requests by arrival; client and front end spend CPU time on each, one after the other.

    Args:
        clock: of the simulation.
        arrival_s: of every request, ascending.
        device: of the CPU time; None where it is counted nowhere, or where there is none.
        seconds: CPU time of one request.
        share: of the device that one core is.
        wake: is called when something has come that nobody took.
    """

    __slots__ = (
        "_arrival_s",
        "_busy",
        "_clock",
        "_come",
        "_device",
        "_planned",
        "_seconds",
        "_share",
        "_wake",
        "count",
    )

    def __init__(
        self,
        clock: Clock,
        arrival_s: list[float],
        device: Device | None,
        seconds: float,
        share: float,
        wake: Callable[[], None],
    ) -> None:
        self._clock = clock
        self._arrival_s = arrival_s
        self._device = device if seconds > 0.0 else None
        self._seconds = seconds
        self._share = share
        self._wake = wake
        self._come = 0
        self._planned = -1
        self._busy = False
        self.count = len(arrival_s)

    def start(self) -> None:
        """Await the first request."""
        if self.count:
            self._await(0)

    def come(self, first: int, most: int) -> int:
        """Requests from `first` up to this number have come, `most` at most; if none, `wake` will tell."""
        if self._device is not None:
            return min(self._come, first + most)
        end = min(self.count, first + most)
        found = bisect_right(self._arrival_s, self._clock.now, first, end)
        if found == first and first < self.count:
            self._await(first)
        return found

    def _await(self, number: int) -> None:
        if self._planned < number:
            self._planned = number
            self._clock.at(self._arrival_s[number], self._arrive, None)

    def _arrive(self, _: Any) -> None:
        if self._device is None:
            self._wake()
        elif not self._busy:
            self._take()

    def _take(self) -> None:
        """Work on what has come."""
        assert self._device is not None
        first = self._come
        end = min(self.count, first + ROWS_AT_ONCE)
        found = bisect_right(self._arrival_s, self._clock.now, first, end)
        if found > first:
            self._busy = True
            self._device.start((found - first) * self._seconds, self._share, self._took, found)
        elif first < self.count:
            self._await(first)

    def _took(self, found: int) -> None:
        self._come = found
        self._busy = False
        self._take()
        self._wake()
