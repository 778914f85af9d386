"""A process that routes: `execute` and a pool of threads, of which Python lets one compute at a time."""

from __future__ import annotations

from collections import deque
from typing import Any

from cascade_tools.planning.simulator.batch import Group
from cascade_tools.planning.simulator.clock import Call, Clock
from cascade_tools.planning.simulator.device import Device
from cascade_tools.planning.simulator.thread import Thread


class Process:
    """One instance of the router.

    Args:
        clock: of the simulation.
        device: of its CPU time, None where that is counted nowhere.
        core: share of the device that one core is.
        threads: of its pool.

    Attributes:
        execute: the thread of `execute`.
        idle: threads of the pool that do nothing.
        tasks: groups that wait for one.
    """

    __slots__ = ("_busy", "_clock", "_core", "_device", "_end_call", "_turns", "execute", "idle", "tasks")

    def __init__(self, clock: Clock, device: Device | None, core: float, threads: int) -> None:
        self._clock = clock
        self._device = device
        self._core = core
        self._busy = False
        self._end_call = self._end
        self._turns: deque[tuple[float, Call, Any]] = deque()
        self.execute = Thread(self, execute=True)
        self.idle = [Thread(self, execute=False) for _ in range(threads)]
        self.tasks: deque[Group] = deque()

    def run(self, seconds: float, then: Call, argument: Any) -> None:
        """Compute for so long, once it is this work's turn; then call."""
        if seconds <= 0.0:
            then(argument)
        elif self._busy:
            self._turns.append((seconds, then, argument))
        elif self._device is None:
            self._begin(seconds, then, argument)
        else:
            self._busy = True
            self._device.start(seconds, self._core, self._end_call, (then, argument))

    def _begin(self, seconds: float, then: Call, argument: Any) -> None:
        self._busy = True
        if self._device is None:
            self._clock.at(self._clock.now + seconds, self._end, (then, argument))
        else:
            self._device.start(seconds, self._core, self._end_call, (then, argument))

    def _end(self, what: tuple[Call, Any]) -> None:
        if self._turns:
            self._begin(*self._turns.popleft())
        else:
            self._busy = False
        then, argument = what
        then(argument)
