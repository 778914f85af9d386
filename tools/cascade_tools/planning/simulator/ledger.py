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
NONE = -1
NAN = float("nan")


class Ledger:
    """All batches.

    Requests come in *spans*, in order: those of one `execute` call that were admitted, and those that were
    not.

    Args:
        ladder: names of the tiers.
        recorded: what they say of recorded rows.
        rows: which of these each request is, int64 [requests].
        gears: all of the plan, then those of its fallbacks; results number them like this.

    Attributes:
        ended_s: when the rows of a path of a batch were answered (or given up), NaN until then.
    """

    def __init__(
        self, ladder: list[str], recorded: Recorded, rows: IntArray, gears: Sequence[GearInfo]
    ) -> None:
        self._ladder = ladder
        self._recorded = recorded
        self._rows = rows
        self._gears = gears
        self._gear_number = {id(gear): number for number, gear in enumerate(gears)}
        # Of every span: behind its last request, and its batch, -1 for none.
        self._span_end: list[int] = []
        self._span_batch: list[int] = []
        # Of every batch.
        self._base: list[int] = []
        self._table: list[int] = []
        self._gear: list[int] = []
        self._moved: list[tuple[IntArray, int]] = []
        self._tables: list[Paths] = []
        self._known: dict[tuple[int, frozenset[str], int, int], tuple[Paths, int, bytes]] = {}
        self.ended_s: list[float] = []

    def gear_number(self, gear: Gear) -> int:
        """A gear's number in the results."""
        return self._gear_number[id(gear.info)]

    def take(self, admitted: int, end: int) -> int:
        """Let requests in up to `admitted`, of those up to `end`; return the number of their span."""
        ends, batches = self._span_end, self._span_batch
        ends.append(admitted)
        batches.append(NONE)
        number = len(ends) - 1
        if admitted < end:
            ends.append(end)
            batches.append(NONE)
        return number

    def begin(self, spans: Sequence[int], gear: Gear, broken: frozenset[str]) -> Batch:
        """Make one batch of what was let in."""
        number = self._gear_number[id(gear.info)]
        paths, table, of_requests = self._find(number, broken, NONE, UNANSWERED)
        ends = self._span_end
        taken = b""
        for span in spans:
            taken += of_requests[ends[span - 1] if span else 0 : ends[span]]
        batch = self._add(paths, table, taken, number)
        for span in spans:
            self._span_batch[span] = batch.number
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
        path = batch.paths.path[self._rows[requests]]
        members = requests[(path >= node.first) & (path < node.end)]
        paths, table, of_requests = self._find(batch.gear, broken, wanted, node.prior)
        taken = np.frombuffer(of_requests, np.uint8)[members].tobytes()
        made = self._add(paths, table, taken, batch.gear)
        self._moved.append((members, made.number))
        return made

    def outcomes(self) -> tuple[FloatArray, IntArray, IntArray]:
        """When every request was answered (NaN if never), by which tier, in which gear (-1 for none)."""
        batch = np.repeat(np.asarray(self._span_batch, np.int64), np.diff(self._span_end, prepend=0))
        for members, number in self._moved:
            batch[members] = number
        done_s = np.full(len(batch), np.nan)
        tier = np.full(len(batch), UNANSWERED, np.int64)
        gear = np.full(len(batch), NONE, np.int64)
        admitted = np.flatnonzero(batch >= 0)
        mine = batch[admitted]
        gear[admitted] = np.asarray(self._gear, np.int64)[mine]
        base, table = np.asarray(self._base, np.int64)[mine], np.asarray(self._table, np.int64)[mine]
        ended_s = np.asarray(self.ended_s, np.float64)
        for number, paths in enumerate(self._tables):
            here = np.flatnonzero(table == number)
            requests = admitted[here]
            path = paths.path[self._rows[requests]].astype(np.int64)
            done_s[requests] = ended_s[base[here] + path]
            tier[requests] = np.asarray(paths.answered, np.int64)[path]
        done_s[tier < 0] = np.nan
        return done_s, tier, gear

    def _add(self, paths: Paths, table: int, taken: bytes, gear: int) -> Batch:
        """A batch of rows whose paths are `taken`."""
        ended_s = self.ended_s
        base = len(ended_s)
        if len(taken) == 1:
            only = taken[0]
            counts = paths.single[only]
            base -= only
            ended_s.append(NAN)
        else:
            only = NONE
            count = taken.count
            counts = [count(path) for path in range(len(paths.answered))]
            ended_s += [NAN] * len(counts)
        number = len(self._base)
        self._base.append(base)
        self._table.append(table)
        self._gear.append(gear)
        return Batch(number, paths, counts, base, gear, only)

    def _requests(self, batch: Batch) -> IntArray:
        """The requests of a batch, in order."""
        for members, number in self._moved:
            if number == batch.number:
                return members
        spans = np.flatnonzero(np.asarray(self._span_batch) == batch.number).tolist()
        ends = self._span_end
        found = [np.arange(ends[span - 1] if span else 0, ends[span]) for span in spans]
        return np.concatenate(found).astype(np.int64)

    def _find(self, gear: int, broken: frozenset[str], wanted: int, prior: int) -> tuple[Paths, int, bytes]:
        """Paths from a tier on (-1: the policy's first), their number, and the path of every request."""
        key = (gear, broken, wanted, prior)
        known = self._known.get(key)
        if known is None:
            first = None if wanted == NONE else wanted
            paths = find_paths(self._gears[gear].policy, self._ladder, self._recorded, broken, first, prior)
            known = self._known[key] = (paths, len(self._tables), paths.path[self._rows].tobytes())
            self._tables.append(paths)
        return known
