"""Baseline: every model on every GPU, and a linear program that shares the rows."""

from __future__ import annotations

import numpy as np

from cascade_tools.planning.placement.baselines.blocks import Blocks, blocks_of, complete
from cascade_tools.planning.placement.baselines.choice import Choice, Score, best_choice, units_of
from cascade_tools.planning.placement.baselines.room import filled
from cascade_tools.planning.placement.problem import IntArray, Problem
from cascade_tools.planning.placement.programs.numbers import Numbers, numbers_of


def full_lp(problem: Problem) -> IntArray:
    """One instance of everything on every device, smallest tier first; what does not fit is left out.

    Under the strict rule that is also what would lift the sum of kernel utilizations above 1. A model in S
    stages is dealt round the devices of each host. Of all ways to cut the models the best is taken.

    Returns:
        Instances, [units, devices]; some tier may have none.
    """
    numbers = numbers_of(problem)
    blocks = blocks_of(problem, numbers)
    return blocks.expand(problem, replicated(problem, numbers, blocks, best_full(problem, numbers, blocks)))


def best_full(problem: Problem, numbers: Numbers, blocks: Blocks) -> Choice:
    """The variants with which most tiers have a home, and then the rate is highest."""

    def score(choice: Choice) -> Score:
        count = replicated(problem, numbers, blocks, choice)
        return len(np.unique(numbers.tier[count.any(axis=1)])), blocks.load(problem, count)[0]

    return best_choice(problem, numbers, score)


def replicated(problem: Problem, numbers: Numbers, blocks: Blocks, choice: Choice) -> IntArray:
    """One instance of each chosen variant on each device that has room, [units, blocks]."""
    chains = [units_of(numbers, i, v) for i, v in enumerate(choice)]
    columns: dict[tuple[int, tuple[int, ...]], IntArray] = {}
    count = np.zeros((len(numbers.tier), len(blocks)), np.int64)
    for b in range(len(blocks)):
        kind, place, places = int(blocks.kind[b]), int(blocks.place[b]), int(blocks.places[b])
        wanted = tuple(unit for chain in chains for unit in dealt(chain, place, places))
        if (kind, wanted) not in columns:
            columns[kind, wanted] = filled(numbers, kind, list(wanted))
        count[:, b] = columns[kind, wanted]
    return complete(problem, count, blocks.host)


def dealt(chain: list[int], place: int, places: int) -> list[int]:
    """The stages of a chain that one of the devices of a host gets."""
    if places >= len(chain):
        return [chain[place % len(chain)]]
    return chain[place::places]
