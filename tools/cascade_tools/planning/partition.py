"""Cuts a chain of nodes into stages so that the slowest one is as fast as it can be.

    nodes      |a|b|c|d|e|f|g|h|         in topological order, each with its time
    cut points     ^   ^ ^     ^         places where the chain may be cut, each with the bytes that cross
    stages     |-1-|---2---|-3-|         two of them taken: three stages

Exact, by dynamic programming over the cut points: T[k, j] is the slowest of the best k stages before cut
point j, T[k, j] = min over i < j of max(T[k - 1, i], time between i and j), over the stages whose weights
fit. Of all partitions whose slowest stage takes at most (1 + slack) times the best, the one is returned at
whose cuts the fewest bytes cross, and of those the one with the fastest slowest stage.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from cascade_tools.errors import Infeasible, UsageError

MIB = 2**20

_Floats = npt.NDArray[np.float64]
_Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class CutPoint:
    """A place where the chain may be cut.

    Attributes:
        position: how many nodes stand before it, 1 to nodes - 1.
        crossing_bytes: what goes from one stage to the next there, per row.
    """

    position: int
    crossing_bytes: int


@dataclass(frozen=True)
class Chain:
    """What is cut.

    Attributes:
        name: of the model, for messages.
        time_ms: of each node.
        weights: of each node, name -> bytes; a weight that two stages read is held by both.
        cuts: by rising position.
    """

    name: str
    time_ms: Sequence[float]
    weights: Sequence[Mapping[str, int]]
    cuts: Sequence[CutPoint]

    def edges(self, cuts: Sequence[CutPoint]) -> list[int]:
        """Where the stages between these cuts begin, and where the last one ends."""
        return [0, *(cut.position for cut in cuts), len(self.time_ms)]

    def stage_times(self, cuts: Sequence[CutPoint]) -> tuple[float, ...]:
        """Of each stage between these cuts, in ms."""
        return tuple(sum(self.time_ms[start:end]) for start, end in pairwise(self.edges(cuts)))


def partition(
    chain: Chain, stages: int, *, cap_bytes: int | None = None, slack: float = 0.0
) -> tuple[CutPoint, ...]:
    """The stages - 1 cuts.

    Args:
        chain: nodes and cut points.
        stages: how many are wanted, at least 1.
        cap_bytes: of the weights of one stage; None for any.
        slack: by how much the slowest stage may be slower than the best if fewer bytes cross for it.

    Raises:
        UsageError: there are not enough cut points.
        Infeasible: the weights of no such partition fit; says how many stages would do.
    """
    if stages > len(chain.cuts) + 1:
        raise _too_few_cuts(chain, stages)
    edges = chain.edges(chain.cuts)
    since_start = np.concatenate([[0.0], np.cumsum(np.asarray(chain.time_ms, np.float64))])[edges]
    time_ms = since_start[None, :] - since_start[:, None]
    fits = np.triu(np.ones((len(edges), len(edges)), np.bool_), 1)
    if cap_bytes is not None:
        fits &= held_bytes(chain, edges) <= cap_bytes
        _see_that_it_fits(chain, stages, fits, edges, cap_bytes)
    limit_ms = (1.0 + slack) * _fastest_slowest_ms(time_ms, fits, stages)
    crossing = np.array([0.0, *(float(cut.crossing_bytes) for cut in chain.cuts), 0.0])
    taken = _fewest_bytes(time_ms, fits & (time_ms <= limit_ms), crossing, stages)
    return tuple(chain.cuts[edge - 1] for edge in taken)


def held_bytes(chain: Chain, edges: Sequence[int]) -> _Floats:
    """Bytes of the distinct weights that nodes edges[i] to edges[j] - 1 hold, [i, j]."""
    used: dict[str, list[int]] = {}  # the parts between two edges that read a weight, in order
    size: dict[str, int] = {}
    for part, (start, end) in enumerate(pairwise(edges)):
        for node in range(start, end):
            for name, count in chain.weights[node].items():
                size[name] = count
                parts = used.setdefault(name, [])
                if not parts or parts[-1] != part:
                    parts.append(part)
    # A weight counts in [i, j] by the first part that reads it: previous < i <= first < j.
    steps = np.zeros((len(edges) + 1, len(edges) + 1))
    for name, parts in used.items():
        for previous, first in pairwise([-1, *parts]):
            steps[previous + 1, first + 1] += size[name]
            steps[first + 1, first + 1] -= size[name]
    held: _Floats = steps.cumsum(axis=0).cumsum(axis=1)[: len(edges), : len(edges)]
    return held


def _fastest_slowest_ms(time_ms: _Floats, fits: _Bools, stages: int) -> float:
    cost = np.where(fits, time_ms, np.inf)
    slowest = cost[0]
    for _ in range(stages - 1):
        slowest = np.maximum(slowest[:, None], cost).min(axis=0)
    return float(slowest[-1])


def _fewest_bytes(time_ms: _Floats, allowed: _Bools, crossing: _Floats, stages: int) -> list[int]:
    """Edges of the cuts: fewest bytes first, then the fastest slowest stage."""
    total = np.where(allowed[0], 0.0, np.inf)
    slowest = np.where(allowed[0], time_ms[0], np.inf)
    came_from = []
    for _ in range(stages - 1):
        through = np.where(allowed, (total + crossing)[:, None], np.inf)
        total = through.min(axis=0)
        worst = np.where(through == total, np.maximum(slowest[:, None], time_ms), np.inf)
        came_from.append(worst.argmin(axis=0))
        slowest = worst.min(axis=0)
    edge, taken = len(crossing) - 1, []
    for step in reversed(came_from):
        edge = int(step[edge])
        taken.append(edge)
    return taken[::-1]


def _too_few_cuts(chain: Chain, stages: int) -> UsageError:
    found = len(chain.cuts)
    if not found:
        return UsageError(f"{chain.name}: {stages} stages: the graph has no cut point", "set stages to 1")
    return UsageError(
        f"{chain.name}: {stages} stages: the graph has only {found} cut point{'s' * (found > 1)}, "
        f"so at most {found + 1} stages",
        f"set stages to {found + 1} or fewer",
    )


def _see_that_it_fits(chain: Chain, stages: int, fits: _Bools, edges: list[int], cap_bytes: int) -> None:
    cap = f"the cap of {cap_bytes / MIB:,.1f} MiB for the weights of one stage"
    needed, edge = 0, 0
    while edge < len(edges) - 1:
        reach = np.flatnonzero(fits[edge])
        if not len(reach):
            least = held_bytes(chain, edges)[edge, edge + 1] / MIB
            raise Infeasible(
                f"{chain.name}: no number of stages keeps {cap}: a part without a cut point holds "
                f"{least:,.1f} MiB",
                "take a device with more memory, or a smaller model",
                constraint="memory",
            )
        # Weights only grow with a stage, so reaching as far as they fit takes the fewest stages.
        edge = int(reach[-1])
        needed += 1
    if needed > stages:
        raise Infeasible(
            f"{chain.name}: {stages} stage{'s' * (stages > 1)} do not keep {cap}; "
            f"the smallest count that does is {needed}",
            f"set stages to {needed}",
            constraint="memory",
            details={"smallest_stages": needed},
        )
