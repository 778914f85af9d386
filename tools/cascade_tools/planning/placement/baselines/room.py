"""What one more instance needs on a device: memory, utilization under the strict rule, a given limit."""

from __future__ import annotations

import numpy as np

from cascade_tools.planning.placement.problem import FloatArray, IntArray
from cascade_tools.planning.placement.programs.numbers import Numbers

EXACT = 1e-9


def held_mib(numbers: Numbers, count: IntArray) -> FloatArray:
    """MiB that instances [units, columns] take, [columns]."""
    more = np.maximum(count - 1, 0) * numbers.further_mib[:, None]
    return np.asarray(((count > 0) * numbers.memory_mib[:, None] + more).sum(axis=0), np.float64)


def over(numbers: Numbers, kind: IntArray, count: IntArray) -> FloatArray:
    """How much more is resident than fits, as a share of the room, [columns]; 0 where it fits."""
    room = np.array([float(device.memory_mib) for device in numbers.kinds])[kind]
    excess = np.maximum(held_mib(numbers, count) - room, 0.0) / np.maximum(room, 1.0)
    if numbers.strict:
        share = (numbers.resident[:, kind] * count).sum(axis=0)
        excess = excess + np.where(share > 1.0 + EXACT, share - 1.0, 0.0)
    return np.asarray(excess, np.float64)


def fits(numbers: Numbers, kind: int, column: IntArray) -> bool:
    """Whether a device of this kind may hold these instances, [units]."""
    alone = column[:, None]
    if (column > numbers.most[:, kind]).any():
        return False
    for tier in np.flatnonzero(np.isfinite(numbers.limit)):
        if column[numbers.tier == tier].sum() > numbers.limit[tier]:
            return False
    return not over(numbers, np.array([kind]), alone).any()


def filled(numbers: Numbers, kind: int, units: list[int]) -> IntArray:
    """One instance of each of these units in their order, [units]; what does not fit is left out."""
    column = np.zeros(len(numbers.tier), np.int64)
    for unit in units:
        column[unit] += 1
        if not fits(numbers, kind, column):
            column[unit] -= 1
    return column


def crowded(numbers: Numbers, kind: int, units: list[int]) -> IntArray:
    """As many instances of these units, in turns, as fit and can be busy, [units]."""
    column = filled(numbers, kind, units)
    while (column != (more := _once_more(numbers, kind, column, units))).any():
        column = more
    return column


def _once_more(numbers: Numbers, kind: int, column: IntArray, units: list[int]) -> IntArray:
    for unit in units:
        trial = column.copy()
        trial[unit] += 1
        if column[unit] > 0 and fits(numbers, kind, trial):
            column = trial
    return column
