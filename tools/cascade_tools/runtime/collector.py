"""The batch trigger: rows wait for company before the first tier (CascadeServe: minimum queue length).

Held rows go on together once there are enough of them, or once the first of them has waited long enough.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .batch import Ticket


class Held(NamedTuple):
    """Requests of one `execute` call with copies of their rows."""

    tickets: list[Ticket]
    inputs: dict[str, npt.NDArray[np.generic]]
    rows: int


class Collector:
    """Collects rows of several calls; a thread of its own lets them go.

    Args:
        release: gets what was held, oldest first; must not raise.
    """

    def __init__(self, release: Callable[[list[Held]], None]) -> None:
        self._release = release
        self._changed = threading.Condition()
        self._held: list[Held] = []
        self._rows = 0
        self._wanted = 0
        self._release_at_s = 0.0
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="collector")
        self._thread.start()

    def add(self, held: Held, min_queue: int, release_at_s: float) -> None:
        """Hold rows back until there are `min_queue`, or until a time of the monotonic clock."""
        with self._changed:
            self._release_at_s = min(self._release_at_s, release_at_s) if self._held else release_at_s
            self._held.append(held)
            self._rows += held.rows
            self._wanted = min_queue
            self._changed.notify()

    def let_go(self) -> None:
        """Hold nothing any longer: the gear has changed to one that does not wait."""
        if self._held:
            with self._changed:
                self._wanted = 0
                self._changed.notify()

    def close(self) -> None:
        """Let everything go, then stop."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._ready():
                    if self._closing:
                        return
                    left_s = self._release_at_s - time.monotonic() if self._held else None
                    self._changed.wait(left_s)
                held, self._held, self._rows = self._held, [], 0
            self._release(held)

    def _ready(self) -> bool:
        return bool(self._held) and (
            self._closing or self._rows >= self._wanted or time.monotonic() >= self._release_at_s
        )


def in_batches(held: list[Held], most_rows: int) -> list[list[Held]]:
    """Split what was held into batches of at most `most_rows`; one call's rows are never parted.

    Only rows of equal shapes can be joined; Triton sees to that within a call.
    """
    alike: dict[tuple[tuple[int, ...], ...], list[Held]] = {}
    for one in held:
        shapes = tuple(values.shape[1:] for values in one.inputs.values())
        alike.setdefault(shapes, []).append(one)
    batches: list[list[Held]] = []
    for of_one_shape in alike.values():
        rows = most_rows + 1
        for one in of_one_shape:
            if rows + one.rows > most_rows:
                batches.append([])
                rows = 0
            batches[-1].append(one)
            rows += one.rows
    return batches
