"""Column generation: patterns are made one by one at the prices of the best mixture so far.

    max L    sum_p lam_p goods_p >= share * L (price_i)      sum_(p of kind k) lam_p <= sites_k (rent_k)

or, at a given rate, the least sum_p lam_p cost_p. At any prices no placement is better than (highest rate;
prices with sum_i price_i * share_i = 1)

    sum_k sites_k * max_p (price . goods_p)

so the bound comes from the dual bounds of the pricing programs, whether or not they were solved to the end.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from scipy.optimize import linprog

from cascade_tools.planning.placement.patterns.pricing import Column, Pricer
from cascade_tools.planning.placement.problem import FloatArray, Goal, IntArray
from cascade_tools.planning.placement.programs.numbers import Numbers

CLOSE = 2e-4
ROUNDS = 40
UNWANTED = 1e-7


@dataclass
class Pool:
    """Patterns without repetition."""

    columns: list[Column] = field(default_factory=list)
    _seen: set[tuple[int, bytes]] = field(default_factory=set)

    def add(self, column: Column, pricer: Pricer) -> bool:
        """Take a pattern in, unless it is there with places exchanged; a better load of it is another one."""
        key = (
            column.site,
            ordered(column.count, pricer.site.kind).tobytes() + column.goods.round(9).tobytes(),
        )
        if key in self._seen:
            return False
        self._seen.add(key)
        self.columns.append(column)
        return True


class Mixture(NamedTuple):
    """The best mixture of a pool: value by the goal, price of each good, rent of each kind, share of each."""

    value: float
    price: FloatArray
    rent: FloatArray
    share: FloatArray
    missing: float


class Generated(NamedTuple):
    """Patterns, their best mixture, and the proven bound; rates are over the scale."""

    pool: Pool
    mixture: Mixture
    bound: float


@dataclass(frozen=True)
class Effort:
    """Seconds of one pricing program while prices still move, and of all of them together at the end.

    The last time is for the bound; kinds that are worth more of it get more.
    """

    quick_s: float
    last_s: float
    gap: float = 1e-4


def generate(numbers: Numbers, goal: Goal, pricers: list[Pricer], pool: Pool, effort: Effort) -> Generated:
    """Extend a pool until the mixture is within `CLOSE` of the bound, or no pattern improves it."""
    share = goods_shares(numbers)
    sites = np.array([p.site.sites for p in pricers], np.float64)
    rate = None if goal.rate_rps is None else goal.rate_rps / numbers.scale_rps
    bound = np.inf if rate is None else 0.0
    mixture = mix(pool, share, sites, rate)
    last = False
    for _ in range(ROUNDS):
        limit_s = _last_limits(effort, sites, mixture) if last else np.full(len(sites), effort.quick_s)
        found = [p.best(mixture.price, s, effort.gap) for p, s in zip(pricers, limit_s.tolist(), strict=True)]
        worth = float(sites @ np.array([value for _, value in found]))
        if rate is None:
            bound = min(bound, worth / max(float(share @ mixture.price), 1e-300))
        else:
            bound = max(bound, rate * float(share @ mixture.price) - worth)
        better = _taken(pool, pricers, [column for column, _ in found], mixture)
        if better:
            mixture = mix(pool, share, sites, rate)
        if abs(bound - mixture.value) <= CLOSE * abs(bound) or last:
            break
        last = not better
    return Generated(pool, mixture, bound)


def _last_limits(effort: Effort, sites: FloatArray, mixture: Mixture) -> FloatArray:
    worth = sites * np.maximum(mixture.rent, 0.0)
    part = worth / worth.sum() if worth.sum() > 0.0 else np.full(len(sites), 1.0 / len(sites))
    return np.asarray(np.maximum(effort.quick_s, part * effort.last_s))


def _taken(pool: Pool, pricers: list[Pricer], columns: list[Column | None], mixture: Mixture) -> bool:
    """Take those columns in that earn more than the rent of their site."""
    taken = False
    for column, p, rent in zip(columns, pricers, mixture.rent.tolist(), strict=True):
        if column is not None:
            earned = float(mixture.price @ column.goods) - column.cost
            taken |= earned > rent * (1.0 + 1e-6) + UNWANTED and pool.add(column, p)
    return taken


def mix(pool: Pool, share: FloatArray, sites: FloatArray, rate: float | None) -> Mixture:
    """The best mixture of the patterns of a pool, fractions allowed."""
    columns = pool.columns
    goods = np.array([c.goods for c in columns]).reshape(len(columns), len(share))
    kind = np.array([c.site for c in columns], np.int64)
    cost = np.array([c.cost for c in columns])
    dear = 100.0 * (float(cost.max(initial=0.0)) * sites.sum() + 1.0)
    # Shares of all sites, and rates over what they would do at the best single good: everything of order one.
    total, unit = float(sites.sum()), float(goods.max(initial=0.0)) or 1.0
    a = np.zeros((len(share) + len(sites), len(columns) + 1))
    a[: len(share), :-1] = -goods.T / unit
    a[len(share) + kind, np.arange(len(columns))] = 1.0
    a[: len(share), -1] = share if rate is None else -share
    right = np.append(np.zeros(len(share)), sites / total)
    if rate is None:
        c, last = np.append(np.zeros(len(columns)), -1.0), (0.0, np.inf)
    else:
        wanted = rate / (unit * total)
        right[: len(share)] = -share * wanted
        c, last = np.append(cost, dear / wanted / total), (0.0, wanted)
    result = linprog(c, A_ub=a, b_ub=right, bounds=[(0.0, None)] * len(columns) + [last], method="highs")
    dual, found = -np.asarray(result.ineqlin.marginals), np.asarray(result.x)
    goods_price, rent = dual[: len(share)], dual[len(share) :]
    if rate is None:
        return Mixture(float(found[-1]) * unit * total, goods_price, rent * unit, found[:-1] * total, 0.0)
    missing = float(found[-1]) * unit * total
    return Mixture(float(result.fun) * total, goods_price / unit, rent, found[:-1] * total, missing)


def goods_shares(numbers: Numbers) -> FloatArray:
    """How much of each good one request takes."""
    return np.ones(1) if numbers.per_host else numbers.reach


def ordered(count: IntArray, kind: IntArray) -> IntArray:
    """The same pattern with equal places in one fixed order."""
    order = np.lexsort((*count[::-1], kind))
    return np.ascontiguousarray(count[:, order])
