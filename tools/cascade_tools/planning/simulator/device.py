"""A device that is shared: work on it slows down once its utilization exceeds 1.

While there is room, work ends when it would alone. Where there is not, it is shared out by weight, as Linux
shares cores by priority, and nobody gets more than alone: work of utilization u and weight w runs at
min(1, x w) of its speed, with the x at which all speeds times utilizations make 1. So work of one weight
slows down alike, and is kept by *virtual* time, which passes as fast as that work gets on: what is started at
virtual time v and takes s alone ends at v + s, whatever comes and goes meanwhile.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import Any

from cascade_tools.planning.simulator.clock import Call, Clock

SLACK = 1e-9  # sums of shares are not exact
ROOM = 1.0 + SLACK
# Of work: its end, number and utilization, what follows, and its weight.
Piece = tuple[float, int, float, Call, Any, float]


class _Level:
    """Shared work of one weight: a heap by its end in virtual time."""

    __slots__ = ("load", "rate", "virtual_s", "weight", "work")

    def __init__(self, weight: float) -> None:
        self.weight = weight
        self.work: list[Piece] = []
        self.load = 0.0
        self.virtual_s = 0.0
        self.rate = 1.0


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
        "_levels",
        "_load",
        "_plan_number",
        "_shared",
        "_since_s",
        "_top",
        "work_s",
    )

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._end_free_call = self._end_free  # made once: there is one for nearly every event
        self._load = 0.0
        # Work that ends when it would alone, by number.
        self._free: dict[int, Piece] = {}
        # Else all of it is here, so many pieces, by falling weight; virtual times are those of `_since_s`.
        self._levels: list[_Level] = []
        self._shared = 0
        self._since_s = 0.0
        self._top = (0, 0.0)  # what ends first, and the rate at which it was planned to
        self._plan_number = 0
        self._ending = False
        self.work_s = 0.0

    def start(
        self, seconds: float, utilization: float, then: Call, argument: Any, weight: float = 1.0
    ) -> None:
        """Run work that takes `seconds` when nothing else runs, then call."""
        clock = self._clock
        load = self._load + utilization
        self.work_s += seconds * utilization
        clock.number = number = clock.number + 1
        if load <= ROOM and not self._shared:
            self._load = load
            end_s = clock.now + seconds
            self._free[number] = piece = (end_s, number, utilization, then, argument, weight)
            heappush(clock.events, (end_s, number, self._end_free_call, piece))
            return
        self._share()
        self._load = load
        level = self._level(weight)
        self._put(level, (level.virtual_s + seconds, number, utilization, then, argument, weight))
        if not self._ending:
            self._plan()

    def stop(self, then: Call) -> list[Any]:
        """End all work that would have called `then`, without the call; return its arguments in order."""
        self._share()
        stopped: list[Piece] = []
        for level in self._levels:
            gone = [piece for piece in level.work if piece[3] == then]
            self.work_s -= sum((piece[0] - level.virtual_s) * piece[2] for piece in gone)
            level.work = [piece for piece in level.work if piece[3] != then]
            heapify(level.work)
            level.load = sum((piece[2] for piece in level.work), 0.0)
            stopped += gone
        self._shared -= len(stopped)
        self._load = sum((level.load for level in self._levels), 0.0)
        self._plan()
        return [piece[4] for piece in sorted(stopped, key=lambda piece: piece[:2])]

    def _level(self, weight: float) -> _Level:
        for level in self._levels:
            if level.weight == weight:
                return level
        level = _Level(weight)
        level.virtual_s = self._clock.now
        self._levels.append(level)
        self._levels.sort(key=lambda level: -level.weight)
        return level

    def _put(self, level: _Level, piece: Piece) -> None:
        heappush(level.work, piece)
        level.load += piece[2]
        self._shared += 1

    def _share(self) -> None:
        """Take up all work, with virtual times as of now."""
        now = self._clock.now
        if self._shared:
            passed_s = now - self._since_s
            for level in self._levels:
                level.virtual_s += passed_s * level.rate
        else:
            for level in self._levels:
                level.virtual_s = now
            for piece in self._free.values():
                self._put(self._level(piece[5]), piece)
            self._free.clear()
        self._since_s = now

    def _plan(self) -> None:
        """See to it that the work that ends first ends in time."""
        if not self._shared:
            self._top = (0, 0.0)
            return
        self._set_rates()
        left_s, number, rate = min(
            ((level.work[0][0] - level.virtual_s) / level.rate, level.work[0][1], level.rate)
            for level in self._levels
            if level.work
        )
        if (number, rate) != self._top:
            self._top = (number, rate)
            self._plan_number += 1
            self._clock.at(self._since_s + max(0.0, left_s), self._end_shared, self._plan_number)

    def _set_rates(self) -> None:
        if self._load <= ROOM:
            for level in self._levels:
                level.rate = 1.0
            return
        room = ROOM
        wanted = sum([level.weight * level.load for level in self._levels])
        for level in self._levels:
            if not level.work:
                continue
            level.rate = min(1.0, room * level.weight / wanted) if wanted > 0.0 else 1.0
            room -= level.rate * level.load
            wanted -= level.weight * level.load

    def _end_free(self, piece: Piece) -> None:
        free = self._free
        if free.pop(piece[1], None) is not None:  # else it is shared work now
            self._load = self._load - piece[2] if free else 0.0
            piece[3](piece[4])

    def _end_shared(self, plan_number: int) -> None:
        if plan_number != self._plan_number or not self._top[0]:  # something came or went: it ends elsewhen
            return
        self._share()
        level = next(level for level in self._levels if level.work and level.work[0][1] == self._top[0])
        _, _, utilization, then, argument, _ = heappop(level.work)
        self._shared -= 1
        level.load = level.load - utilization if level.work else 0.0
        self._load = self._load - utilization if self._shared else 0.0
        self._top = (0, 0.0)
        self._ending = True  # what follows may start more here: one plan for all of it
        then(argument)
        self._ending = False
        self._plan()
