"""Simulated time: what happens next, and in which order."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

Call = Callable[[Any], None]


class Clock:
    """Events by time; those of one time in the order in which they were planned.

    Attributes:
        now: seconds.
    """

    __slots__ = ("_events", "_number", "now")

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Call, Any]] = []
        self._number = 0

    def at(self, time_s: float, call: Call, argument: Any) -> None:
        """Call something at a time that is not over yet."""
        self._number += 1
        heappush(self._events, (time_s, self._number, call, argument))

    def run(self) -> None:
        """Let everything happen, until nothing is planned."""
        events = self._events
        while events:
            self.now, _, call, argument = heappop(events)
            call(argument)
