"""All patterns of one device that take no further instance, while they are few."""

from __future__ import annotations

import numpy as np

from cascade_tools.planning.placement.problem import FloatArray, IntArray
from cascade_tools.planning.placement.programs.numbers import Numbers

MOST_PATTERNS = 3000
MOST_STEPS = 60_000


class _Full(Exception):
    """There are too many."""


class _Search:
    """Depth first over the units; what is left of memory and of utilization goes down with every instance."""

    def __init__(self, numbers: Numbers, kind: int) -> None:
        self.units = np.flatnonzero(numbers.most[:, kind] > 0.0).tolist()
        self.most = numbers.most[:, kind].astype(int).tolist()
        self.first = numbers.memory_mib.tolist()
        self.further = numbers.further_mib.tolist()
        self.share = numbers.resident[:, kind].tolist() if numbers.strict else [0.0] * len(numbers.tier)
        self.tier, self.limit = numbers.tier.tolist(), numbers.limit.tolist()
        self.count = [0] * len(numbers.tier)
        self.found: list[list[int]] = []
        self.steps = 0

    def takes(self, unit: int, room: float, share: float) -> bool:
        """Whether one more instance fits."""
        n = self.count[unit]
        if n >= self.most[unit] or share < self.share[unit] - 1e-9:
            return False
        there = sum(c for u, c in enumerate(self.count) if c and self.tier[u] == self.tier[unit])
        return bool(
            room >= (self.further[unit] if n else self.first[unit]) and there < self.limit[self.tier[unit]]
        )

    def go(self, position: int, room: float, share: float) -> None:
        """Try all numbers of the unit at this position, the largest last."""
        self.steps += 1
        if len(self.found) >= MOST_PATTERNS or self.steps >= MOST_STEPS:
            raise _Full
        if position == len(self.units):
            if not any(self.takes(unit, room, share) for unit in self.units):
                self.found.append(self.count.copy())
            return
        unit = self.units[position]
        self.go(position + 1, room, share)
        while self.takes(unit, room, share):
            room -= self.further[unit] if self.count[unit] else self.first[unit]
            share -= self.share[unit]
            self.count[unit] += 1
            self.go(position + 1, room, share)
        self.count[unit] = 0


def maximal_patterns(numbers: Numbers, kind: int) -> IntArray | None:
    """All maximal patterns of a device of this kind, [patterns, units]; None where there are too many."""
    search = _Search(numbers, kind)
    try:
        search.go(0, float(numbers.kinds[kind].memory_mib), 1.0)
    except _Full:
        return None
    return np.array(search.found, np.int64).reshape(len(search.found), len(numbers.tier))


def worth(numbers: Numbers, kind: int, patterns: IntArray, value: FloatArray) -> FloatArray:
    """What patterns earn at best, [patterns], if a busy instance of each unit earns `value` [units].

    Under the loose rule a fractional knapsack: the units that earn most per busy share go first.
    """
    value = np.maximum(value, 0.0)
    if numbers.strict:
        return np.asarray(patterns @ value, np.float64)
    share = numbers.utilization[:, kind]
    order = np.argsort(-value / share, kind="stable")
    load = patterns[:, order] * share[order]
    room = np.clip(1.0 - (np.cumsum(load, axis=1) - load), 0.0, None)
    return np.asarray(np.minimum(load, room) @ (value / share)[order], np.float64)
