"""A device that is shared: work on it slows down in proportion once its utilization exceeds 1.

All work on a device slows down alike, so it is kept by *virtual* time, which passes as fast as the work gets
on: what is started at virtual time v and takes s alone ends at v + s, whatever comes and goes meanwhile.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import Any

from cascade_tools.planning.simulator.clock import Call, Clock

FULL = 1.0 + 1e-9  # sums of shares are not exact


class Device:
    """One device.

    Attributes:
        busy_s: integral of its utilization over time, at most 1 at any time.
    """

    __slots__ = (
        "_clock",
        "_firing",
        "_load",
        "_number",
        "_planned",
        "_plans",
        "_rate",
        "_since",
        "_work",
        "busy_s",
    )

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        # Ends in virtual time; virtual time runs from `_since` on at `_rate`, see `_advance`.
        self._work: list[tuple[float, int, float, Call, Any]] = []
        self._load = 0.0
        self._rate = 1.0
        self._since = (0.0, 0.0)
        self._number = 0
        self._planned = (0, 0.0)  # the work that ends first, and how fast it got on
        self._plans = 0
        self._firing = False
        self.busy_s = 0.0

    def start(self, seconds: float, utilization: float, then: Call, argument: Any) -> None:
        """Run work that takes `seconds` when nothing else runs, then call."""
        begin = self._advance()
        self._number += 1
        heappush(self._work, (begin + seconds, self._number, utilization, then, argument))
        self._load += utilization
        self._rate = 1.0 if self._load <= FULL else 1.0 / self._load
        if not self._firing:
            self._plan()

    def stop(self, then: Call) -> list[Any]:
        """End all work that would have called `then`, without the call; return its arguments in order."""
        self._advance()
        stopped = sorted(work for work in self._work if work[3] == then)
        self._work = [work for work in self._work if work[3] != then]
        heapify(self._work)
        self._load = sum(work[2] for work in self._work)
        self._rate = 1.0 if self._load <= FULL else 1.0 / self._load
        self._plan()
        return [work[4] for work in stopped]

    def _advance(self) -> float:
        """Virtual time of now."""
        now = self._clock.now
        since, virtual = self._since
        passed = now - since
        if passed > 0.0:
            load = self._load
            self.busy_s += passed if load >= 1.0 else load * passed
            virtual += passed * self._rate
            self._since = (now, virtual)
        return virtual

    def _plan(self) -> None:
        """See to it that the work that ends first ends in time."""
        if not self._work:
            self._planned = (0, 0.0)
            return
        end, number = self._work[0][:2]
        planned = (number, self._rate)
        if planned != self._planned:
            self._planned = planned
            since, virtual = self._since
            left = (end - virtual) / self._rate
            self._plans += 1
            self._clock.at(since + left if left > 0.0 else since, self._end, self._plans)

    def _end(self, plan: int) -> None:
        if plan != self._plans or not self._planned[0]:  # something came or went, and it ends at another time
            return
        self._advance()
        _, _, utilization, then, argument = heappop(self._work)
        self._load = self._load - utilization if self._work else 0.0
        self._rate = 1.0 if self._load <= FULL else 1.0 / self._load
        self._planned = (0, 0.0)
        self._firing = True
        then(argument)
        self._firing = False
        self._plan()
