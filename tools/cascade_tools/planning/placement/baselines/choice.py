"""Which variant of each tier a baseline uses: all combinations if they are few, else one tier at a time."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from math import prod

import numpy as np

from cascade_tools.planning.placement.problem import FloatArray, Problem
from cascade_tools.planning.placement.programs.numbers import Numbers

Choice = tuple[int, ...]
Score = tuple[int, float]

ALL = 24
PASSES = 2


def units_of(numbers: Numbers, tier: int, variant: int) -> list[int]:
    """The stages of one variant, as positions of units."""
    first = int(np.unique(numbers.chain[numbers.tier == tier])[variant])
    return [int(unit) for unit in np.flatnonzero(numbers.chain == first)]


def work(problem: Problem, numbers: Numbers) -> list[FloatArray]:
    """Device seconds of a row in all stages of each variant of each tier, the mean over kinds that run it."""
    found = []
    for i, tier in enumerate(problem.tiers):
        of_tier = []
        for v in range(len(tier.variants)):
            units = units_of(numbers, i, v)
            able = numbers.rows_per_busy[units] > 0.0
            share = np.where(able, numbers.utilization[units], 0.0)
            each = share[able] / (numbers.rows_per_busy[units][able] * numbers.scale_rps)
            of_tier.append(float(each.mean()) * len(units) if able.any() else np.inf)
        found.append(np.array(of_tier))
    return found


def by_stages(problem: Problem, numbers: Numbers) -> list[Choice]:
    """For every number of stages that occurs: each tier in as many as it can up to that, with least work."""
    cost = work(problem, numbers)
    sizes = sorted({variant.stages for tier in problem.tiers for variant in tier.variants})
    found = []
    for most in sizes:
        choice = []
        for i, tier in enumerate(problem.tiers):
            stages = [variant.stages for variant in tier.variants]
            own = max((s for s in stages if s <= most), default=min(stages))
            choice.append(min((float(cost[i][v]), v) for v, s in enumerate(stages) if s == own)[1])
        found.append(tuple(choice))
    return list(dict.fromkeys(found))


def best_choice(problem: Problem, numbers: Numbers, score: Callable[[Choice], Score]) -> Choice:
    """The choice with the highest score among those that are tried."""
    ways = [len(tier.variants) for tier in problem.tiers]
    if prod(ways) <= ALL:
        return max(product(*(range(n) for n in ways)), key=score)
    known: dict[Choice, Score] = {}

    def of(choice: Choice) -> Score:
        if choice not in known:
            known[choice] = score(choice)
        return known[choice]

    best = max(by_stages(problem, numbers), key=of)
    for _ in range(PASSES):
        before = best
        for i, n in enumerate(ways):
            best = max([best, *((*best[:i], v, *best[i + 1 :]) for v in range(n))], key=of)
        if best == before:
            break
    return best
