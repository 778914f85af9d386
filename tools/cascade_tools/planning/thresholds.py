"""Accept thresholds without skips, exactly, on a grid (HybridServe, Algorithm 1, without the sampling).

For a subset of the tiers and a list of cuts per tier, right answers and cost of *every* combination of cuts
come from cumulative histograms. With k_j the correctness at level j, and because a row that reaches level j
has been refused by all before it,

    right(q) = sum k_0 + sum_j C_j[k_j - k_(j-1)](q_0 .. q_(j-1)),

where C_j sums over the rows whose confidences at levels 0 .. j-1 are all below the cuts q. Cost telescopes
alike. The grid is then refined around the best combination.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cascade_tools.planning.binned import Array, BandPolicy, BinnedRows, Index

MAX_GRID_CELLS = 40_000
MAX_CUTS = 120
REFINEMENTS = 3


@dataclass(frozen=True)
class Grid:
    """All combinations of cuts of one subset; `right` and `cost` (sums over rows) have one axis per cut."""

    subset: tuple[int, ...]
    cuts: tuple[Index, ...]
    right: Array
    cost: Array

    def policy(self, flat: int) -> BandPolicy:
        """The combination of this flat index."""
        where = np.unravel_index(flat, self.cost.shape) if self.cuts else ()
        chosen = [int(values[i]) for values, i in zip(self.cuts, where, strict=True)]
        last = len(self.subset) - 1
        starts = [(*[1] * (last - own - 1), cut) for own, cut in enumerate(chosen)]
        return BandPolicy(self.subset, (*starts, ()))

    def cheapest(self, fewest_right: int) -> int | None:
        """Flat index of the cheapest combination with enough right answers."""
        enough = self.right >= fewest_right - 1e-6
        if not enough.any():
            return None
        return int(np.argmin(np.where(enough, self.cost, np.inf)))


def search_thresholds(rows: BinnedRows, subset: tuple[int, ...], fewest_right: int) -> Iterator[Grid]:
    """The whole grid of one subset, then finer grids around its best combination."""
    levels = len(subset) - 1
    if levels == 0:
        yield tabulate(rows, subset, ())
        return
    per_level = max(3, min(MAX_CUTS, int(MAX_GRID_CELLS ** (1.0 / levels))))
    windows = [(1, len(rows.borders[tier]) + 1) for tier in subset[:-1]]
    for _ in range(1 + REFINEMENTS):
        cuts = tuple(_spread(low, high, per_level) for low, high in windows)
        grid = tabulate(rows, subset, cuts)
        yield grid
        best = grid.cheapest(fewest_right)
        if best is None or all(high - low < per_level for low, high in windows):
            return
        where = [int(i) for i in np.unravel_index(best, grid.cost.shape)]
        windows = [
            (int(values[max(i - 1, 0)]), int(values[min(i + 1, len(values) - 1)]))
            for values, i in zip(cuts, where, strict=True)
        ]


def _spread(low: int, high: int, count: int) -> Index:
    return np.unique(np.linspace(low, high, min(count, high - low + 1)).round().astype(np.intp))


def tabulate(rows: BinnedRows, subset: tuple[int, ...], cuts: tuple[Index, ...]) -> Grid:
    """All combinations of the given cuts (start bins of the answering band, ascending)."""
    shape = tuple(len(values) for values in cuts)
    right: Array = np.full(shape, float(rows.right[subset[0]].sum()))
    cost: Array = np.full(shape, float(rows.cost[subset[0]]) * rows.rows)
    # A row is refused at a level by cut number q and all above, where q = refused_from[level][row].
    refused_from = [
        np.searchsorted(values, np.arange(len(rows.borders[tier]) + 1), side="right")[rows.bin[tier]]
        for tier, values in zip(subset, cuts, strict=False)
    ]
    here: npt.NDArray[np.intp] = np.arange(rows.rows)
    cell = np.zeros(rows.rows, np.intp)
    for level in range(1, len(subset)):
        number = refused_from[level - 1][here]
        some = number < shape[level - 1]
        here, cell = here[some], cell[some] * shape[level - 1] + number[some]
        if not len(here):
            break
        gain = rows.right[subset[level]][here].astype(np.float64) - rows.right[subset[level - 1]][here]
        right = right + _cumulate(cell, gain, shape[:level], len(shape))
        cost = cost + float(rows.cost[subset[level]]) * _cumulate(cell, None, shape[:level], len(shape))
    return Grid(subset, cuts, right, cost)


def _cumulate(cell: Index, weight: Array | None, shape: tuple[int, ...], axes: int) -> Array:
    """Sum of the rows' weights below every combination of cuts; broadcasts over the other axes."""
    table: Array = np.bincount(cell, weight, math.prod(shape)).astype(np.float64).reshape(shape)
    for axis in range(len(shape)):
        np.cumsum(table, axis=axis, out=table)
    return table.reshape(shape + (1,) * (axes - len(shape)))
