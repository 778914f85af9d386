"""Placements that differ from one by little: an instance more, fewer or elsewhere, or two changed over.

Loads that take no memory are left as they are: nobody decides where they stand.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import numpy as np

from cascade_tools.planning.placement.baselines.blocks import complete, homeless
from cascade_tools.planning.placement.baselines.room import fits
from cascade_tools.planning.placement.problem import Device, IntArray, Problem
from cascade_tools.planning.placement.programs.numbers import numbers_of

Step = tuple[int, int, int]  # unit, device, instances more


def neighbours(problem: Problem, count: IntArray) -> Iterator[IntArray]:
    """The legal ones, those with one step first; of devices that are alike the first stands for all.

    Args:
        problem: its rates play no part.
        count: instances, [units, devices].
    """
    numbers, at = numbers_of(problem), _representatives(problem, count)
    least = np.zeros_like(count) if problem.at_least is None else np.minimum(problem.at_least, count)
    single, double = list[list[Step]](), list[list[Step]]()
    moves = list[tuple[int, int, int]]()
    for unit in range(len(problem.units)):
        variant = problem.variant(problem.units[unit])
        if variant.held_mib(1) == 0:
            continue
        able = [g for g in at if problem.devices[g].type in variant.seconds_per_row]
        spare = [g for g in at if count[unit, g] > least[unit, g]]
        single += [[(unit, g, 1)] for g in able]
        single += [[(unit, g, -1)] for g in spare if count[unit].sum() > 1]
        moves += [(unit, a, b) for a in spare for b in able if a != b]
    single += [[(unit, a, -1), (unit, b, 1)] for unit, a, b in moves]
    for (unit, a, b), (other, c, d) in combinations(moves, 2):
        if unit != other and (a, b) == (d, c):  # they change places
            double.append([(unit, a, -1), (unit, b, 1), (other, c, -1), (other, d, 1)])
    for steps in (*single, *double):
        changed = count.copy()
        for unit, device, by in steps:
            changed[unit, device] += by
        fuller = {device for _, device, by in steps if by > 0}
        fitting = all(fits(numbers, int(numbers.kind[device]), changed[:, device]) for device in fuller)
        if fitting and _is_whole(problem, changed):
            yield changed


def _is_whole(problem: Problem, count: IntArray) -> bool:
    """Every chain has all its stages in one host, every tier a home; with closure `host` in every host."""
    kept = complete(problem, count, problem.hosts)
    return bool((kept == count).all()) and not homeless(problem, kept)


def with_wanted(problem: Problem, count: IntArray) -> IntArray:
    """With the instances that are wanted anyhow, where they fit beside the others."""
    if problem.at_least is None:
        return count
    numbers, count = numbers_of(problem), count.copy()
    for unit, device in np.argwhere(problem.at_least > count).tolist():
        column = count[:, device].copy()
        column[unit] = problem.at_least[unit, device]
        if fits(numbers, int(numbers.kind[device]), column):
            count[:, device] = column
    return count


def _representatives(problem: Problem, count: IntArray) -> list[int]:
    seen: dict[tuple[Device, bytes], int] = {}
    for number, device in enumerate(problem.devices):
        seen.setdefault((device, count[:, number].tobytes()), number)
    return list(seen.values())
