"""Loads of a given placement: how the rows are shared by the instances that there are.

A linear program over mean busy instances f[unit, group] of one device of each group of equal devices:

    max L   sum_v y[i, v, h] = reach_i * L              every tier keeps up
            sum_g size_g * f[u, g] / tau[u, g] = y      every stage of a chain keeps up, in one host
            0 <= f[u, g] <= n[u, g]                     a busy instance exists
            sum_u utilization[u, g] * f[u, g] <= 1      devices are busy at most all the time

With the closure `host` rows stay in the host that they entered: each host has its own rate, and L is their
sum. The strict rule is about instances, not loads; it implies the last row.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import NamedTuple

import numpy as np
from scipy import sparse
from scipy.optimize import OptimizeResult, linprog

from cascade_tools.planning.placement.problem import FloatArray, IntArray, Problem
from cascade_tools.planning.placement.programs.groups import Groups, Table, grouped, numbered, table


class _Cells(NamedTuple):
    """Loads that may be above zero, [cells]: which unit, which group, and rows/s of one busy instance."""

    unit: IntArray
    group: IntArray
    rows: FloatArray


class _Program(NamedTuple):
    """Rows over [loads, chains, rates]; rates are in units of `scale`, rows/s."""

    cells: _Cells
    flows: sparse.csr_matrix
    shares: sparse.csr_matrix
    chains: int
    rates: int
    scale: float


def balance(problem: Problem, count: IntArray) -> tuple[float, FloatArray]:
    """Highest rate of a placement, rows/s, and the mean number of busy instances at it.

    The goal plays no part. The rate is 0 where a tier that sees rows has no complete chain.

    Args:
        problem: tiers, devices, closure.
        count: instances, [units, devices].

    Returns:
        The rate, and busy instances, float64 [units, devices].
    """
    groups = grouped(problem, count)
    rate, busy = balance_groups(problem, groups)
    return rate, busy[:, groups.member]


def balance_at(problem: Problem, count: IntArray, rate_rps: float) -> FloatArray | None:
    """Busy instances [units, devices] at a given rate that take the least dynamic energy.

    Where no energy is known, the least busy time of devices. None if the placement does not sustain the rate.
    """
    groups = grouped(problem, count)
    busy = balance_groups_at(problem, groups, rate_rps)
    return None if busy is None else busy[:, groups.member]


def balance_groups_at(problem: Problem, groups: Groups, rate_rps: float) -> FloatArray | None:
    """`balance_at` on groups of equal devices: busy instances [units, groups] of one device of each."""
    known = table(problem, groups.type)
    program = _program(problem, groups, known, rate_rps)
    if program is None:
        return np.zeros(groups.count.shape) if rate_rps <= 0.0 else None
    cells = program.cells
    energy = np.nan_to_num(known.energy_j[cells.unit, cells.group])
    cost = energy * cells.rows * groups.size[cells.group]
    if not cost.any():
        cost = known.utilization[cells.unit, cells.group] * groups.size[cells.group]
    cost = cost / max(float(cost.max(initial=0.0)), 1e-300)
    result = _solve(program, np.append(cost, np.zeros(program.chains + program.rates)), groups, rate_rps)
    return _busy(program, groups, result) if result.success else None


def balance_groups(problem: Problem, groups: Groups) -> tuple[float, FloatArray]:
    """`balance` on groups of equal devices: rate, busy instances [units, groups] of one device of each."""
    nothing = np.zeros(groups.count.shape)
    program = _program(problem, groups, table(problem, groups.type))
    if program is None:
        return 0.0, nothing
    cost = np.zeros(len(program.cells.unit) + program.chains + program.rates)
    cost[-program.rates :] = -1.0
    result = _solve(program, cost, groups, None)
    if not result.success:
        return 0.0, nothing
    return max(0.0, -float(result.fun)) * program.scale, _busy(program, groups, result)


def _busy(program: _Program, groups: Groups, result: OptimizeResult) -> FloatArray:
    busy = np.zeros(groups.count.shape)
    cells = program.cells
    busy[cells.unit, cells.group] = np.clip(result.x[: len(cells.unit)], 0.0, None)
    return busy


def _solve(program: _Program, cost: FloatArray, groups: Groups, rate_rps: float | None) -> OptimizeResult:
    """Minimise `cost`, at a given rate or at any."""
    cells = program.cells
    upper = np.full(len(cost), np.inf)
    upper[: len(cells.unit)] = groups.count[cells.unit, cells.group]
    flows, right = program.flows, np.zeros(program.flows.shape[0])
    if rate_rps is not None:
        total = np.zeros((1, len(cost)))
        total[0, -program.rates :] = 1.0
        flows = sparse.vstack([flows, sparse.csr_matrix(total)], format="csr")
        right = np.append(right, rate_rps / program.scale)
    return linprog(
        c=cost,
        A_ub=program.shares,
        b_ub=np.ones(program.shares.shape[0]),
        A_eq=flows,
        b_eq=right,
        bounds=np.column_stack([np.zeros(len(cost)), upper]),
        method="highs",
    )


def _program(
    problem: Problem, groups: Groups, known: Table, rate_rps: float | None = None
) -> _Program | None:
    """The rows; None if a tier that sees rows has nobody to do them, or if nobody sees any.

    Args:
        problem: tiers, devices, closure.
        groups: that hold instances.
        known: figures of the units on them.
        rate_rps: that is asked for, if one is; beside a much higher scale it would be rounding.
    """
    reach = np.array([problem.tiers[unit.tier].reach for unit in problem.units])
    able = (groups.count > 0) & np.isfinite(known.seconds) & (reach > 0.0)[:, None]
    unit, group = (np.asarray(index, dtype=np.int64) for index in np.nonzero(able))
    cells = _Cells(unit, group, 1.0 / known.seconds[unit, group])
    scale = _scale(problem, groups, known, cells)
    if scale <= 0.0:
        return None
    if rate_rps is not None and rate_rps > 0.0:
        scale = min(scale, rate_rps)
    flow = cells.rows * groups.size[group] / (scale * reach[unit])
    flows, chains, rates = _flows(problem, groups, cells, flow)
    present, row = np.unique(group, return_inverse=True)
    shares = sparse.csr_matrix(
        (known.utilization[unit, group], (row, np.arange(len(unit)))),
        shape=(len(present), len(unit) + chains + rates),
    )
    return _Program(cells, flows, shares, chains, rates, scale)


def _scale(problem: Problem, groups: Groups, known: Table, cells: _Cells) -> float:
    """A rate of the right size: what the scarcest tier could do if it had all devices for itself."""
    most = np.minimum(groups.count[cells.unit, cells.group], 1.0 / known.utilization[cells.unit, cells.group])
    rows = most * cells.rows * groups.size[cells.group]
    units = problem.units
    first = np.array([units[u].stage == 0 for u in cells.unit.tolist()], dtype=bool)
    tier = np.array([units[u].tier for u in cells.unit.tolist()], dtype=np.int64)
    could = np.bincount(tier[first], rows[first], minlength=len(problem.tiers))
    asked = [float(could[i]) / tier.reach for i, tier in enumerate(problem.tiers) if tier.reach > 0.0]
    return min(asked, default=0.0)


class _Rows:
    """Entries of a sparse matrix whose rows have names."""

    def __init__(self) -> None:
        self.row: list[Hashable] = []
        self.column: list[int] = []
        self.value: list[float] = []

    def add(self, row: Hashable, column: int, value: float) -> None:
        self.row.append(row)
        self.column.append(column)
        self.value.append(value)

    def matrix(self, columns: int) -> sparse.csr_matrix:
        row = numbered(self.row)
        shape = (int(row.max(initial=-1)) + 1, columns)
        return sparse.csr_matrix((self.value, (row, self.column)), shape=shape)


def _flows(
    problem: Problem, groups: Groups, cells: _Cells, flow: FloatArray
) -> tuple[sparse.csr_matrix, int, int]:
    """Rows (= 0) over [loads, chains, rates]: stages of a chain agree; every tier keeps up."""
    units = [problem.units[u] for u in cells.unit.tolist()]
    host = groups.host[cells.group].tolist()
    apart = problem.closure == "host"
    zone = {h: z if apart else 0 for z, h in enumerate(dict.fromkeys(host))}
    rates = max(zone.values()) + 1
    rows, chains = _Rows(), dict[tuple[int, int, int], int]()
    for cell, (unit, h) in enumerate(zip(units, host, strict=True)):
        if problem.variant(unit).stages == 1:
            rows.add(("tier", unit.tier, zone[h]), cell, float(flow[cell]))
        else:
            number = chains.setdefault((unit.tier, unit.variant, h), len(chains))
            rows.add(("stage", number, unit.stage), cell, float(flow[cell]))
    for (i, v, h), number in chains.items():
        for stage in range(problem.tiers[i].variants[v].stages):
            rows.add(("stage", number, stage), len(units) + number, -1.0)
        rows.add(("tier", i, zone[h]), len(units) + number, 1.0)
    for i, tier in enumerate(problem.tiers):
        for z in range(rates if tier.reach > 0.0 else 0):
            rows.add(("tier", i, z), len(units) + len(chains) + z, -1.0)
    return rows.matrix(len(units) + len(chains) + rates), len(chains), rates
