"""One model in Triton: a queue, from which the first idle instance takes what waits as one batch.

As Triton's dynamic batcher: requests are taken in order and never parted, as many as fit. With preferred
sizes, the largest that can be had at once is sent; else rows wait until the first of them has waited for the
queue delay (or the next would not fit), and then all go.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import fsum
from typing import Any

import numpy as np

from cascade_tools.planning.simulator.clock import Clock
from cascade_tools.planning.simulator.device import Device
from cascade_tools.planning.simulator.system import ServiceTime
from cascade_tools.planning.simulator.thread import Thread


@dataclass(eq=False, slots=True)
class Instance:
    """One instance: time in seconds, utilization and joules by rows of a batch, position 0 unused.

    Attributes:
        weight: its share beside other work where the device is full.
        runs: batches so far, by their rows.
    """

    place: int
    device: Device
    weight: float
    time_s: list[float]
    utilization: list[float]
    energy_j: list[float]
    runs: list[int]


def make_instance(
    place: int, device: Device, service: ServiceTime, part: float = 1.0, weight: float = 1.0
) -> Instance:
    """An instance on a device that does a part of the tier's work; 1 is all of it."""
    energy_j = np.zeros(len(service.time_ms)) if service.energy_j is None else service.energy_j
    return Instance(
        place,
        device,
        weight,
        [0.0, *(part * service.time_ms / 1000.0).tolist()],
        [0.0, *service.utilization.tolist()],
        [0.0, *(part * energy_j).tolist()],
        [0] * (len(energy_j) + 1),
    )


class Model:
    """One model.

    Args:
        clock: of the simulation.
        instances: all of them.
        most: rows of its largest batch.
        preferred: batch sizes that are sent at once.
        delay_s: how long rows wait for them.
        done: gets all calls of a batch when it ends.
        failed: gets the calls that are not answered.

    Attributes:
        every: instance, lost ones included.
    """

    __slots__ = (
        "_clock",
        "_delay_s",
        "_done",
        "_failed",
        "_finish_call",
        "_idle",
        "_instances",
        "_most",
        "_picky",
        "_preferred",
        "_waiting",
        "_waiting_rows",
        "_woken_for",
        "every",
    )

    def __init__(
        self,
        clock: Clock,
        instances: Sequence[Instance],
        most: int,
        preferred: Sequence[int],
        delay_s: float,
        done: Callable[[list[Thread]], None],
        failed: Callable[[list[Thread]], None],
    ) -> None:
        self._clock = clock
        self.every = tuple(instances)
        self._instances = list(instances)
        self._idle = deque(instances)
        self._most = most
        self._preferred = frozenset(preferred)
        self._delay_s = delay_s
        self._picky = delay_s > 0.0 or bool(preferred)
        self._done = done
        self._failed = failed
        self._finish_call = self._finish
        self._waiting: deque[Thread] = deque()
        self._waiting_rows = 0
        self._woken_for = -1.0

    def put(self, ask: Thread) -> None:
        """Take a call in; it fails at once where no instance is left."""
        if self._idle and not self._waiting and not self._picky:
            self._run([ask], ask.rows)
        else:
            self.put_all([ask])

    def put_all(self, asks: list[Thread]) -> None:
        """Take calls in that come at the same time."""
        if not self._instances:
            self._failed(asks)
            return
        for ask in asks:
            self._waiting_rows += ask.rows
            ask.since_s = self._clock.now
        self._waiting += asks
        self._send(None)

    @property
    def batches(self) -> int:
        """That were run."""
        return sum(sum(instance.runs) for instance in self.every)

    @property
    def rows(self) -> int:
        """In these."""
        return sum(rows * runs for instance in self.every for rows, runs in enumerate(instance.runs))

    @property
    def energy_j(self) -> float:
        """Of these."""
        return fsum(
            energy_j * runs
            for instance in self.every
            for energy_j, runs in zip(instance.energy_j, instance.runs, strict=True)
        )

    @property
    def alive(self) -> bool:
        """An instance is left."""
        return bool(self._instances)

    def lose(self, place: int) -> list[Thread]:
        """The device is gone, with the instances on it: these calls are not answered."""
        gone = [instance for instance in self._instances if instance.place == place]
        if not gone:
            return []
        self._instances = [instance for instance in self._instances if instance.place != place]
        self._idle = deque(instance for instance in self._idle if instance.place != place)
        lost = [ask for _, asks in gone[0].device.stop(self._finish_call) for ask in asks]
        if not self._instances:
            lost += self._waiting
            self._waiting.clear()
            self._waiting_rows = 0
        return lost

    def _send(self, _: Any) -> None:
        """Give batches to idle instances while there are any, and something that need not wait."""
        idle, waiting = self._idle, self._waiting
        while idle and waiting:
            calls = self._ready() if self._picky else self._fitting()
            if not calls:
                return
            if calls == len(waiting):
                asks, rows = list(waiting), self._waiting_rows
                waiting.clear()
            else:
                asks = [waiting.popleft() for _ in range(calls)]
                rows = sum([ask.rows for ask in asks])
            self._waiting_rows -= rows
            self._run(asks, rows)

    def _run(self, asks: list[Thread], rows: int) -> None:
        instance = self._idle.popleft()
        instance.runs[rows] += 1
        instance.device.start(
            instance.time_s[rows],
            instance.utilization[rows],
            self._finish_call,
            (instance, asks),
            instance.weight,
        )

    def _fitting(self) -> int:
        """How many of the waiting calls make one batch."""
        if self._waiting_rows <= self._most:
            return len(self._waiting)
        rows = 0
        for number, ask in enumerate(self._waiting):
            rows += ask.rows
            if rows > self._most:
                return number
        return len(self._waiting)

    def _ready(self) -> int:
        """The same where rows wait for company; 0 for not yet."""
        fitting = self._fitting()
        rows, best = 0, 0
        for number in range(fitting):
            rows += self._waiting[number].rows
            if rows in self._preferred:
                best = number + 1
        if best:
            return best
        if fitting < len(self._waiting) or rows >= self._most:
            return fitting
        due_s = self._waiting[0].since_s + self._delay_s
        if self._clock.now >= due_s:
            return fitting
        if self._woken_for != due_s:
            self._woken_for = due_s
            self._clock.at(due_s, self._send, None)
        return 0

    def _finish(self, run: tuple[Instance, list[Thread]]) -> None:
        instance, asks = run
        self._idle.append(instance)
        self._done(asks)
        if self._waiting:
            self._send(None)
