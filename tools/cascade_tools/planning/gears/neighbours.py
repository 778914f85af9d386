"""Placements that differ from one by little: an instance more, fewer or elsewhere, or two changed over."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import numpy as np

from cascade_tools.planning.placement.problem import Device, IntArray, Problem

STRICT_SLACK = 1e-9

Step = tuple[int, int, int]  # unit, device, instances more


def neighbours(problem: Problem, count: IntArray) -> Iterator[IntArray]:
    """The legal ones, those with one step first; of devices that are alike the first stands for all.

    Args:
        problem: its rates play no part.
        count: instances, [units, devices].
    """
    at = _representatives(problem, count)
    least = np.zeros_like(count) if problem.at_least is None else np.minimum(problem.at_least, count)
    single, double = list[list[Step]](), list[list[Step]]()
    moves = list[tuple[int, int, int]]()
    for unit in range(len(problem.units)):
        variant = problem.variant(problem.units[unit])
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
        if all(_fits(problem, changed, device) for _, device, by in steps if by > 0):
            yield changed


def _representatives(problem: Problem, count: IntArray) -> list[int]:
    seen: dict[tuple[Device, bytes], int] = {}
    for number, device in enumerate(problem.devices):
        seen.setdefault((device, count[:, number].tobytes()), number)
    return list(seen.values())


def _fits(problem: Problem, count: IntArray, device: int) -> bool:
    """Memory, the strict rule, and a bound that somebody else has set."""
    here = count[:, device].tolist()
    used = sum(problem.variant(unit).held_mib(n) for unit, n in zip(problem.units, here, strict=True))
    if used > problem.devices[device].memory_mib:
        return False
    kind = problem.devices[device].type
    if problem.rule == "strict":
        resident = ((problem.variant(unit), n) for unit, n in zip(problem.units, here, strict=True) if n)
        if sum(variant.utilization[kind] * n for variant, n in resident) > 1.0 + STRICT_SLACK:
            return False
    for number, tier in enumerate(problem.tiers):
        mine = sum(n for unit, n in zip(problem.units, here, strict=True) if unit.tier == number)
        if tier.instances is not None and mine > tier.instances:
            return False
    return True
