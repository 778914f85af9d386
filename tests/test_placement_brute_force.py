"""The whole solve against trying every placement, on clusters small enough for that."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cascade_tools.errors import Infeasible
from cascade_tools.planning.placement.balance import balance_at
from cascade_tools.planning.placement.problem import IntArray, Problem
from cascade_tools.planning.placement.recount import highest_rate
from cascade_tools.planning.placement.solve import solve
from tests.placements import all_placements, at_rate, best_rate, random_problem

# seed (odd ones are strict), tiers, devices, the last tier may be cut, closure
CASES = [
    (0, 3, 3, False, "pool"),
    (5, 3, 3, False, "pool"),
    (2, 2, 3, False, "pool"),
    (7, 2, 3, True, "pool"),
    (8, 2, 3, True, "pool"),
    (9, 2, 3, False, "host"),
    (16, 3, 3, False, "pool"),
    (20, 2, 2, True, "host"),
    (33, 3, 2, False, "pool"),
    (39, 2, 3, True, "host"),
]


def problem_of(case: tuple[int, int, int, bool, str]) -> Problem:
    seed, tiers, devices, split, closure = case
    problem = random_problem(seed, tiers, devices, split, per_host=2 if closure == "host" else 8)
    return replace(problem, closure="host" if closure == "host" else "pool")


@pytest.mark.parametrize("case", CASES)
def test_highest_rate_is_that_of_all_placements(case):
    problem = problem_of(case)
    best = best_rate(problem)
    solution = solve(problem)
    assert best > 0.0
    assert solution.rate_rps == pytest.approx(best, rel=1e-6)
    assert solution.bound >= best * (1.0 - 1e-6)


@pytest.mark.parametrize("seed", [29, 53])
def test_where_no_placement_serves_there_is_no_answer(seed):
    problem = replace(random_problem(seed, 3, 2), closure="host" if seed == 29 else "pool")
    assert best_rate(problem) == 0.0
    with pytest.raises(Infeasible):
        solve(problem)


def spent(problem: Problem, count: IntArray, rate_rps: float) -> float:
    """GPUs in use, or watts, of one placement at a rate; infinite if it does not sustain it."""
    busy = (
        balance_at(problem, count, rate_rps) if highest_rate(problem, count, rate_rps) >= rate_rps else None
    )
    if busy is None:
        return float("inf")
    used = count.any(axis=0)
    if problem.goal.minimise == "gpus":
        return float(used.sum())
    watts = float(sum(device.idle_w for device, there in zip(problem.devices, used, strict=True) if there))
    for u, g in zip(*np.nonzero(busy), strict=True):
        variant, kind = problem.variant(problem.units[u]), problem.devices[g].type
        watts += busy[u, g] / variant.seconds_per_row[kind] * variant.energy_j[kind]
    return watts


@pytest.mark.parametrize("minimise", ["gpus", "energy"])
@pytest.mark.parametrize("case", [CASES[1], CASES[4], CASES[5]])
def test_least_gpus_and_energy_are_those_of_all_placements(case, minimise):
    problem = problem_of(case)
    rate = 0.6 * best_rate(problem)
    wanted = at_rate(problem, rate, minimise)
    least = min(spent(wanted, count, rate) for count in all_placements(wanted, may_be_empty=True))
    solution = solve(wanted)
    assert solution.value == pytest.approx(least, rel=1e-6)
    assert solution.bound <= least * (1.0 + 1e-6)
