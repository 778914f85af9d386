"""Rows with confidences in bins, and policies whose cuts are bin borders: what the solvers count with.

A bin border is always a confidence that occurs, so ties stay together and a policy does on these rows
exactly what its table does. With at most `bins` different confidences per tier nothing is lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cascade_tools.artifacts import FloatArray, PolicyTable, Route, ScoreTable
from cascade_tools.runtime.policy import ANSWER

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]
DEFAULT_BINS = 1500


@dataclass(frozen=True)
class BinnedRows:
    """Rows as the solvers see them; everything is by ladder position first.

    Attributes:
        borders: float32 per tier, ascending; the first is the smallest confidence that occurs.
        bin: uint16 [tiers][rows], 1 .. len(borders): how many borders are not above the confidence.
        right: bool [tiers][rows].
        cost: [tiers].
        reference: ladder position.
    """

    borders: tuple[FloatArray, ...]
    bin: tuple[npt.NDArray[np.uint16], ...]
    right: npt.NDArray[np.bool_]
    cost: Array
    reference: int

    @property
    def rows(self) -> int:
        """How many."""
        return self.right.shape[1]

    @property
    def tiers(self) -> int:
        """How many."""
        return self.right.shape[0]

    def most_lost(self, max_accuracy_drop: float) -> int:
        """Right answers that may be lost on these rows for a drop of so many points."""
        return int(np.floor(max_accuracy_drop / 100.0 * self.rows + 1e-9))

    def fewest_right(self, max_accuracy_drop: float) -> int:
        """Right answers that a policy needs."""
        return int(self.right[self.reference].sum()) - self.most_lost(max_accuracy_drop)

    def sample(self, rows: int, seed: int) -> BinnedRows:
        """Some of the rows, chosen at random without replacement, with the same borders."""
        if rows >= self.rows:
            return self
        keep = np.sort(np.random.default_rng(seed).choice(self.rows, rows, replace=False))
        return BinnedRows(
            self.borders,
            tuple(values[keep] for values in self.bin),
            np.ascontiguousarray(self.right[:, keep]),
            self.cost,
            self.reference,
        )


def bin_rows(
    table: ScoreTable, cost: Sequence[float], reference: int, bins: int = DEFAULT_BINS
) -> BinnedRows:
    """Put the rows of a table into bins of about equal numbers of rows.

    Args:
        table: NaN confidences count as 0.
        cost: one row at each tier.
        reference: position of the tier that accuracy is compared with; may be negative.
        bins: most bins per tier, below 2**16.
    """
    borders, numbers = [], []
    for tier in range(len(table.tiers)):
        column = table.confidence[:, tier]
        known: FloatArray = np.where(np.isnan(column), np.float32(0.0), column)
        ordered = np.sort(known)
        distinct = ordered[np.concatenate([[True], ordered[1:] != ordered[:-1]])]
        if len(distinct) > bins:
            pick = np.linspace(0, len(ordered) - 1, bins).round().astype(np.intp)
            distinct = np.unique(ordered[pick])
        borders.append(distinct)
        numbers.append(np.searchsorted(distinct, known, side="right").astype(np.uint16))
    right = np.stack([table.label[:, tier] == table.target for tier in range(len(table.tiers))])
    return BinnedRows(
        tuple(borders),
        tuple(numbers),
        right,
        np.asarray(cost, np.float64),
        reference % len(table.tiers),
    )


class BandPolicy(NamedTuple):
    """A policy over a chain of tiers with all skips allowed.

    Attributes:
        chain: ladder positions, ascending.
        starts: per chain position i the bins at which the bands for len(chain) - 2, .., i + 1 and `answer`
            begin; below the first the row goes to the chain's last tier. Ascending; an empty band begins
            where the next one does. 1 is the lowest bin, len(borders) + 1 is above all rows.
    """

    chain: tuple[int, ...]
    starts: tuple[tuple[int, ...], ...]


def goals_of(own: int, tiers: int) -> list[int]:
    """Where a tier may send rows, lowest confidence first: to the largest tier, .., the next, an answer."""
    return [*range(tiers - 1, own, -1), ANSWER]


def band_of_bin(starts: tuple[int, ...], borders: FloatArray) -> npt.NDArray[np.int8]:
    """The band of every bin number, 0 .. len(borders)."""
    return np.searchsorted(starts, np.arange(len(borders) + 1), side="right").astype(np.int8)


def rows_at(rows: BinnedRows, policy: BandPolicy) -> list[Index | slice]:
    """The rows that reach every chain position; a slice for all of them."""
    tiers = len(policy.chain)
    waiting: list[list[Index]] = [[] for _ in range(tiers)]
    at: list[Index | slice] = [slice(None)]
    for own in range(tiers - 1):
        tier, here = policy.chain[own], at[own]
        band = band_of_bin(policy.starts[own], rows.borders[tier])[rows.bin[tier][here]]
        for number, goal in enumerate(goals_of(own, tiers)[:-1]):
            chosen = np.flatnonzero(band == number)
            if len(chosen):
                waiting[goal].append(chosen if isinstance(here, slice) else here[chosen])
        following = waiting[own + 1]
        at.append(np.concatenate(following) if following else np.zeros(0, np.intp))
    return at


class Flow(NamedTuple):
    """Rows at every chain position, and what the policy amounts to."""

    at: list[Index | slice]
    right: int
    cost: float


def run_policy(rows: BinnedRows, policy: BandPolicy) -> Flow:
    """Send all rows through; cost is the sum over rows."""
    at = rows_at(rows, policy)
    right, cost = 0, 0.0
    for own, (tier, here) in enumerate(zip(policy.chain, at, strict=True)):
        count = rows.rows if isinstance(here, slice) else len(here)
        cost += float(rows.cost[tier]) * count
        mine = rows.right[tier][here]
        if own < len(policy.chain) - 1:
            mine = mine[rows.bin[tier][here] >= policy.starts[own][-1]]
        right += int(np.count_nonzero(mine))
    return Flow(at, right, cost)


def policy_table(rows: BinnedRows, policy: BandPolicy, names: Sequence[str]) -> PolicyTable:
    """The policy as a table, without empty bands and without tiers that no row can reach."""
    chain, tiers = policy.chain, len(policy.chain)
    bands: list[list[tuple[int, int]]] = []  # per position: (first bin, goal)
    for own in range(tiers):
        if own == tiers - 1:
            bands.append([(1, ANSWER)])
            continue
        top = len(rows.borders[chain[own]]) + 1
        edges = [1, *(min(max(start, 1), top) for start in policy.starts[own]), top]
        live = zip(edges[:-1], edges[1:], goals_of(own, tiers), strict=True)
        bands.append([(first, goal) for first, end, goal in live if first < end])
    entry = 0
    while bands[entry][0][1] != ANSWER and len(bands[entry]) == 1:
        entry = bands[entry][0][1]  # it hands every row on to the same tier
    used = {entry}
    for own in range(entry, tiers):
        if own in used:
            used.update(goal for _, goal in bands[own] if goal != ANSWER)
    order = sorted(used)
    position = {own: number for number, own in enumerate(order)}
    position[ANSWER] = ANSWER
    routes = [
        Route(
            cuts=tuple(float(rows.borders[chain[own]][first - 1]) for first, _ in bands[own][1:]),
            to=tuple(position[goal] for _, goal in bands[own]),
        )
        for own in order
    ]
    return PolicyTable(tiers=tuple(names[chain[own]] for own in order), routes=tuple(routes))
