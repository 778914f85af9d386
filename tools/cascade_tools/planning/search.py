"""The cheapest policy within an accuracy allowance, and the frontier around it.

Thresholds, skips and left-out tiers are one search:

1. tables small enough to try everything: everything is tried (`exhaustive`);
2. else exact threshold grids on every subset of the tiers (`thresholds`), and for every tier that rows may
   enter at a sweep over the price of cost with skips (`bands`), both on a sample of the rows;
3. the best of both are polished under the constraint, on all rows; the cheapest stays.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations, pairwise

import numpy as np
import numpy.typing as npt

from cascade_tools.artifacts import PolicyTable, PredictedPolicy, ScoreTable
from cascade_tools.planning.bands import polish, start_policy, sweep_prices
from cascade_tools.planning.binned import BandPolicy, BinnedRows, Flow, bin_rows, policy_table, run_policy
from cascade_tools.planning.evaluate import Evaluator, Question, threshold_policy
from cascade_tools.planning.exhaustive import can_try_all, cheapest_of_all
from cascade_tools.planning.thresholds import Grid, search_thresholds

SEED = 0
SAMPLE_ROWS = 10_000
POLISH_ROWS = 20_000
POLISH_SHARE = 1 / 16  # of the rows of a large table
PRICES = 16
STARTS_PER_SIDE = 2
MUCH_DEARER = 1.1
CLOSER = 6
FRONT_OF_GRID = 40
FRONTIER_SIZE = 80
BUDGET_STEPS = 16
MOVED = 3
CLOSE_PRICES = np.geomspace(0.5, 1.8, 5)
FINAL_PRICES = np.geomspace(0.7, 1.4, 3)
COLD_SHARES = (0.5, 0.85, 0.2)
ENTRIES = 2
NEARLY = 0.005
CAREFUL_STEPS = 4
MOST_RETRIED = 12
TYPICAL_DISAGREEMENT = 0.05
FRONTIER_ROWS = 10_000


@dataclass(frozen=True)
class Found:
    """What the search found.

    Attributes:
        best: the policy that answers the question on these rows; None if no policy does.
        pool: policies worth looking at, without order and without duplicates.
    """

    best: PolicyTable | None
    pool: tuple[PolicyTable, ...]


@dataclass(frozen=True)
class _Candidate:
    """A policy with what its solver saw: accuracy above the reference on the same rows, and cost per row.

    `price` is the one that it is best for, where it comes from a sweep.
    """

    policy: BandPolicy
    gain: float
    cost: float
    price: float | None = None


def search(table: ScoreTable, question: Question, *, careful: bool = False) -> Found:
    """Find the best policy on these rows, by what is measured on them alone.

    The cheapest within `max_accuracy_drop`; without one, the most accurate within `max_cost`. Bounds on
    latency and cost are kept, too. Deterministic; of equally cheap policies the more accurate.

    Args:
        table: rows that no head was fitted on.
        question: costs and bounds.
        careful: put policies into the pool that keep the allowance by 1 to 4 standard errors.
    """
    rows = bin_rows(table, question.cost, question.reference)
    names = table.tiers
    candidates = list(_explore(rows, question))
    finalists = _finalists(rows, question, candidates)
    # Without latencies nothing but accuracy and cost tells policies apart.
    worth = candidates if question.latency_ms is not None else _front(candidates)
    if careful and question.max_accuracy_drop is not None:
        worth = [*worth, *_more_careful(rows, candidates, question.max_accuracy_drop)]
    pool = {policy_table(rows, c.policy, names): None for c in [*finalists, *worth]}
    pool.setdefault(threshold_policy([names[question.reference]], []))
    simple = not question.max_latency_ms and question.max_cost is None
    if simple and question.max_accuracy_drop is not None:
        drop = question.max_accuracy_drop
        held = [c for c in finalists if _keeps_drop(c, rows, drop)]
        cheapest = min((c.cost for c in held), default=np.inf)
        near = [c for c in candidates if abs(c.gain + drop / 100.0) < NEARLY and c.cost < cheapest]
        on_all_rows = [
            _seen(rows, c.policy, run_policy(rows, c.policy)) for c in _front(near)[-MOST_RETRIED:]
        ]
        held += [c for c in on_all_rows if _keeps_drop(c, rows, drop)]
        if not held:
            return Found(None, tuple(pool))
        best = min(held, key=lambda c: (c.cost, -c.gain))
        return Found(policy_table(rows, best.policy, names), tuple(pool))
    judged = Evaluator(table, question)
    sure = {policy_table(rows, c.policy, names) for c in finalists} | {judged.reference_policy}
    chosen = dict.fromkeys([*_worth_judging(pool, table, question), *(p for p in pool if p in sure)])
    legal = [p for p in map(judged, chosen) if keeps(p, question)]
    return Found(preferred(legal, question).table if legal else None, tuple(pool))


def keeps(policy: PredictedPolicy, question: Question) -> bool:
    """All constraints hold, the accuracy as measured."""
    drop = question.max_accuracy_drop
    return (drop is None or policy.accuracy_drop <= drop + 1e-9) and keeps_all_but_drop(policy, question)


def keeps_all_but_drop(policy: PredictedPolicy, question: Question) -> bool:
    """The bounds of cost and latency hold."""
    latency = {
        "p50": policy.latency_p50_ms,
        "p95": policy.latency_p95_ms,
        "p99": policy.latency_p99_ms,
    }
    return (question.max_cost is None or policy.cost <= question.max_cost * (1.0 + 1e-9)) and all(
        (found := latency[name]) is not None and found <= most
        for name, most in question.max_latency_ms.items()
    )


def preferred(policies: list[PredictedPolicy], question: Question) -> PredictedPolicy:
    """Of policies that keep all constraints: the cheapest, or the most accurate where that is asked for."""
    if question.max_accuracy_drop is None:
        return min(policies, key=lambda p: (-p.accuracy, p.cost))
    return min(policies, key=lambda p: (p.cost, -p.accuracy))


def frontier(
    table: ScoreTable, question: Question, pool: tuple[PolicyTable, ...]
) -> tuple[PredictedPolicy, ...]:
    """Policies of which none is beaten in accuracy, cost and 99th percentile at once; cheapest first.

    Scored on at most 10,000 rows, thinned evenly along the accuracy.
    """
    judged = Evaluator(some_rows(table, FRONTIER_ROWS), question)
    policies = sorted(map(judged, _worth_judging(dict.fromkeys(pool), table, question)), key=_order)
    kept: list[PredictedPolicy] = []
    for policy in policies:
        if not any(_dominates(other, policy) for other in kept):
            kept.append(policy)
    if len(kept) > FRONTIER_SIZE:
        kept.sort(key=lambda p: p.accuracy)
        kept = [kept[i] for i in np.linspace(0, len(kept) - 1, FRONTIER_SIZE).round().astype(int).tolist()]
    return tuple(sorted(kept, key=_order))


def _order(policy: PredictedPolicy) -> tuple[float, float, float]:
    return (policy.cost, -policy.accuracy, policy.latency_p99_ms or 0.0)


def _dominates(one: PredictedPolicy, other: PredictedPolicy) -> bool:
    """`one` comes first in order, so it is no dearer."""
    return one.accuracy >= other.accuracy and (one.latency_p99_ms or 0.0) <= (other.latency_p99_ms or 0.0)


def _as_fast(one: PredictedPolicy, other: PredictedPolicy) -> bool:
    """At the other quantiles."""
    return (one.latency_p50_ms or 0.0) <= (other.latency_p50_ms or 0.0) and (one.latency_p95_ms or 0.0) <= (
        other.latency_p95_ms or 0.0
    )


def _worth_judging(pool: dict[PolicyTable, None], table: ScoreTable, question: Question) -> list[PolicyTable]:
    """The pool without what a smaller sample shows to be clearly beaten, so that few are scored in full."""
    if len(pool) <= 2 * FRONTIER_SIZE:
        return list(pool)
    quick = Evaluator(some_rows(table, 4000), question)
    scored = sorted(((quick(policy), policy) for policy in pool), key=lambda pair: _order(pair[0]))
    kept: list[tuple[PredictedPolicy, PolicyTable]] = []
    for predicted, policy in scored:
        if keeps_all_but_drop(predicted, question) or not question.max_latency_ms:
            beaten = any(_dominates(other, predicted) and _as_fast(other, predicted) for other, _ in kept)
            if not beaten:
                kept.append((predicted, policy))
    return [policy for _, policy in kept]


def some_rows(table: ScoreTable, rows: int) -> ScoreTable:
    """At most so many rows of a table, chosen at random."""
    if len(table.target) <= rows:
        return table
    keep = np.zeros(len(table.target), bool)
    keep[np.random.default_rng(SEED).choice(len(keep), rows, replace=False)] = True
    return table.where(keep)


def _explore(rows: BinnedRows, question: Question) -> Iterator[_Candidate]:
    """Candidates from grids and price sweeps on a sample of the rows."""
    sample = rows.sample(SAMPLE_ROWS, SEED)
    drop = question.max_accuracy_drop
    wanted = sample.fewest_right(drop if drop is not None else 0.0)
    cheapest = np.inf
    for subset in every_subset(rows.tiers):
        for grid in search_thresholds(sample, subset, wanted):
            yield from _front_of(grid, sample)
            flat = grid.cheapest(wanted)
            if flat is not None:
                yield _candidate(grid, flat, sample)
                cheapest = min(cheapest, float(grid.cost.ravel()[flat]))
    for entry in range(rows.tiers):
        chain = tuple(range(entry, rows.tiers))
        # A tier that costs more than the best whole policy so far is no place to enter.
        if len(chain) > 1 and sample.cost[entry] * sample.rows <= cheapest:
            swept = list(_sweep(sample, start_policy(sample, chain, 0.5), _prices(sample)))
            yield from swept
            yield from _sweep_closer(sample, swept, -(drop or 0.0) / 100.0)


def every_subset(tiers: int) -> Iterator[tuple[int, ...]]:
    """All subsets of the ladder but the empty one, small ones first."""
    for size in range(1, tiers + 1):
        yield from combinations(range(tiers), size)


def _sweep(rows: BinnedRows, start: BandPolicy, prices: list[float]) -> Iterator[_Candidate]:
    for price, (policy, flow) in zip(prices, sweep_prices(rows, start, prices), strict=True):
        yield replace(_seen(rows, policy, flow), price=price)


def _sweep_closer(rows: BinnedRows, swept: list[_Candidate], gain: float) -> Iterator[_Candidate]:
    """Prices between the two neighbours of which one is accurate enough and the other is not."""
    for before, after in pairwise(swept):
        if before.gain >= gain > after.gain and before.price and after.price:
            prices = np.geomspace(before.price, after.price, CLOSER + 2)[1:-1].tolist()
            yield from _sweep(rows, before.policy, prices)
            return


def _prices(rows: BinnedRows) -> list[float]:
    """From accuracy at any cost to cost alone, in right answers per unit of cost."""
    positive = rows.cost[rows.cost > 0.0]
    if not len(positive):
        return [0.0]
    prices: list[float] = np.geomspace(1e-3 / positive.max(), 2.0 / positive.min(), PRICES).tolist()
    return prices


def _widen(policy: BandPolicy, chain: tuple[int, ...]) -> BandPolicy:
    """The same policy over a longer chain: tiers that are not in use get no rows."""
    if policy.chain == chain:
        return policy
    last = len(chain) - 1
    starts: list[tuple[int, ...]] = []
    for own, tier in enumerate(chain[:-1]):
        bands = last - own  # borders: the bands for last - 1, .., own + 1, and the answers
        if tier not in policy.chain:
            starts.append((1,) * bands)
            continue
        level = policy.chain.index(tier)
        if level == len(policy.chain) - 1:
            starts.append((1,) * bands)
            continue
        cut = policy.starts[level][-1]
        goal = chain.index(policy.chain[level + 1])
        # Borders in order of goals last - 1, .., own + 1, answer; all rows below `cut` go to `goal`.
        starts.append(tuple(1 if last - 1 - q >= goal else cut for q in range(bands)))
    return BandPolicy(chain, (*starts, ()))


def _front_of(grid: Grid, rows: BinnedRows) -> Iterator[_Candidate]:
    """Combinations that no other of the grid beats, thinned."""
    right, cost = grid.right.ravel(), grid.cost.ravel()
    order = np.lexsort((-right, cost))
    best_before = np.concatenate([[-np.inf], np.maximum.accumulate(right[order])[:-1]])
    front = order[right[order] > best_before]
    if len(front) > FRONT_OF_GRID:
        front = front[np.linspace(0, len(front) - 1, FRONT_OF_GRID).round().astype(np.intp)]
    for flat in front.tolist():
        yield _candidate(grid, flat, rows)


def _front(candidates: list[_Candidate]) -> list[_Candidate]:
    """Those that no other beats in both."""
    front: list[_Candidate] = []
    for candidate in sorted(candidates, key=lambda c: (c.cost, -c.gain)):
        if not front or candidate.gain > front[-1].gain:
            front.append(candidate)
    return front


def _candidate(grid: Grid, flat: int, rows: BinnedRows) -> _Candidate:
    flow = Flow([], int(grid.right.ravel()[flat]), float(grid.cost.ravel()[flat]))
    return _seen(rows, grid.policy(flat), flow)


def _seen(rows: BinnedRows, policy: BandPolicy, flow: Flow) -> _Candidate:
    reference = int(rows.right[rows.reference].sum())
    return _Candidate(policy, (flow.right - reference) / rows.rows, flow.cost / rows.rows)


def _keeps_drop(candidate: _Candidate, rows: BinnedRows, max_accuracy_drop: float) -> bool:
    return candidate.gain * rows.rows >= -rows.most_lost(max_accuracy_drop) - 1e-6


def _finalists(rows: BinnedRows, question: Question, candidates: list[_Candidate]) -> list[_Candidate]:
    """Policies polished on all rows for the accuracy that is wanted."""
    if question.max_accuracy_drop is not None:
        return _cheapest_within(rows, candidates, question.max_accuracy_drop)
    assert question.max_cost is not None
    # Bisect the drop until its cheapest policy spends the budget.
    low, high = -100.0, 100.0
    found: list[_Candidate] = []
    for _ in range(BUDGET_STEPS):
        drop = (low + high) / 2.0
        within = _cheapest_within(rows, candidates, drop)
        held = [c for c in within if _keeps_drop(c, rows, drop) and c.cost <= question.max_cost]
        found += held
        low, high = (low, drop) if held else (drop, high)
    return found


def _cheapest_within(
    rows: BinnedRows, candidates: list[_Candidate], max_accuracy_drop: float
) -> list[_Candidate]:
    wanted = rows.fewest_right(max_accuracy_drop)
    if can_try_all(rows):
        best = cheapest_of_all(rows, wanted)
        return [] if best is None else [_seen(rows, best, run_policy(rows, best))]
    gain = -max_accuracy_drop / 100.0
    sample = rows.sample(max(POLISH_ROWS, int(rows.rows * POLISH_SHARE)), SEED + 1)
    # Three tiers or four have few local optima; more tiers have many.
    cold = COLD_SHARES[: max(1, rows.tiers - 3)]
    found = _cheapest_near(sample, candidates, gain, cold)
    if sample is not rows:
        found.sort(key=lambda c: (not _keeps_drop(c, sample, max_accuracy_drop), c.cost))
        found = _cheapest_near(rows, found[:MOVED], gain, (), FINAL_PRICES)
    return found


def _more_careful(
    rows: BinnedRows, candidates: list[_Candidate], max_accuracy_drop: float
) -> Iterator[_Candidate]:
    """The cheapest policies for smaller allowances, each by one standard error of a typical difference."""
    sample = rows.sample(max(POLISH_ROWS, int(rows.rows * POLISH_SHARE)), SEED + 1)
    error = np.sqrt(TYPICAL_DISAGREEMENT / sample.rows)
    for errors in range(1, CAREFUL_STEPS + 1):
        gain = errors * error - max_accuracy_drop / 100.0
        yield from _cheapest_near(sample, candidates, gain, (), FINAL_PRICES)


def _cheapest_near(
    rows: BinnedRows,
    candidates: list[_Candidate],
    gain: float,
    cold: tuple[float, ...],
    close: npt.NDArray[np.float64] = CLOSE_PRICES,
) -> list[_Candidate]:
    """Sweep prices near the wanted accuracy from the best candidates and from cold starts, then polish."""
    known = [
        _seen(rows, policy, run_policy(rows, policy)) for policy in _starts_near(candidates, gain, rows.tiers)
    ]
    priced = [c for c in candidates if c.price]
    for entry in _best_entries(known, gain):
        near = min(
            (c for c in priced if c.policy.chain[0] == entry), key=lambda c: abs(c.gain - gain), default=None
        )
        if near is None or near.price is None or rows.tiers - entry < 2:
            continue
        prices = (near.price * close).tolist()
        chain = tuple(range(entry, rows.tiers))
        for start in [near.policy, *(start_policy(rows, chain, share) for share in cold)]:
            known += _sweep(rows, start, prices)
    wanted = int(rows.right[rows.reference].sum()) + int(np.ceil(gain * rows.rows - 1e-9))
    return [
        replace(_seen(rows, *polish(rows, start, wanted)), price=price)
        for start, price in _starts_near(known, gain, rows.tiers).items()
    ]


def _best_entries(candidates: list[_Candidate], gain: float) -> list[int]:
    """The tiers to enter at of the cheapest candidates that are accurate enough, or nearly."""
    order = sorted(candidates, key=lambda c: (c.gain < gain - NEARLY, c.cost))
    return list(dict.fromkeys(c.policy.chain[0] for c in order))[:ENTRIES]


def _starts_near(candidates: list[_Candidate], gain: float, tiers: int) -> dict[BandPolicy, float | None]:
    """For every tier to enter at, the cheapest accurate candidates and the most accurate that just fail.

    All are widened to every tier above the one they enter at, so that polishing may use any. With their
    prices.
    """
    starts: dict[BandPolicy, _Candidate] = {}
    for entry in range(tiers):
        mine = [c for c in candidates if c.policy.chain[0] == entry]
        enough = sorted((c for c in mine if c.gain >= gain), key=lambda c: (c.cost, -c.gain))
        fail = (c for c in mine if c.gain < gain and (not enough or c.cost < enough[0].cost))
        close = sorted(fail, key=lambda c: (-c.gain, c.cost))
        grids = [c for c in enough if c.price is None]
        for candidate in [*enough[:STARTS_PER_SIDE], *grids[:1], *close[:STARTS_PER_SIDE]]:
            policy = _widen(candidate.policy, tuple(range(entry, tiers)))
            starts.setdefault(policy, candidate)
    lowest = min((c.cost for c in starts.values() if c.gain >= gain), default=np.inf)
    near = sorted(starts.items(), key=lambda item: item[1].cost + (lowest if item[1].gain < gain else 0.0))
    return {policy: c.price for policy, c in near if c.cost <= MUCH_DEARER * lowest}
