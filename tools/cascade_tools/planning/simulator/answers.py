"""What Triton and the client do for answers that have left the router: the last part of a latency.

seconds   what comes once, and each answer up to the middle one of the group
CPU time  what comes once, and all answers of the group
"""

from __future__ import annotations

from cascade_tools.planning.simulator.batch import Batch
from cascade_tools.planning.simulator.clock import Clock
from cascade_tools.planning.simulator.device import Device
from cascade_tools.planning.simulator.system import SimRouter

Endings = list[tuple[Batch, int]]  # batches, and the path of theirs that ends


class Answers:
    """All of them.

    Args:
        clock: of the simulation.
        system: what they cost.
        device: of that CPU time, None where it is counted nowhere.
        ended_s: the ledger's: when the rows of a path of a batch were answered.
    """

    def __init__(self, clock: Clock, system: SimRouter, device: Device | None, ended_s: list[float]) -> None:
        self._clock = clock
        self._device = device
        self._core = 1.0 / system.cores
        self._ended_s = ended_s
        server, client, here = system.server, system.client, system.client_here
        late_ms = server.request_ms + server.late_ms
        of_client = (client.batch_ms, client.request_ms)
        sizes = range(1, system.max_batch_size + 1)
        self._batch_s = server.batch_ms / 1000.0
        # By answers of the group, from 1 on: seconds and utilization of those of `execute`, and of late ones.
        at_once = [_cost((server.batch_ms, server.request_ms), of_client, here, count) for count in sizes]
        late = [_cost((0.0, late_ms), of_client, here, count) for count in sizes]
        self._at_once, self._late = ([(s, u * self._core) for s, u in costs] for costs in (at_once, late))

    def returned(self, ending: Endings, rows: int) -> None:
        """`execute` has returned, with so many answers."""
        if rows:
            self._send(self._at_once[rows - 1], ending)
        elif self._device is not None and self._batch_s:
            self._device.start(self._batch_s, self._core, _nothing, None)

    def late(self, ending: Endings, rows: int) -> None:
        """A thread of the pool has sent them."""
        self._send(self._late[rows - 1], ending)

    def _send(self, cost: tuple[float, float], ending: Endings) -> None:
        seconds, utilization = cost
        if seconds <= 0.0:
            self._end(ending)
        elif self._device is None or not utilization:
            self._clock.at(self._clock.now + seconds, self._end, ending)
        else:
            self._device.start(seconds, utilization, self._end, ending)

    def _end(self, ending: Endings) -> None:
        now, ended_s = self._clock.now, self._ended_s
        for batch, path in ending:
            ended_s[batch.base + path] = now


def _cost(
    server_ms: tuple[float, float], client_ms: tuple[float, float], here: bool, count: int
) -> tuple[float, float]:
    """Seconds until the middle answer is there, and cores that are busy meanwhile; both get (once, each)."""
    middle = (count + 1) / 2.0
    seconds = sum(once + middle * each for once, each in (server_ms, client_ms)) / 1000.0
    parties = (server_ms, client_ms) if here else (server_ms,)
    cpu_s = sum(once + count * each for once, each in parties) / 1000.0
    return seconds, cpu_s / seconds if seconds else 0.0


def _nothing(_: None) -> None:
    """What follows on work that nobody waits for."""
