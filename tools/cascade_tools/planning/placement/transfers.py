"""Transfers between GPUs: rows that leave a device between two stages of their chain.

Instances stand; the loads are moved so that as many rows as possible stay where they are, at the same rate
and, where the goal is energy, the same power. A linear program over equal sites taken together:

    local <= rows/s of a stage at a place, local <= of the next stage there
    min  sum over chains and stages but the last of (rows/s of the chain - sum over places of local)
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cascade_tools.planning.placement.finish import counted
from cascade_tools.planning.placement.patterns.assembly import (
    Loads,
    add_loads,
    contents,
    keep_up,
    running_cost,
)
from cascade_tools.planning.placement.patterns.sites import sites_of
from cascade_tools.planning.placement.problem import FloatArray, IntArray, Problem, Solution
from cascade_tools.planning.placement.programs.numbers import Numbers, numbers_of
from cascade_tools.planning.placement.programs.program import Program

SLACK = 1e-8
LIMIT_S = 2.0


def transfers_per_row(problem: Problem, solution: Solution) -> float:
    """How often a row changes the device inside a chain, on average; as the loads are."""
    numbers = numbers_of(problem)
    if not numbers.has_chains or solution.rate_rps <= 0.0:
        return 0.0
    rate = solution.busy * numbers.rows_per_busy[:, numbers.kind] * numbers.scale_rps
    first = np.flatnonzero(np.diff(numbers.chain) == 0)
    moved = rate[first].sum() - np.minimum(rate[first], rate[first + 1]).sum()
    return float(moved / solution.rate_rps)


def fewest_transfers(problem: Problem, solution: Solution) -> Solution:
    """The same instances with the loads that change devices least; the solution itself if it is no better."""
    numbers = numbers_of(problem)
    if not numbers.has_chains or transfers_per_row(problem, solution) <= SLACK:
        return solution
    sites = sites_of(problem, numbers)
    patterns, times, members = contents(sites, solution.count)
    program = Program()
    uses = program.columns(len(patterns), upper=times, lower=times)
    loads = add_loads(program, numbers, sites, patterns, uses)
    wanted = solution.rate_rps / numbers.scale_rps * (1.0 - SLACK)
    keep_up(program, numbers, loads, len(patterns), None, wanted, exact=True)
    if problem.goal.rate_rps is not None and problem.goal.minimise == "energy":
        dynamic = running_cost(numbers, problem.goal, sites, patterns, loads)
        power = float(solution.busy.ravel() @ _watts(numbers).ravel())
        scale = max(power, 1e-9)
        program.rows(1, [(0, loads.column, dynamic / scale)], upper=power / scale * (1.0 + SLACK))
    cost = _crossings(program, numbers, loads)
    result = program.solve(cost, LIMIT_S)
    if result.x is None:
        return solution
    busy = _busy(numbers, loads, result.x, times, members, solution.count.shape)
    busy = np.minimum(busy / (1.0 - SLACK), solution.count)
    value = counted(problem, solution.count, busy, solution.rate_rps)
    moved = replace(solution, busy=busy, value=value)
    better = transfers_per_row(problem, moved) < transfers_per_row(problem, solution) - SLACK
    return moved if better else solution


def _watts(numbers: Numbers) -> FloatArray:
    return np.asarray((numbers.rows_per_busy * numbers.energy_j * numbers.scale_rps)[:, numbers.kind])


def _crossings(program: Program, numbers: Numbers, loads: Loads) -> list[tuple[IntArray, FloatArray]]:
    """Rows that a stage hands on, but those that stay."""
    at = {key: e for e, key in enumerate(zip(*(a.tolist() for a in loads[:3]), strict=True))}
    pairs = [
        (here, at[pattern, unit + 1, place])
        for (pattern, unit, place), here in at.items()
        if unit + 1 < len(numbers.chain)
        and numbers.chain[unit] == numbers.chain[unit + 1]
        and (pattern, unit + 1, place) in at
    ]
    local = program.columns(len(pairs))
    row = np.arange(len(pairs))
    speed = numbers.rows_per_busy[loads.unit, loads.kind]
    for side in (0, 1):
        entry = np.array([pair[side] for pair in pairs], np.int64)
        program.rows(len(pairs), [(row, local, 1.0), (row, loads.column[entry], -speed[entry])], upper=0.0)
    goes_on = (np.append(np.diff(numbers.chain), 1) == 0)[loads.unit]
    return [(local, -np.ones(len(pairs))), (loads.column[goes_on], speed[goes_on])]


def _busy(
    numbers: Numbers,
    loads: Loads,
    x: FloatArray,
    times: FloatArray,
    members: list[IntArray],
    shape: tuple[int, ...],
) -> FloatArray:
    busy = np.zeros(shape)
    for entry, column in enumerate(loads.column.tolist()):
        pattern = int(loads.pattern[entry])
        devices = members[pattern][:, loads.place[entry]]
        busy[loads.unit[entry], devices] = max(0.0, float(x[column])) / times[pattern]
    return busy
