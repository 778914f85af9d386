"""Who asks tiers in the router: `execute` of an instance, or a thread of its pool; one call at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cascade_tools.planning.simulator.batch import Batch, Group
from cascade_tools.planning.simulator.paths import Node

if TYPE_CHECKING:
    from cascade_tools.planning.simulator.process import Process


class Thread:
    """One of them; it is also what waits in the queue of a model that it calls.

    Attributes:
        process: that it belongs to.
        execute: it is an `execute`, which keeps later rows waiting.
        batch: what it is about, as are `node` and `rows`.
        since_s: when its call came into the queue.
        ending: paths of batches that end when `execute` returns.
        handed: what it leaves to the pool then.
    """

    __slots__ = ("batch", "ending", "execute", "handed", "node", "process", "rows", "since_s")

    batch: Batch
    node: Node

    def __init__(self, process: Process, execute: bool) -> None:
        self.process = process
        self.execute = execute
        self.rows = 0
        self.since_s = 0.0
        self.ending: list[tuple[Batch, int]] = []
        self.handed: list[Group] = []
