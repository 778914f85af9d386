"""Rows that were admitted together: how many of them take which path."""

from __future__ import annotations

from collections.abc import Sequence

from cascade_tools.planning.simulator.paths import Node, Paths

Group = tuple["Batch", Node, int]  # rows of a batch on their way to one tier, and how many


class Batch:
    """One batch.

    Attributes:
        number: of all batches.
        paths: that its rows take.
        counts: rows per path.
        base: where the ledger has the end of the first path, the others behind it.
        gear: number of the gear.
        only: the path of its row, if that is the only one; else -1.
    """

    __slots__ = ("base", "counts", "gear", "number", "only", "paths")

    def __init__(self, number: int, paths: Paths, counts: list[int], base: int, gear: int, only: int) -> None:
        self.number = number
        self.paths = paths
        self.counts = counts
        self.base = base
        self.gear = gear
        self.only = only

    def onward(self, node: Node) -> Sequence[Group]:
        """The groups that go on from a node."""
        if self.only >= 0:
            further = node.next[self.only - node.first]
            return () if further is None else ((self, further, 1),)
        found = []
        counts = self.counts
        for further in node.onward:
            rows = sum(counts[further.first : further.end])
            if rows:
                found.append((self, further, rows))
        return found
