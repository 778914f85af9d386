"""How answers leave: Triton takes them from the router, then they are the client's.

Triton's Python backend gives an instance the next batch once it has the answers of this one, and a thread
that sends a late answer waits until Triton has it. The client reads answers one by one: the middle one of a
group counts for all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cascade_tools.planning.simulator.batch import Batch
from cascade_tools.planning.simulator.clock import Call, Clock
from cascade_tools.planning.simulator.device import Device
from cascade_tools.planning.simulator.system import SimRouter

CLIENT_WEIGHT = 1000.0  # on this machine the client of `replay` runs before all else, see its `go_first`

Endings = Sequence[tuple[Batch, int]]  # batches, and the path of theirs that ends


def rows_of(ending: Endings) -> int:
    """How many rows these are."""
    rows = 0
    for batch, path in ending:
        rows += batch.counts[path]
    return rows


class Answers:
    """All of them.

    Args:
        clock: of the simulation.
        system: what they cost.
        device: of that CPU time.
        ended_s: the ledger's: when the rows of a path of a batch were answered.
    """

    def __init__(self, clock: Clock, system: SimRouter, device: Device, ended_s: list[float]) -> None:
        self._clock = clock
        self._device = device
        self._core = system.core
        self._ended_s = ended_s
        server, client = system.server, system.client
        self._batch_s = server.batch_ms / 1000.0
        self._request_s = server.request_ms / 1000.0
        self._late_s = (server.request_ms + server.late_ms) / 1000.0
        self._group_s = client.batch_ms / 1000.0
        self._answer_s = client.request_ms / 1000.0
        self._here = system.client_here and system.device is not None

    def take(self, rows: int, then: Call, argument: Any) -> None:
        """Triton takes what `execute` returns, with so many answers."""
        self._device.start(self._batch_s + self._request_s * rows, self._core, then, argument)

    def take_late(self, rows: int, then: Call, argument: Any) -> None:
        """Triton takes late answers."""
        self._device.start(self._late_s * rows, self._core, then, argument)

    def leave(self, ending: Endings, rows: int) -> None:
        """The client has its answers, so many."""
        seconds = self._group_s + self._answer_s * (rows + 1) / 2.0
        if self._here and seconds > 0.0:
            cores = (self._group_s + self._answer_s * rows) / seconds
            self._device.start(seconds, self._core * cores, self._end, ending, CLIENT_WEIGHT)
        else:
            ended_s, at_s = self._ended_s, self._clock.now + seconds
            for batch, path in ending:
                ended_s[batch.base + path] = at_s

    def _end(self, ending: Endings) -> None:
        now, ended_s = self._clock.now, self._ended_s
        for batch, path in ending:
            ended_s[batch.base + path] = now
