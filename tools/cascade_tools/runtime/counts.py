"""Rows in flight and rows arrived, over all instances of one router.

Every instance is a process. Several share one small memory-mapped file, a slot each, which only its owner
writes; all decide on the sums.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

SLOTS = 64
IN_FLIGHT, ARRIVED = 0, 1
SHARED_MEMORY = Path("/dev/shm")
PREFIX = "cascade_counts_"


class Counts:
    """Counts of one instance and what they sum up to; the caller's lock guards the own slot.

    Args:
        table: int64 [slots, 2].
        slot: the instance's own.
    """

    def __init__(self, table: npt.NDArray[np.int64], slot: int) -> None:
        self._table = table
        self._own = table[slot]
        self._own[IN_FLIGHT] = 0  # of an instance that died here before
        self._seen = int(table[:, ARRIVED].sum())

    @property
    def in_flight(self) -> int:
        """Rows admitted and unanswered, of all instances."""
        return int(self._table[:, IN_FLIGHT].sum())

    def admit(self, rows: int) -> None:
        """Count rows in, or out with a minus."""
        self._own[IN_FLIGHT] += rows

    def arrive(self, rows: int) -> int:
        """Count rows that entered here; return those that entered anywhere since the last call."""
        self._own[ARRIVED] += rows
        before, self._seen = self._seen, int(self._table[:, ARRIVED].sum())
        return self._seen - before


def counts_alone() -> Counts:
    """For the only instance."""
    return Counts(np.zeros((1, 2), np.int64), 0)


def open_counts(model: str, instance: str, instances: int) -> Counts:
    """For one of several instances; the file is named by the server's process and the model.

    Args:
        model: the router's name.
        instance: Triton's name of the instance, which ends in its number.
        instances: how many there are.

    Raises:
        ValueError: more instances than slots.
    """
    if instances == 1:
        return counts_alone()
    if instances > SLOTS:
        raise ValueError(f"{model}: {instances} instances, at most {SLOTS} can share their counts")
    path = counts_path(os.getppid(), model)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.truncate(descriptor, SLOTS * 2 * np.dtype(np.int64).itemsize)
    finally:
        os.close(descriptor)
    table = np.memmap(path, np.int64, "r+", shape=(SLOTS, 2))
    return Counts(table, int(instance.rpartition("_")[2]))


def counts_path(server_pid: int, model: str) -> Path:
    """The file that the instances of one router share."""
    return SHARED_MEMORY / f"{PREFIX}{server_pid}_{model}"
