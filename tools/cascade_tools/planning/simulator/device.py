"""A device that is shared: work on it slows down in proportion once its utilization exceeds 1.

While there is room, work ends when it would alone. Where there is not, all of it slows down alike, so it is
kept by *virtual* time, which passes as fast as the work gets on: what is started at virtual time v and takes
s alone ends at v + s, whatever comes and goes meanwhile.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import Any

from cascade_tools.planning.simulator.clock import Call, Clock

SLACK = 1e-9  # sums of shares are not exact
ROOM = 1.0 + SLACK
Piece = tuple[float, int, float, Call, Any]  # of work: its end, number and utilization, and what follows


class Device:
    """One device.

    Attributes:
        work_s: seconds x utilization of all work that was started here.
    """

    __slots__ = (
        "_clock",
        "_end_free_call",
        "_ending",
        "_free",
        "_load",
        "_plan_number",
        "_rate",
        "_since_s",
        "_top",
        "_virtual_s",
        "_work",
        "work_s",
    )

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._end_free_call = self._end_free  # made once: there is one for nearly every event
        self._load = 0.0
        # Work that ends when it would alone, by number.
        self._free: dict[int, Piece] = {}
        # Else all of it is here, as a heap by its end in virtual time, which was `_virtual_s` at `_since_s`.
        self._work: list[Piece] = []
        self._virtual_s = 0.0
        self._since_s = 0.0
        self._rate = 1.0
        self._top = (0, 0.0)  # what ends first, and the rate at which it was planned to
        self._plan_number = 0
        self._ending = False
        self.work_s = 0.0

    def start(self, seconds: float, utilization: float, then: Call, argument: Any) -> None:
        """Run work that takes `seconds` when nothing else runs, then call."""
        clock = self._clock
        load = self._load + utilization
        self.work_s += seconds * utilization
        clock.number = number = clock.number + 1
        if load <= ROOM and not self._work:
            self._load = load
            end_s = clock.now + seconds
            self._free[number] = piece = (end_s, number, utilization, then, argument)
            heappush(clock.events, (end_s, number, self._end_free_call, piece))
            return
        self._share()
        heappush(self._work, (self._virtual_s + seconds, number, utilization, then, argument))
        self._load = load
        if not self._ending:
            self._plan()

    def stop(self, then: Call) -> list[Any]:
        """End all work that would have called `then`, without the call; return its arguments in order."""
        self._share()
        stopped = sorted((work for work in self._work if work[3] == then), key=lambda work: work[:2])
        self._work = [work for work in self._work if work[3] != then]
        heapify(self._work)
        self._load = sum((work[2] for work in self._work), 0.0)
        self.work_s -= sum((work[0] - self._virtual_s) * work[2] for work in stopped)
        self._plan()
        return [work[4] for work in stopped]

    def _share(self) -> None:
        """Take up all work, with virtual time as of now."""
        now = self._clock.now
        if self._work:
            self._virtual_s += (now - self._since_s) * self._rate
        elif self._free:
            self._virtual_s = now
            self._work = list(self._free.values())
            heapify(self._work)
            self._free.clear()
        else:
            self._virtual_s = now
        self._since_s = now

    def _plan(self) -> None:
        """See to it that the work that ends first ends in time."""
        if not self._work:
            self._top = (0, 0.0)
            return
        self._rate = 1.0 if self._load <= ROOM else ROOM / self._load
        end_s, number, *_ = self._work[0]
        if (number, self._rate) != self._top:
            self._top = (number, self._rate)
            self._plan_number += 1
            left_s = (end_s - self._virtual_s) / self._rate
            self._clock.at(self._since_s + max(0.0, left_s), self._end_shared, self._plan_number)

    def _end_free(self, piece: Piece) -> None:
        free = self._free
        if free.pop(piece[1], None) is not None:  # else it is shared work now
            self._load = self._load - piece[2] if free else 0.0
            piece[3](piece[4])

    def _end_shared(self, plan_number: int) -> None:
        if plan_number != self._plan_number or not self._top[0]:  # something came or went: it ends elsewhen
            return
        self._share()
        _, _, utilization, then, argument = heappop(self._work)
        self._load = self._load - utilization if self._work else 0.0
        self._top = (0, 0.0)
        self._ending = True  # what follows may start more here: one plan for all of it
        then(argument)
        self._ending = False
        self._plan()
