"""Large clusters: patterns by column generation, then whole numbers of them.

The unit of a pattern is a device, or a host where some variant has several stages or hosts are on their
own (`sites.py`). Where all patterns of a device can be listed, the best at the final prices join the pool.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from cascade_tools.planning.placement.direct import Found
from cascade_tools.planning.placement.patterns.assembly import Pattern, assemble, contents, written_out
from cascade_tools.planning.placement.patterns.enumeration import maximal_patterns, worth
from cascade_tools.planning.placement.patterns.generation import (
    Effort,
    Generated,
    Mixture,
    Pool,
    generate,
    goods_shares,
    ordered,
)
from cascade_tools.planning.placement.patterns.pricing import Column, Pricer, pricer, prices_of_goal, restated
from cascade_tools.planning.placement.patterns.sites import SiteKind, sites_of
from cascade_tools.planning.placement.problem import Goal, IntArray, Problem
from cascade_tools.planning.placement.programs.numbers import Numbers, numbers_of

FIRST_GAP = 1e-2
ASSEMBLY_GAP = 2e-4
EXPECTED_ROUNDS = 10
LISTED_PER_KIND = 40
SEED = 0
SPREAD = 8
SPREAD_PROGRAMS = 60
SPREAD_GAP = 1e-2
WIDTH = 0.3


def patterns(problem: Problem, time_limit_s: float, others: Sequence[IntArray] = ()) -> Found:
    """A placement from patterns, by the problem's goal, and a proven bound.

    Args:
        problem: what is placed, and where.
        time_limit_s: for all programs together, about.
        others: placements [units, devices] whose patterns may be used, too.
    """
    numbers = numbers_of(problem)
    sites = sites_of(problem, numbers)
    goal, free = problem.goal, numbers_of(replace(problem, goal=Goal()))
    # A given rate needs the highest one for nothing but first patterns.
    quick = 1.0 if goal.rate_rps is None else 0.2
    generated = _generated(free, Goal(), sites, (), quick * time_limit_s)
    most = generated.bound
    if generated.mixture.value <= 0.0:
        return Found(None, most * free.scale_rps if goal.rate_rps is None else np.nan, "no pattern")
    if goal.rate_rps is not None:
        if goal.rate_rps > most * free.scale_rps * (1.0 + 1e-9):
            return Found(None, np.nan, "infeasible")
        columns = generated.pool.columns
        before = [restated(numbers, goal, sites[c.site], c, free.scale_rps) for c in columns]
        generated = _generated(numbers, goal, sites, before, time_limit_s)
    known = [contents(sites, count)[0] for count in others]
    choice = _choice(numbers, goal, sites, generated, [p for found in known for p in found])
    uses = assemble(numbers, goal, sites, choice, 0.25 * time_limit_s, ASSEMBLY_GAP, most)
    bound = generated.bound * (numbers.scale_rps if goal.rate_rps is None else 1.0)
    if uses is None:
        return Found(None, bound, "no mixture")
    count = written_out((len(problem.units), len(problem.devices)), sites, choice, uses)
    return Found(count, bound, "within bound")


def _generated(
    numbers: Numbers,
    goal: Goal,
    sites: tuple[SiteKind, ...],
    before: Sequence[Column],
    time_limit_s: float,
) -> Generated:
    """The pool for a goal, begun with these patterns, or with those that are best for one good each."""
    pricers = [pricer(numbers, goal, number, site) for number, site in enumerate(sites)]
    effort = Effort(max(0.05, 0.2 * time_limit_s / len(sites) / EXPECTED_ROUNDS), 0.3 * time_limit_s)
    pool = Pool()
    for column in before:
        pool.add(column, pricers[column.site])
    if not before:
        # Hosts on their own serve one good, so that their first pattern is their last.
        first_s = effort.last_s / len(sites) if numbers.per_host else effort.quick_s
        for p in pricers:
            for single in np.eye(len(goods_shares(numbers))):
                first, _ = p.best(single, first_s, FIRST_GAP)
                if first is not None:
                    pool.add(first, p)
    generated = generate(numbers, goal, pricers, pool, effort)
    _spread(generated, pricers, effort)
    return generated


def _spread(generated: Generated, pricers: list[Pricer], effort: Effort) -> None:
    """More patterns of hosts, which cannot be listed: those that are best at prices near the final ones."""
    random = np.random.default_rng(SEED)
    hosts = [p for p in pricers if len(p.site.kind) > 1]
    for _ in range(min(SPREAD, SPREAD_PROGRAMS // max(len(hosts), 1))):
        price = generated.mixture.price * np.exp(random.normal(0.0, WIDTH, len(generated.mixture.price)))
        for p in hosts:
            column, _ = p.best(price, effort.quick_s, SPREAD_GAP)
            if column is not None:
                generated.pool.add(column, p)


def _choice(
    numbers: Numbers,
    goal: Goal,
    sites: tuple[SiteKind, ...],
    generated: Generated,
    others: list[Pattern],
) -> list[Pattern]:
    """The patterns that are put together, each once."""
    chosen: dict[tuple[int, bytes], Pattern] = {}
    known = [Pattern(column.site, column.count) for column in generated.pool.columns] + others
    for pattern in known:
        count = ordered(pattern.count, sites[pattern.site].kind)
        if count.any():
            chosen.setdefault((pattern.site, count.tobytes()), Pattern(pattern.site, count))
    for number, site in enumerate(sites):
        if len(site.kind) == 1:
            for count in _listed(numbers, goal, site, generated.mixture):
                chosen.setdefault((number, count.tobytes()), Pattern(number, count))
    return list(chosen.values())


def _listed(numbers: Numbers, goal: Goal, site: SiteKind, mixture: Mixture) -> list[IntArray]:
    """The best of all patterns of a device at the final prices; none where there are too many."""
    all_ = maximal_patterns(numbers, int(site.kind[0]))
    if all_ is None or len(mixture.price) != len(numbers.reach):
        return []
    _, per_busy = prices_of_goal(numbers, goal, site)
    earned = mixture.price[numbers.tier] * numbers.rows_per_busy[:, site.kind[0]] - per_busy[:, 0]
    best = np.argsort(-worth(numbers, int(site.kind[0]), all_, earned), kind="stable")[:LISTED_PER_KIND]
    return [np.ascontiguousarray(all_[b][:, None]) for b in best]
