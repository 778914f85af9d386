"""Baseline: CascadeServe's greedy placement (arXiv 2406.14424, its third sub-problem).

It begins with every model on every GPU and takes instances away until memory suffices. As printed, its
utility rewards memory that stays over-allocated; this is what its text means: the instance goes that frees
the most over-allocated memory for the least loss of rate. Under the strict rule, utilization above 1 is to be
freed, too. In large clusters lots of equal devices are pruned alike.
"""

from __future__ import annotations

import numpy as np

from cascade_tools.planning.placement.baselines.blocks import (
    Blocks,
    blocks_of,
    coarse_blocks,
    complete,
    homeless,
)
from cascade_tools.planning.placement.baselines.choice import by_stages, units_of
from cascade_tools.planning.placement.baselines.full_lp import best_full
from cascade_tools.planning.placement.baselines.room import EXACT, held_mib
from cascade_tools.planning.placement.problem import FloatArray, IntArray, Problem
from cascade_tools.planning.placement.programs.numbers import Numbers, numbers_of

LOTS = 24
CELLS = 320
IDLE = 1e-9
LEAST_LOSS = 1e-12


def greedy(problem: Problem) -> IntArray | None:
    """Instances [units, devices] after pruning; the best of the ways to cut the models.

    None if every way ends with too much on a device and nothing that could go.
    """
    numbers = numbers_of(problem)
    choices = by_stages(problem, numbers)
    if any(len(tier.variants) > 1 for tier in problem.tiers):
        choices.append(best_full(problem, numbers, blocks_of(problem, numbers)))
    best, highest = None, 0.0
    for choice in dict.fromkeys(choices):
        units = [unit for i, v in enumerate(choice) for unit in units_of(numbers, i, v)]
        blocks = coarse_blocks(problem, numbers, min(LOTS, max(8, CELLS // len(units))))
        count = _Pruning(problem, numbers, blocks, units).result()
        if count is not None:
            rate, _ = blocks.load(problem, count)
            if rate > highest:
                best, highest = blocks.expand(problem, count), rate
    return best


class _Pruning:
    """Instances [units, blocks] that become fewer; `rate` and `busy` are what they can do."""

    def __init__(self, problem: Problem, numbers: Numbers, blocks: Blocks, units: list[int]) -> None:
        self.problem, self.numbers, self.blocks = problem, numbers, blocks
        self.count = np.zeros((len(numbers.tier), len(blocks)), np.int64)
        self.count[units] = numbers.most[units][:, blocks.kind] > 0.0
        self.rate, self.busy = blocks.load(problem, self.count)
        self.loss = np.zeros(self.count.shape)
        self.room = np.array([float(device.memory_mib) for device in numbers.kinds])[blocks.kind]

    def result(self) -> IntArray | None:
        """What is left when all of it fits, without what is of no use; None if the rate is 0 before."""
        while self.rate > 0.0:
            freed = self._freed()
            if not freed.any():
                count = complete(self.problem, self.count, self.blocks.host)
                return None if homeless(self.problem, count) else count
            self._take_away(freed)
        return None

    def _freed(self) -> FloatArray:
        """Share of the room over-allocated now and free afterwards, [units, blocks]."""
        numbers, kind = self.numbers, self.blocks.kind
        excess = np.maximum(held_mib(numbers, self.count) - self.room, 0.0)
        freed = np.minimum(excess, numbers.memory_mib[:, None]) / np.maximum(self.room, 1.0)
        if numbers.strict:
            share = (numbers.resident[:, kind] * self.count).sum(axis=0) - 1.0
            freed = freed + np.minimum(np.where(share > EXACT, share, 0.0), numbers.resident[:, kind])
        return np.where(self.count > 0, freed, 0.0)

    def _take_away(self, freed: FloatArray) -> None:
        """Remove one instance from each device of a block."""
        needless = (freed > 0.0) & (self.busy <= IDLE) & ~self._last_homes()
        if needless.any():  # the load that there is needs none of them
            at = np.unravel_index(int(np.argmax(np.where(needless, freed, 0.0))), freed.shape)
            self.count[at] = 0
            return
        u, b = self._cheapest(freed)
        self.count[u, b] = 0
        self.rate, self.busy = self.blocks.load(self.problem, self.count)

    def _cheapest(self, freed: FloatArray) -> tuple[int, int]:
        """The instance that frees the most for its loss.

        Losses seldom shrink as others go, so old ones are hopes; the most hopeful are computed again.
        """
        fresh: dict[tuple[object, ...], float] = {}
        signature = self._signatures()
        while True:
            hope = freed / np.maximum(self.loss, LEAST_LOSS * self.rate)
            u, b = (int(i) for i in np.unravel_index(int(np.argmax(hope)), hope.shape))
            key = u, *signature[b]
            if key in fresh and self.loss[u, b] == fresh[key]:
                return u, b
            if key not in fresh:
                fresh[key] = self._loss_of(u, b)
            self.loss[u, b] = fresh[key]

    def _loss_of(self, u: int, b: int) -> float:
        if self._last_homes()[u, b]:
            return self.rate
        trial = self.count.copy()
        trial[u, b] = 0
        return max(0.0, self.rate - self.blocks.load(self.problem, trial)[0])

    def _last_homes(self) -> IntArray:
        """Instances whose tier sees no rows, and would have no home without them, bool [units, blocks]."""
        unseen = self.numbers.reach[self.numbers.tier] <= 0.0
        if not unseen.any():
            return np.zeros(self.count.shape, bool)
        last = np.zeros(self.count.shape, bool)
        for u, b in zip(*np.nonzero(self.count * unseen[:, None]), strict=True):
            trial = self.count.copy()
            trial[u, b] = 0
            kept = complete(self.problem, trial, self.blocks.host)
            last[u, b] = not kept[self.numbers.tier == self.numbers.tier[u]].any()
        return last

    def _signatures(self) -> list[tuple[object, ...]]:
        """Blocks with the same signature can be exchanged, as far as what stands on them goes."""
        own = [
            (int(kind), len(devices), column.tobytes())
            for kind, devices, column in zip(
                self.blocks.kind, self.blocks.devices, np.ascontiguousarray(self.count.T), strict=True
            )
        ]
        inside: dict[int, list[tuple[int, int, bytes]]] = {}
        for host, mine in zip(self.blocks.host.tolist(), own, strict=True):
            inside.setdefault(host, []).append(mine)
        return [
            (mine, tuple(sorted(inside[h]))) for h, mine in zip(self.blocks.host.tolist(), own, strict=True)
        ]
