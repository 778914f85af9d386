"""One program over all devices: exact, for clusters of up to some 64 GPUs.

    max L    sum over variants and devices of f / tau  =  reach_i * L        every tier keeps up

over the cells of `programs/cells.py`; L is at the goal's rate where the goal is GPUs (min sum_g z_g) or
energy (min sum_g idle_g z_g + sum f * joule / tau). With closure `host` there is one rate per host, and they
add up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from cascade_tools.planning.placement.problem import FloatArray, IntArray, Problem
from cascade_tools.planning.placement.programs.cells import Cells, add_cells, add_homes, power_w, served
from cascade_tools.planning.placement.programs.numbers import Numbers, numbers_of
from cascade_tools.planning.placement.programs.program import STATUS, Program, Term

KEEP_RATE = 1.0 - 1e-7
EXACT_CELLS = 100
LOOSE_GAP = 5e-4
NO_RATE = 1e-9


@dataclass(frozen=True)
class Found:
    """What a search returns: instances, None where it found none, and what is proven.

    `bound` is in the goal's unit; nan where nothing is proven.
    """

    count: IntArray | None
    bound: float
    status: str


class Whole(NamedTuple):
    """A program over all devices of a problem."""

    program: Program
    cells: Cells
    rate: IntArray
    numbers: Numbers


def direct(problem: Problem, time_limit_s: float) -> Found:
    """The best placement by the problem's goal.

    `at_least` is left to `tidy`: it must not cost any rate.
    """
    numbers = numbers_of(problem)
    whole = build(problem, numbers, lowest_rate=(problem.goal.rate_rps or 0.0) / numbers.scale_rps)
    cost = goal_cost(problem, whole)
    gap = 1e-7 if len(whole.cells.unit) <= EXACT_CELLS else LOOSE_GAP
    result = whole.program.solve(cost, time_limit_s, gap)
    status, unit = STATUS[result.status], -numbers.scale_rps if problem.goal.rate_rps is None else 1.0
    bound = float("nan") if result.mip_dual_bound is None else float(result.mip_dual_bound) * unit
    if result.x is None or (problem.goal.rate_rps is None and result.x[whole.rate].sum() <= NO_RATE):
        return Found(None, bound, status)
    return Found(whole.cells.counts(result.x, _shape(problem)), bound, status)


def goal_cost(problem: Problem, whole: Whole) -> list[tuple[IntArray, FloatArray]]:
    """What is minimised: minus the rate, GPUs, or watts."""
    goal, cells = problem.goal, whole.cells
    if goal.rate_rps is None:
        return [(whole.rate, -np.ones(len(whole.rate)))]
    assert cells.used is not None
    if goal.minimise == "gpus":
        return [(cells.used, np.ones(len(cells.used)))]
    idle = np.array([device.idle_w for device in problem.devices])
    return [(cells.used, idle), (cells.busy, power_w(whole.numbers, whole.numbers.kind, cells))]


def build(
    problem: Problem,
    numbers: Numbers,
    lowest_rate: float = 0.0,
    fewest: IntArray | None = None,
) -> Whole:
    """The program over all devices; rates are over `numbers.scale_rps`."""
    program = Program()
    host = problem.hosts
    hosts = int(host.max()) + 1
    cells = add_cells(
        program, numbers, numbers.kind, host, ask_used=problem.goal.rate_rps is not None, fewest=fewest
    )
    if not numbers.per_host:
        rate = program.columns(1, lower=lowest_rate)
        _keep_up(program, numbers, cells, rate, np.zeros(hosts, np.int64))
        add_homes(program, numbers, cells, np.flatnonzero(numbers.faint))
        return Whole(program, cells, rate, numbers)
    rate = program.columns(hosts)
    program.rows(1, [(0, rate, 1.0)], lower=lowest_rate)
    _keep_up(program, numbers, cells, rate, np.arange(hosts))
    in_use = program.columns(hosts, upper=1.0, whole=True)
    each = np.arange(len(cells.unit))
    terms: list[Term] = [(each, cells.count, 1.0), (each, in_use[cells.host], -cells.most)]
    program.rows(len(each), terms, upper=0.0)
    add_homes(program, numbers, cells, np.flatnonzero(numbers.faint), in_use)
    return Whole(program, cells, rate, numbers)


def _keep_up(
    program: Program, numbers: Numbers, cells: Cells, rate: IntArray, group_of_host: IntArray
) -> None:
    """One row per tier and group of hosts: what is served there is the tier's share of the group's rate."""
    tier, host, column, value = served(numbers, numbers.kind, cells)
    tiers, groups = len(numbers.reach), len(rate)
    rows = np.arange(tiers * groups)
    terms = [
        (tier * groups + group_of_host[host], column, value),
        (rows, np.tile(rate, tiers), -np.repeat(numbers.reach, groups)),
    ]
    program.rows(len(rows), terms, lower=0.0, upper=0.0)


def _shape(problem: Problem) -> tuple[int, int]:
    return len(problem.units), len(problem.devices)
