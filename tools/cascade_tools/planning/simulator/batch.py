"""Rows of one `execute` call: how many take which path, and when each path ends."""

from __future__ import annotations

from cascade_tools.planning.simulator.paths import Node, Paths

NAN = float("nan")


class Batch:
    """Rows that were admitted together.

    Attributes:
        number: of all batches.
        paths: that they take.
        counts: rows per path.
        ended_s: per path, when its rows were answered (or failed); NaN until then.
        gear: number of the gear.
    """

    __slots__ = ("counts", "ended_s", "gear", "number", "paths")

    def __init__(self, number: int, paths: Paths, taken: bytes, gear: int) -> None:
        self.number = number
        self.paths = paths
        count = taken.count
        self.counts = [count(path) for path in range(len(paths.answered))]
        self.ended_s = [NAN] * len(self.counts)
        self.gear = gear

    def rows(self, node: Node) -> int:
        """How many rows come to a node."""
        counts = self.counts
        return sum([counts[path] for path in node.paths])
