"""Every policy there is, for tables so small that all can be tried: thresholds, skips and subsets.

All tiers but the first are enumerated outright. For each of their combinations, the totals of the first
tier are sums of one term per cut, so all its bands are tried at once.
"""

from __future__ import annotations

import math
from itertools import combinations_with_replacement

import numpy as np

from cascade_tools.planning.binned import Array, BandPolicy, BinnedRows, goals_of
from cascade_tools.runtime.policy import ANSWER

MOST_POLICIES = 4_000_000
MOST_CELLS = 4_000_000  # later combinations x rows


def can_try_all(rows: BinnedRows) -> bool:
    """The table is small enough."""
    later = _combinations(rows, range(1, rows.tiers))
    return later * _combinations(rows, range(1)) <= MOST_POLICIES and later * rows.rows <= MOST_CELLS


def _combinations(rows: BinnedRows, positions: range) -> int:
    """How many policies the tiers at these positions of the full chain have together."""
    total = 1
    for own in positions:
        cuts = rows.tiers - 1 - own
        total *= math.comb(len(rows.borders[own]) + cuts, cuts)
    return total


def cheapest_of_all(rows: BinnedRows, fewest_right: int) -> BandPolicy | None:
    """The cheapest policy with enough right answers, of equal ones the most accurate; None if there is none.

    A tier that is left out is one that no row is sent to, so only the tier that rows enter at has to be
    varied apart.
    """
    best: tuple[float, float, BandPolicy] | None = None
    for entry in range(rows.tiers):
        found = _best_of_chain(rows, tuple(range(entry, rows.tiers)), fewest_right)
        if found is not None and (best is None or found[:2] < best[:2]):
            best = found
    return best[2] if best else None


def _best_of_chain(
    rows: BinnedRows, chain: tuple[int, ...], fewest_right: int
) -> tuple[float, float, BandPolicy] | None:
    tiers = len(chain)
    # right[i], cost[i]: [combinations, rows], what becomes of a row that is sent to position i.
    right: list[Array] = [np.zeros(0)] * tiers
    cost: list[Array] = [np.zeros(0)] * tiers
    right[-1] = rows.right[chain[-1]][None, :].astype(np.float64)
    cost[-1] = np.full((1, rows.rows), float(rows.cost[chain[-1]]))
    tried: list[list[tuple[int, ...]]] = [[()]]
    for own in range(tiers - 2, 0, -1):
        options = _band_starts(rows, chain, own)
        goals = goals_of(own, tiers)
        before = len(right[-1])
        for later in range(own + 1, tiers):
            right[later] = np.repeat(right[later], len(options), axis=0)
            cost[later] = np.repeat(cost[later], len(options), axis=0)
        numbers = rows.bin[chain[own]]
        band = np.stack([np.searchsorted(option, numbers, side="right") for option in options])
        band = np.tile(band, (before, 1))
        own_right = np.broadcast_to(rows.right[chain[own]].astype(np.float64), band.shape)
        right[own], cost[own] = own_right.copy(), np.full(band.shape, float(rows.cost[chain[own]]))
        for number, goal in enumerate(goals[:-1]):
            mine = band == number
            right[own][mine] = right[goal][mine]
            cost[own][mine] += cost[goal][mine]
        tried = [[*kept, option] for kept in tried for option in options]
    return _best_first_tier(rows, chain, right, cost, tried, fewest_right)


def _best_first_tier(
    rows: BinnedRows,
    chain: tuple[int, ...],
    right: list[Array],
    cost: list[Array],
    tried: list[list[tuple[int, ...]]],
    fewest_right: int,
) -> tuple[float, float, BandPolicy] | None:
    tiers, entry = len(chain), float(rows.cost[chain[0]]) * rows.rows
    if tiers == 1:
        total = float(right[0].sum())
        if total < fewest_right:
            return None
        return float(cost[0].sum()), -total, BandPolicy(chain, ((),))
    options = np.array(_band_starts(rows, chain, 0), np.intp)
    numbers = rows.bin[chain[0]].astype(np.intp)
    size = len(rows.borders[chain[0]]) + 2
    own = np.broadcast_to(rows.right[chain[0]].astype(np.float64), right[-1].shape)
    nothing = np.zeros(right[-1].shape)
    rights = [own if g == ANSWER else right[g] for g in goals_of(0, tiers)]
    costs = [nothing if g == ANSWER else cost[g] for g in goals_of(0, tiers)]
    below_right = [_below(values, numbers, size) for values in rights]
    below_cost = [_below(values, numbers, size) for values in costs]
    total_right = np.tile(below_right[-1][:, -1:], (1, len(options)))
    total_cost = entry + np.tile(below_cost[-1][:, -1:], (1, len(options)))
    for q in range(options.shape[1]):
        total_right += (below_right[q] - below_right[q + 1])[:, options[:, q]]
        total_cost += (below_cost[q] - below_cost[q + 1])[:, options[:, q]]
    enough = total_right >= fewest_right - 1e-6
    if not enough.any():
        return None
    lowest = float(np.where(enough, total_cost, np.inf).min())
    tied = enough & (total_cost <= lowest + 1e-12 * max(1.0, abs(lowest)))
    pick = int(np.argmax(np.where(tied, total_right, -np.inf)))
    combination, option = divmod(pick, len(options))
    starts = (tuple(options[option].tolist()), *reversed(tried[combination][1:]), ())
    return lowest, -float(total_right.ravel()[pick]), BandPolicy(chain, starts)


def _below(values: Array, numbers: np.ndarray[tuple[int], np.dtype[np.intp]], size: int) -> Array:
    """[combinations, size]: sum over the rows whose bin is below x."""
    sums = np.zeros((size - 1, values.shape[0]))
    np.add.at(sums, numbers, values.T)
    return np.concatenate([np.zeros((values.shape[0], 1)), np.cumsum(sums, axis=0).T], axis=1)


def _band_starts(rows: BinnedRows, chain: tuple[int, ...], own: int) -> list[tuple[int, ...]]:
    top = len(rows.borders[chain[own]]) + 1
    return list(combinations_with_replacement(range(1, top + 1), len(chain) - 1 - own))
