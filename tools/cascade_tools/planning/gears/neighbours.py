"""Placements that differ from one by a single instance: more, fewer, or elsewhere."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from cascade_tools.planning.placement.problem import Device, IntArray, Problem

STRICT_SLACK = 1e-9


def neighbours(problem: Problem, count: IntArray) -> Iterator[IntArray]:
    """The legal ones; of devices that are alike and hold the same, the first stands for all.

    Args:
        problem: its rates play no part.
        count: instances, [units, devices].
    """
    at = _representatives(problem, count)
    least = np.zeros_like(count) if problem.at_least is None else np.minimum(problem.at_least, count)
    for unit in range(len(problem.units)):
        variant = problem.variant(problem.units[unit])
        able = [g for g in at if problem.devices[g].type in variant.seconds_per_row]
        spare = [g for g in at if count[unit, g] > least[unit, g]]
        steps = [[(g, 1)] for g in able]
        steps += [[(g, -1)] for g in spare if count[unit].sum() > 1]
        steps += [[(a, -1), (b, 1)] for a in spare for b in able if a != b]
        for step in steps:
            changed = count.copy()
            for device, by in step:
                changed[unit, device] += by
            if all(_fits(problem, changed, device) for device, by in step if by > 0):
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
