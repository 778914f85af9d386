"""A process that routes: `execute` and a pool of threads, of which Python lets one compute at a time."""

from __future__ import annotations

from collections import deque
from typing import Any

from cascade_tools.planning.simulator.batch import Group
from cascade_tools.planning.simulator.clock import Call
from cascade_tools.planning.simulator.device import Device
from cascade_tools.planning.simulator.thread import Thread


class Process:
    """One instance of the router.

    Args:
        device: of its CPU time.
        core: share of the device that one core is.
        threads: of its pool.

    Attributes:
        execute: the thread of `execute`.
        idle: threads of the pool that do nothing.
        tasks: groups that wait for one.
    """

    __slots__ = (
        "_argument",
        "_busy",
        "_core",
        "_device",
        "_end_call",
        "_then",
        "_turns",
        "execute",
        "idle",
        "tasks",
    )

    _then: Call
    _argument: Any

    def __init__(self, device: Device, core: float, threads: int) -> None:
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
        else:
            self._busy = True
            self._then, self._argument = then, argument
            self._device.start(seconds, self._core, self._end_call, None)

    def _end(self, _: Any) -> None:
        then, argument = self._then, self._argument
        if self._turns:
            seconds, self._then, self._argument = self._turns.popleft()
            self._device.start(seconds, self._core, self._end_call, None)
        else:
            self._busy = False
        then(argument)
