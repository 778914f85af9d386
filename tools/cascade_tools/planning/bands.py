"""Skips and thresholds together: coordinate descent with an exact dynamic program per tier.

For a price of cost in right answers (a Lagrange multiplier), a row that reaches a tier has a value for every
destination: being right there, minus the priced cost of what still comes. Summed over the rows of each bin,
the best monotone bands of one tier are a shortest path over bins and destinations, found exactly. Tiers
are improved in turn, from the last to the first, until nothing changes; sweeping the price gives a front
of policies (`sweep_prices`). A multiplier misses policies inside the hull, so the ones near the wanted
accuracy are polished under the constraint itself: all pairs of cuts of one tier at a time (`polish`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cascade_tools.planning.binned import (
    Array,
    BandPolicy,
    BinnedRows,
    Flow,
    Index,
    band_of_bin,
    goals_of,
    rows_at,
    run_policy,
)
from cascade_tools.runtime.policy import ANSWER

MOST_SWEEPS = 4
MOST_POLISH_ROUNDS = 4
APPROACH_STEPS = 4
PAIR_CANDIDATES = 160
NEAR = 24


def start_policy(rows: BinnedRows, chain: tuple[int, ...], share: float) -> BandPolicy:
    """Every tier answers the upper `share` of its bins and hands the rest to the next."""
    starts = []
    for own, tier in enumerate(chain[:-1]):
        cut = 1 + round((1.0 - share) * len(rows.borders[tier]))
        bands = len(goals_of(own, len(chain)))
        starts.append((*[1] * (bands - 2), cut))
    return BandPolicy(chain, (*starts, ()))


def sweep_prices(
    rows: BinnedRows, start: BandPolicy, prices: Sequence[float]
) -> list[tuple[BandPolicy, Flow]]:
    """The best policies found for each price of cost, each from the one before.

    Args:
        rows: what is counted on.
        start: where the first price begins.
        prices: right answers that one unit of cost is worth.
    """
    found = []
    policy = start
    for price in prices:
        policy = _best_for_price(rows, policy, price)
        found.append((policy, run_policy(rows, policy)))
    return found


def _best_for_price(rows: BinnedRows, policy: BandPolicy, price: float) -> BandPolicy:
    for _ in range(MOST_SWEEPS):
        before = policy
        policy = _improve_once(rows, policy, price)
        if policy == before:
            break
    return policy


def _improve_once(rows: BinnedRows, policy: BandPolicy, price: float) -> BandPolicy:
    """One turn over the tiers, last to first; the rows that reach a tier depend on earlier ones only."""
    at = rows_at(rows, policy)
    tiers = len(policy.chain)
    starts = list(policy.starts)
    value: list[Array] = [np.zeros(0)] * tiers
    for own in range(tiers - 1, -1, -1):
        tier = policy.chain[own]
        if own < tiers - 1:
            goals = goals_of(own, tiers)
            worth = [rows.right[tier].astype(np.float64) if g == ANSWER else value[g] for g in goals]
            here = at[own]
            numbers = rows.bin[tier][here]
            if not len(numbers):  # nobody comes: be ready for all
                here, numbers = slice(None), rows.bin[tier]
            bins = len(rows.borders[tier]) + 1
            sums: Array = np.stack([np.bincount(numbers, w[here], bins).astype(np.float64) for w in worth])
            starts[own] = _best_bands(sums)
            if own == 0:
                break
            value[own] = _choose(rows, tier, starts[own], worth) - price * float(rows.cost[tier])
        else:
            value[own] = rows.right[tier] - price * float(rows.cost[tier])
    return BandPolicy(policy.chain, tuple(starts))


def _choose(rows: BinnedRows, tier: int, starts: tuple[int, ...], worth: list[Array]) -> Array:
    """Of the values of every destination, the one that each row gets."""
    band = band_of_bin(starts, rows.borders[tier])[rows.bin[tier]]
    found = worth[-1].copy()
    for number in range(len(worth) - 1):
        mine = band == number
        if mine.any():
            found[mine] = worth[number][mine]
    return found


def _best_bands(sums: Array) -> tuple[int, ...]:
    """Starts of the bands with the highest total.

    Args:
        sums: [destinations, bins + 1], value of each bin for each destination; bin 0 is empty.
    """
    # below[q][x]: value of the bins below x if they all went to destination q; x = 0 .. bins + 1.
    below = np.concatenate([np.zeros((len(sums), 1)), np.cumsum(sums, axis=1)], axis=1)
    best = below[0]
    origins = []
    for row in below[1:]:
        gain = best - row
        highest = np.maximum.accumulate(gain)
        fresh = np.concatenate([[True], highest[1:] > highest[:-1]])
        origins.append(np.maximum.accumulate(np.where(fresh, np.arange(len(gain)), 0)))
        best = row + highest
    end = below.shape[1] - 1
    starts = []
    for origin in reversed(origins):
        end = int(origin[end])
        starts.append(max(end, 1))
    return tuple(reversed(starts))


def polish(rows: BinnedRows, policy: BandPolicy, fewest_right: int) -> tuple[BandPolicy, Flow]:
    """Move the cuts of one tier at a time, in pairs, to the lowest cost that keeps the accuracy.

    The accuracy that is asked for moves from the start's to the wanted one in a few steps, so that all tiers
    give their share. Never dearer than an accurate start.
    """
    flow = run_policy(rows, policy)
    if flow.right == fewest_right:
        steps = []
    else:
        steps = np.linspace(flow.right, fewest_right, APPROACH_STEPS + 1)[1:-1].round().tolist()
    kept: tuple[BandPolicy, Flow] | None = (policy, flow) if flow.right >= fewest_right else None
    for wanted in [*steps, *[fewest_right] * MOST_POLISH_ROUNDS]:
        before = flow
        for own in range(len(policy.chain) - 2, -1, -1):
            policy, flow = _polish_tier(rows, policy, flow, own, int(wanted))
        if flow.right >= fewest_right and (kept is None or _better(flow, kept[1], fewest_right)):
            kept = (policy, flow)
        same = (flow.right >= wanted) == (before.right >= wanted)
        if wanted == fewest_right and same and flow.cost >= before.cost * (1.0 - 1e-5):
            break
    return kept or (policy, flow)


def _polish_tier(
    rows: BinnedRows, policy: BandPolicy, flow: Flow, own: int, fewest_right: int
) -> tuple[BandPolicy, Flow]:
    tier = policy.chain[own]
    here = flow.at[own]
    numbers = rows.bin[tier][here]
    if not len(numbers):
        return policy, flow
    right, cost = _below(rows, policy, own, flow)
    # Moving the border between bands q and q + 1 to x changes the totals by these, whatever the others do.
    right_at, cost_at = right[:-1] - right[1:], cost[:-1] - cost[1:]
    starts = list(policy.starts[own])
    fixed_right = flow.right - sum(float(right_at[q][x]) for q, x in enumerate(starts))
    fixed_cost = flow.cost - sum(float(cost_at[q][x]) for q, x in enumerate(starts))
    top = right.shape[1] - 1
    borders = len(starts)
    pairs = [(q, r) for q in range(borders) for r in range(q + 1, borders)] or [(0, 0)]
    for q, r in pairs:
        low = starts[q - 1] if q else 1
        high = starts[r + 1] if r + 1 < borders else top
        first = _candidates(low, high, starts[q], PAIR_CANDIDATES if q != r else top)
        between = [starts[k] for k in range(q + 1, r)]
        others = [k for k in range(borders) if k not in (q, r)]
        base_right = fixed_right + sum(float(right_at[k][starts[k]]) for k in others)
        base_cost = fixed_cost + sum(float(cost_at[k][starts[k]]) for k in others)
        if q == r:
            total_right = base_right + right_at[q][first]
            total_cost = base_cost + cost_at[q][first]
            legal = np.ones(len(first), bool)
            second = first
        else:
            second = _candidates(low, high, starts[r], PAIR_CANDIDATES)
            total_right = base_right + right_at[q][first][:, None] + right_at[r][second][None, :]
            total_cost = base_cost + cost_at[q][first][:, None] + cost_at[r][second][None, :]
            legal = first[:, None] <= second[None, :]
            if between:
                legal = legal & (first[:, None] <= between[0]) & (second[None, :] >= between[-1])
        enough = legal & (total_right >= fewest_right - 1e-6)
        if enough.any():
            pick = int(np.argmin(np.where(enough, total_cost, np.inf)))
        else:
            pick = int(np.argmax(np.where(legal, total_right, -np.inf)))
        where = np.unravel_index(pick, total_cost.shape)
        starts[q], starts[r] = int(first[where[0]]), int(second[where[-1]])
    moved = BandPolicy(policy.chain, (*policy.starts[:own], tuple(starts), *policy.starts[own + 1 :]))
    if moved == policy:
        return policy, flow
    after = run_policy(rows, moved)
    return (moved, after) if _better(after, flow, fewest_right) else (policy, flow)


def _better(one: Flow, other: Flow, fewest_right: int) -> bool:
    if one.right < fewest_right or other.right < fewest_right:
        return one.right > other.right
    return (one.cost, -one.right) < (other.cost, -other.right)


def _candidates(low: int, high: int, now: int, count: int) -> Index:
    """Starts to try: all over the range, and every one close to the present."""
    spread = np.linspace(low, high, min(count, high - low + 1)).round().astype(np.intp)
    near = np.arange(max(low, now - NEAR), min(high, now + NEAR) + 1)
    candidates: Index = np.unique(np.concatenate([spread, near]))
    return candidates


def _below(rows: BinnedRows, policy: BandPolicy, own: int, flow: Flow) -> tuple[Array, Array]:
    """Right answers and cost of the rows at a tier that are below bin x, for every destination."""
    tiers, tier = len(policy.chain), policy.chain[own]
    here = flow.at[own]
    numbers = rows.bin[tier][here]
    right: list[Array] = [np.zeros(0)] * tiers
    cost: list[Array] = [np.zeros(0)] * tiers
    for later in range(tiers - 1, own, -1):
        mine = policy.chain[later]
        right[later] = rows.right[mine][here].astype(np.float64)
        cost[later] = np.full(len(numbers), float(rows.cost[mine]))
        if later < tiers - 1:
            goals = goals_of(later, tiers)
            chosen = band_of_bin(policy.starts[later], rows.borders[mine])[rows.bin[mine][here]]
            for number, goal in enumerate(goals[:-1]):
                some = np.flatnonzero(chosen == number)
                right[later][some] = right[goal][some]
                cost[later][some] += cost[goal][some]
    size = len(rows.borders[tier]) + 1
    own_right = rows.right[tier][here].astype(np.float64)
    rights = [own_right if goal == ANSWER else right[goal] for goal in goals_of(own, tiers)]
    right_sums = np.stack([np.bincount(numbers, values, size) for values in rights])
    cost_sums = np.stack(
        [
            np.zeros(size) if goal == ANSWER else np.bincount(numbers, cost[goal], size)
            for goal in goals_of(own, tiers)
        ]
    )
    zero = np.zeros((len(rights), 1))
    return (
        np.concatenate([zero, np.cumsum(right_sums, axis=1)], axis=1),
        np.concatenate([zero, np.cumsum(cost_sums, axis=1)], axis=1),
    )
