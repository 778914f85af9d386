"""The rate of a placement once more, for `verify`: another program than `balance.py`, and no line of it.

Here the variables are rows/s, as multiples of the rate that is claimed, and rows may be lost on the way: a
chain does at most what each of its stages does, the cascade at most what each of its tiers does.

    max L    sum_g q[u, g] >= y[c, h]        for every stage u of chain c, in host h
             sum_c y[c, h] >= reach_i * L    in all hosts together; with the closure `host`, in each
             q[u, g] * tau <= n[u, g]        sum_u utilization * tau * q[u, g] <= 1

Hosts that hold the same on the same types are counted once, with their number.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import NamedTuple

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import coo_matrix

from cascade_tools.planning.placement.problem import IntArray, Problem

_Stages = dict[tuple[int, int, int, int], list[int]]
"""Variables with the rows/s of a tier's variant's stage in a group of equal hosts."""


class _Kind(NamedTuple):
    """Devices of one type that hold the same in hosts that hold the same."""

    host: int
    type: str
    held: tuple[int, ...]
    number: int


def highest_rate(problem: Problem, count: IntArray, claimed_rps: float) -> float:
    """What a placement sustains, rows/s; `claimed_rps` (above 0) only scales the program."""
    if not any(tier.reach > 0.0 for tier in problem.tiers):
        return 0.0
    kinds = _kinds(problem, count)
    hosts = len({kind.host for kind in kinds})
    program = _Program()
    at_host = [program.variable() for _ in range(hosts)] if problem.closure == "host" else []
    total = program.variable()
    if at_host:
        program.at_most([(total, 1.0), *((rate, -1.0) for rate in at_host)], 0.0)
    stages: _Stages = defaultdict(list)
    for kind in kinds:
        _add_kind(problem, kind, claimed_rps, program, stages)
    for i, tier in enumerate(problem.tiers):
        done = _chains(problem, i, program, stages)
        if at_host:
            for host, rate in enumerate(at_host):
                program.at_most([(rate, tier.reach), *((y, -1.0) for h, y in done if h == host)], 0.0)
        else:
            program.at_most([(total, tier.reach), *((y, -1.0) for _, y in done)], 0.0)
    return program.highest(total) * claimed_rps


class _Program:
    """Rows `sum of coefficient * variable <= right`; variables from 0."""

    def __init__(self) -> None:
        self.variables = 0
        self.right: list[float] = []
        self.entries: list[tuple[int, int, float]] = []

    def variable(self) -> int:
        self.variables += 1
        return self.variables - 1

    def at_most(self, terms: list[tuple[int, float]], right: float) -> None:
        self.entries += [(len(self.right), column, value) for column, value in terms]
        self.right.append(right)

    def highest(self, column: int) -> float:
        row, columns, value = zip(*self.entries, strict=True)
        matrix = coo_matrix((value, (row, columns)), shape=(len(self.right), self.variables)).tocsr()
        goal = np.zeros(self.variables)
        goal[column] = -1.0
        result = linprog(goal, A_ub=matrix, b_ub=np.array(self.right), bounds=(0.0, None), method="highs")
        return max(0.0, -float(result.fun)) if result.success else 0.0


def _chains(problem: Problem, tier: int, program: _Program, stages: _Stages) -> list[tuple[int, int]]:
    """Host and variable of every complete chain of a tier, with its rows."""
    found = []
    for v, variant in enumerate(problem.tiers[tier].variants):
        for host in [h for i, u, s, h in stages if (i, u, s) == (tier, v, 0)]:
            keys = [(tier, v, s, host) for s in range(variant.stages)]
            if all(key in stages for key in keys):
                chain = program.variable()
                for key in keys:
                    program.at_most([(chain, 1.0), *((rows, -1.0) for rows in stages[key])], 0.0)
                found.append((host, chain))
    return found


def _add_kind(problem: Problem, kind: _Kind, scale_rps: float, program: _Program, stages: _Stages) -> None:
    """Rows/s of everything that devices of one kind hold: at most what is there, and what a device can do."""
    busy = []
    for unit, held in zip(problem.units, kind.held, strict=True):
        variant = problem.tiers[unit.tier].variants[unit.variant]
        if held == 0 or kind.type not in variant.seconds_per_row or kind.type not in variant.utilization:
            continue
        rows = program.variable()
        seconds = variant.seconds_per_row[kind.type] * scale_rps / kind.number
        program.at_most([(rows, seconds)], float(held))
        busy.append((rows, seconds * variant.utilization[kind.type]))
        stages[unit.tier, unit.variant, unit.stage, kind.host].append(rows)
    if busy:
        program.at_most(busy, 1.0)


def _kinds(problem: Problem, count: IntArray) -> list[_Kind]:
    held: dict[int, list[tuple[str, tuple[int, ...]]]] = defaultdict(list)
    columns = np.ascontiguousarray(count.T).tolist()
    for device, column in zip(problem.devices, columns, strict=True):
        if any(column):
            held[device.host].append((device.type, tuple(column)))
    alike = Counter(tuple(sorted(inside)) for inside in held.values())
    return [
        _Kind(number, type_, column, times * inside)
        for number, (host, times) in enumerate(alike.items())
        for (type_, column), inside in Counter(host).items()
    ]
