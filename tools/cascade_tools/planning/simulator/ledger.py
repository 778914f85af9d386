"""Which rows are in which batch, and what became of them in the end."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from cascade_tools.planning.simulator.batch import Batch
from cascade_tools.planning.simulator.paths import UNANSWERED, Node, Paths, find_paths
from cascade_tools.planning.simulator.system import Recorded
from cascade_tools.runtime.gears import Gear
from cascade_tools.runtime.plan import GearInfo

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
REFUSED = -1


class Span:
    """Requests `first .. end` that were admitted together; `batch` is theirs, -1 until there is one."""

    __slots__ = ("batch", "end", "first")

    def __init__(self, first: int, end: int) -> None:
        self.first = first
        self.end = end
        self.batch = REFUSED

    @property
    def rows(self) -> int:
        """How many."""
        return self.end - self.first


class Ledger:
    """All batches.

    Args:
        ladder: names of the tiers.
        recorded: what they say of recorded rows.
        rows: which of these each request is, int64 [requests].
        gears: all of the plan, then those of its fallbacks; results number them like this.
    """

    def __init__(
        self,
        ladder: list[str],
        recorded: Recorded,
        rows: IntArray,
        gears: Sequence[GearInfo],
    ) -> None:
        self._ladder = ladder
        self._recorded = recorded
        self._rows = rows
        self._gears = gears
        self._number = {id(gear): number for number, gear in enumerate(gears)}
        self._spans: list[Span] = []
        self._batches: list[Batch] = []
        self._moved: list[tuple[IntArray, int]] = []
        self._paths: dict[tuple[int, frozenset[str], int, int], tuple[Paths, bytes]] = {}

    def gear_number(self, gear: Gear) -> int:
        """A gear's number in the results."""
        return self._number[id(gear.info)]

    def take(self, first: int, admitted: int, end: int) -> Span:
        """Requests came into `execute`: those from `admitted` on are refused."""
        span = Span(first, admitted)
        self._spans.append(span)
        if admitted < end:
            self._spans.append(Span(admitted, end))
        return span

    def begin(self, spans: list[Span], gear: Gear, broken: frozenset[str]) -> Batch:
        """Make one batch of what was admitted."""
        number = self.gear_number(gear)
        paths, of_requests = self._find(number, broken, None, UNANSWERED)
        if len(spans) == 1:
            taken = of_requests[spans[0].first : spans[0].end]
        else:
            taken = b"".join([of_requests[span.first : span.end] for span in spans])
        batch = Batch(len(self._batches), paths, taken, number)
        self._batches.append(batch)
        for span in spans:
            span.batch = batch.number
        return batch

    def again(self, batch: Batch, node: Node, broken: frozenset[str], wanted: int) -> Batch:
        """Make a batch of its own of the rows that came to a node whose tier did not answer.

        Args:
            batch: theirs.
            node: where they are.
            broken: tiers that nobody asks any more.
            wanted: the tier that is asked instead, or the next larger one that works.
        """
        requests = self._requests(batch)
        here = np.isin(batch.paths.path[self._rows[requests]], node.paths)
        members = requests[here]
        paths, of_requests = self._find(batch.gear, broken, wanted, node.prior)
        taken = bytes(np.frombuffer(of_requests, np.uint8)[members])
        made = Batch(len(self._batches), paths, taken, batch.gear)
        self._batches.append(made)
        self._moved.append((members, made.number))
        return made

    def outcomes(self) -> tuple[FloatArray, IntArray, IntArray]:
        """Of every request: when it was answered (NaN if never), by which tier, in which gear (-1 likewise)."""
        numbers = np.asarray([span.batch for span in self._spans], np.int64)
        batch = np.repeat(numbers, [span.rows for span in self._spans])
        for members, number in self._moved:
            batch[members] = number
        begin, ended, gear, table = self._by_batch()
        done_s = np.full(len(batch), np.nan)
        tier = np.full(len(batch), UNANSWERED, np.int64)
        served = np.where(batch >= 0, gear[batch] if len(gear) else -1, -1)
        for number, (paths, _) in enumerate(self._paths.values()):
            mine = np.flatnonzero((batch >= 0) & (table[batch] == number))
            path = paths.path[self._rows[mine]]
            done_s[mine] = ended[begin[batch[mine]] + path]
            tier[mine] = np.asarray(paths.answered, np.int64)[path]
        done_s[tier < 0] = np.nan
        return done_s, tier, served

    def _by_batch(self) -> tuple[IntArray, FloatArray, IntArray, IntArray]:
        """Where each batch's ends begin, all ends, and of each batch its gear and its paths' number."""
        sizes = [len(batch.ended_s) for batch in self._batches]
        begin = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)[:-1]
        ended = np.asarray([end for batch in self._batches for end in batch.ended_s], np.float64)
        gear = np.asarray([batch.gear for batch in self._batches], np.int64)
        number = {id(paths): number for number, (paths, _) in enumerate(self._paths.values())}
        table = np.asarray([number[id(batch.paths)] for batch in self._batches], np.int64)
        return begin, ended, gear, table

    def _requests(self, batch: Batch) -> IntArray:
        """The requests of a batch, in order."""
        for members, number in self._moved:
            if number == batch.number:
                return members
        found = [np.arange(s.first, s.end) for s in self._spans if s.batch == batch.number]
        return np.concatenate(found).astype(np.int64)

    def _find(self, gear: int, broken: frozenset[str], wanted: int | None, prior: int) -> tuple[Paths, bytes]:
        """Paths from a node on, and the path of every request."""
        key = (gear, broken, REFUSED if wanted is None else wanted, prior)
        known = self._paths.get(key)
        if known is None:
            paths = find_paths(self._gears[gear].policy, self._ladder, self._recorded, broken, wanted, prior)
            known = self._paths[key] = (paths, paths.path[self._rows].tobytes())
        return known
