"""Simulated time: what happens next, and in which order."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

Call = Callable[[Any], None]
Event = tuple[float, int, Call, Any]


class Clock:
    """Events by time; those of one time in the order in which they were planned.

    Attributes:
        now: seconds.
        events: a heap of what is planned.
        number: of the last event that was planned.
    """

    __slots__ = ("events", "now", "number")

    def __init__(self) -> None:
        self.now = 0.0
        self.events: list[Event] = []
        self.number = 0

    def at(self, time_s: float, call: Call, argument: Any) -> None:
        """Call something at a time that is not over yet."""
        self.number += 1
        heappush(self.events, (time_s, self.number, call, argument))

    def run(self) -> None:
        """Let everything happen, until nothing is planned."""
        events = self.events
        while events:
            self.now, _, call, argument = heappop(events)
            call(argument)
