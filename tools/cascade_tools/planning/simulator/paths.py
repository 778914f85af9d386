"""Where every recorded row goes under one policy: computed once, by the router's own `route`.

The rows of a batch are told apart by the path that they take. What a policy can do with a row is a tree: at
each node a tier is asked, and its answer sends rows to further nodes or ends their path. A batch then is a
count of rows per path, and the engine never looks at a row again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from cascade_tools.planning.simulator.system import Recorded
from cascade_tools.runtime.policy import ANSWER, Policy, route

Rows = npt.NDArray[np.intp]
UNANSWERED = -1
MOST_PATHS = 256


@dataclass(eq=False, slots=True)
class Node:
    """Rows on their way to one tier.

    Attributes:
        tier: that is asked, in the full ladder; -1 where none is left, and the rows end here.
        wanted: that the policy names; a larger one may stand in for it.
        prior: the tier that answered before, -1 for none.
        first: number of the first path of the rows that come here; `end` is behind the last.
        ending: of those that end here, -1 for none.
        onward: where the others go, smaller tiers first.
        next: of every path from `first` on, where a row on it goes; None where it ends.
    """

    tier: int
    wanted: int
    prior: int
    first: int = 0
    end: int = 0
    ending: int = -1
    onward: tuple[Node, ...] = ()
    next: tuple[Node | None, ...] = ()


@dataclass
class Paths:
    """All paths from one node on.

    Attributes:
        path: uint8 [recorded rows]: the path of each.
        answered: by path, the tier that answers; -1 for none.
        single: by path, the counts of one row on it.
    """

    policy: Policy
    root: Node
    path: npt.NDArray[np.uint8]
    answered: list[int] = field(default_factory=list)
    single: list[list[int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        paths = range(len(self.answered))
        self.single = [[int(path == own) for path in paths] for own in paths]


def find_paths(
    policy: Policy,
    ladder: Sequence[str],
    recorded: Recorded,
    broken: frozenset[str] = frozenset(),
    wanted: int | None = None,
    prior: int = UNANSWERED,
) -> Paths:
    """Send every recorded row through a policy.

    Args:
        policy: of a gear.
        ladder: names of all tiers, smallest first.
        recorded: what they say.
        broken: tiers that are not asked: the next larger one is, as in the router.
        wanted: the tier that all rows are on their way to; default: the policy's first.
        prior: the tier that they have an answer of, -1 for none.

    Raises:
        ValueError: there are more paths than can be told apart.
    """
    return _Walk(policy, ladder, recorded, broken).all_from(wanted, prior)


class _Walk:
    def __init__(
        self, policy: Policy, ladder: Sequence[str], recorded: Recorded, broken: frozenset[str]
    ) -> None:
        self._policy = policy
        self._ladder = ladder
        self._recorded = recorded
        self._broken = broken
        self._path = np.zeros(len(recorded.confidence), np.uint8)
        self._answered: list[int] = []

    def all_from(self, wanted: int | None, prior: int) -> Paths:
        first = self._ladder.index(self._policy.tiers[0]) if wanted is None else wanted
        root = self._node(np.arange(len(self._path)), first, prior)
        return Paths(self._policy, root, self._path, self._answered)

    def _node(self, rows: Rows, wanted: int, prior: int) -> Node:
        """What becomes of rows that want a tier; the paths below a node are numbered in a row."""
        first = len(self._answered)
        able = [i for i in range(wanted, len(self._ladder)) if self._ladder[i] not in self._broken]
        tier = able[0] if able else UNANSWERED
        node = Node(tier, wanted, prior)
        goal = np.full(len(rows), ANSWER)
        name = self._ladder[tier] if able else ""
        if name in self._policy.tiers:  # else it stands in for one that is, and so answers for good
            level = self._policy.tiers.index(name)
            goal = route(self._policy.bands[level], self._recorded.confidence[rows, tier])
        ending = rows[goal == ANSWER]
        if ending.size:
            node.ending = self._end(ending, tier if able else prior)
        node.onward = tuple(
            self._node(rows[goal == number], self._ladder.index(self._policy.tiers[number]), tier)
            for number in range(len(self._policy.tiers))
            if (goal == number).any()
        )
        node.first, node.end = first, len(self._answered)
        steps: list[Node | None] = [None] * (node.end - first)
        for further in node.onward:
            steps[further.first - first : further.end - first] = [further] * (further.end - further.first)
        node.next = tuple(steps)
        return node

    def _end(self, rows: Rows, answered: int) -> int:
        number = len(self._answered)
        if number >= MOST_PATHS:
            raise ValueError(f"the policy sends the rows on more than {MOST_PATHS} paths")
        self._path[rows] = number
        self._answered.append(answered)
        return number
