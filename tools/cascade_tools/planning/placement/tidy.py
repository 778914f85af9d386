"""What comes after the goal: instances that are wanted anyhow, few transfers, then the least memory."""

from __future__ import annotations

import numpy as np

from cascade_tools.planning.placement.baselines.room import over
from cascade_tools.planning.placement.direct import KEEP_RATE, Whole, build, goal_cost
from cascade_tools.planning.placement.finish import finish
from cascade_tools.planning.placement.problem import FloatArray, IntArray, Problem, Solution
from cascade_tools.planning.placement.programs.cells import Cells
from cascade_tools.planning.placement.programs.numbers import Numbers, numbers_of
from cascade_tools.planning.placement.transfers import fewest_transfers, transfers_per_row

TIDY_DEVICES = 16
TIDY_GAP = 1e-3
MEMORY_CELLS = 24
MEMORY_WEIGHT = 1e-3
KEEP_COST = 1.0 + 1e-7


def tidy(problem: Problem, solution: Solution, time_limit_s: float) -> Solution:
    """The same goal with as little else as possible; never a worse value.

    On a few devices a program over everything, elsewhere the loads alone are moved.
    """
    local = fewest_transfers(problem, _with_wanted(problem, solution))
    if len(problem.devices) > TIDY_DEVICES or not _worth_it(problem, local):
        return local
    for fewest in [problem.at_least, None] if problem.at_least is not None else [None]:
        other = _program(problem, solution, fewest, time_limit_s)
        if other is not None:
            other = fewest_transfers(problem, other)
            return min(local, other, key=lambda s: _order(problem, s))
    return local


def _worth_it(problem: Problem, solution: Solution) -> bool:
    wanted = problem.at_least is not None and (solution.count < problem.at_least).any()
    return bool(wanted or transfers_per_row(problem, solution) > 0.0 or solution.count.size <= MEMORY_CELLS)


def _order(problem: Problem, solution: Solution) -> tuple[int, float, float]:
    """Wanted instances that are missing, transfers, MiB."""
    missing = 0
    if problem.at_least is not None:
        missing = int(np.maximum(problem.at_least - solution.count, 0).sum())
    held = sum(
        problem.variant(unit).held_mib(n)
        for unit, row in zip(problem.units, solution.count.tolist(), strict=True)
        for n in row
    )
    return missing, round(transfers_per_row(problem, solution), 6), float(held)


def _program(
    problem: Problem, solution: Solution, fewest: IntArray | None, time_limit_s: float
) -> Solution | None:
    numbers = numbers_of(problem)
    whole = build(problem, numbers, solution.rate_rps * KEEP_RATE / numbers.scale_rps, fewest)
    if problem.goal.rate_rps is not None:
        terms = [(0, column, value) for column, value in goal_cost(problem, whole)]
        whole.program.rows(1, terms, upper=solution.value * KEEP_COST)
    cost = [*_crossings(numbers, whole, solution), _memory(problem, numbers, whole.cells)]
    result = whole.program.solve(cost, time_limit_s, TIDY_GAP)
    if result.x is None:
        return None
    count = whole.cells.counts(result.x, solution.count.shape)
    found = finish(problem, count, solution.bound, solution.status, solution.method)
    return found if found is not None and _keeps(problem, found, solution) else None


def _keeps(problem: Problem, found: Solution, solution: Solution) -> bool:
    if problem.goal.rate_rps is None:
        return found.value >= solution.value * (1.0 - 2e-7)
    return found.value <= solution.value * KEEP_COST


def _memory(problem: Problem, numbers: Numbers, cells: Cells) -> tuple[IntArray, FloatArray]:
    total = sum(device.memory_mib for device in problem.devices)
    each = np.maximum(numbers.further_mib, 0.5 * numbers.memory_mib)[cells.unit]
    return cells.count, MEMORY_WEIGHT * each / max(total, 1)


def _crossings(numbers: Numbers, whole: Whole, solution: Solution) -> list[tuple[IntArray, FloatArray]]:
    """Transfers per row; adds the rows that stay on a device from one stage to the next."""
    cells, program = whole.cells, whole.program
    at = {key: e for e, key in enumerate(zip(cells.unit.tolist(), cells.device.tolist(), strict=True))}
    goes_on = np.append(np.diff(numbers.chain), 1) == 0
    pairs = [(e, at[u + 1, g]) for (u, g), e in at.items() if goes_on[u] and (u + 1, g) in at]
    if not goes_on.any():
        return []
    local = program.columns(len(pairs))
    row, speed = np.arange(len(pairs)), numbers.rows_per_busy[cells.unit, numbers.kind[cells.device]]
    for side in (0, 1):
        entry = np.array([pair[side] for pair in pairs], np.int64)
        program.rows(len(pairs), [(row, local, 1.0), (row, cells.busy[entry], -speed[entry])], upper=0.0)
    per_row = numbers.scale_rps / solution.rate_rps
    leaving = goes_on[cells.unit]
    return [(local, -per_row * np.ones(len(pairs))), (cells.busy[leaving], per_row * speed[leaving])]


def _with_wanted(problem: Problem, solution: Solution) -> Solution:
    """With what is wanted anyhow where it still fits beside the others, unit by unit."""
    if problem.at_least is None:
        return solution
    numbers = numbers_of(problem)
    count = solution.count.copy()
    for unit, device in zip(*np.nonzero(problem.at_least > count), strict=True):
        trial = count[:, device].copy()
        trial[unit] = problem.at_least[unit, device]
        held = np.bincount(numbers.tier, trial, minlength=len(numbers.limit))
        if (held <= numbers.limit).all() and not over(numbers, numbers.kind[[device]], trial[:, None]).any():
            count[:, device] = trial
    found = finish(problem, count, solution.bound, solution.status, solution.method)
    return found if found is not None and _keeps(problem, found, solution) else solution
