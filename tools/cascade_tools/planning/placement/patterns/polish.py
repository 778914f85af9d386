"""Some sites of a placement are emptied and filled again by one program, the others stay as they are.

Whole numbers of patterns lose what few sites could do with patterns of their own. Sites that are not used or
hold what few others hold go first, then any; the loads of all are free.
"""

from __future__ import annotations

import numpy as np

from cascade_tools.planning.placement.finish import finish
from cascade_tools.planning.placement.patterns.assembly import add_loads, contents, keep_up, running_cost
from cascade_tools.planning.placement.patterns.pricing import prices_of_goal
from cascade_tools.planning.placement.patterns.sites import SiteKind
from cascade_tools.planning.placement.problem import FloatArray, IntArray, Problem
from cascade_tools.planning.placement.programs.cells import Cells, add_cells, add_homes, served
from cascade_tools.planning.placement.programs.numbers import Numbers
from cascade_tools.planning.placement.programs.program import Program

FREE_DEVICES = 12
ROUNDS = 4
ENOUGH_GAP = 2e-3
BETTER = 1e-5


def polish(
    problem: Problem,
    numbers: Numbers,
    sites: tuple[SiteKind, ...],
    count: IntArray,
    bound: float,
    limit_s: float,
) -> IntArray:
    """A placement that is no worse; not for hosts on their own, which have nothing to share.

    Args:
        problem: what is placed, and where.
        numbers: the same.
        sites: the same.
        count: instances, [units, devices].
        bound: proven; close to it nothing is tried.
        limit_s: of each of a few programs.
    """
    found = finish(problem, count, bound, "", "")
    for turn in range(ROUNDS):
        if found is None or found.gap <= ENOUGH_GAP:
            break
        free = _chosen(sites, found.count, turn)
        again = _refilled(problem, numbers, sites, found.count, found.value, free, limit_s)
        other = None if again is None else finish(problem, again, bound, "", "")
        if other is not None and _sign(problem) * (other.value - found.value) > 0.0:
            found = other
    return count if found is None else found.count


def _sign(problem: Problem) -> float:
    return 1.0 if problem.goal.rate_rps is None else -1.0


def _chosen(sites: tuple[SiteKind, ...], count: IntArray, turn: int) -> list[tuple[int, IntArray]]:
    """Kind and devices of the sites to be emptied: rare contents first, in turns with any."""
    random = np.random.default_rng(turn)
    patterns, times, members = contents(sites, count)
    every = [
        (float(n) if p.count.any() and turn % 2 == 0 else 0.0, float(random.random()), p.site, devices)
        for p, n, rows in zip(patterns, times.tolist(), members, strict=True)
        for devices in rows[:FREE_DEVICES]
    ]
    chosen: list[tuple[int, IntArray]] = []
    for *_, site, devices in sorted(every, key=lambda entry: entry[:2]):
        if sum(len(d) for _, d in chosen) + len(devices) <= max(FREE_DEVICES, len(devices)):
            chosen.append((site, devices))
    return chosen


def _refilled(
    problem: Problem,
    numbers: Numbers,
    sites: tuple[SiteKind, ...],
    count: IntArray,
    value: float,
    free: list[tuple[int, IntArray]],
    limit_s: float,
) -> IntArray | None:
    """The placement with other contents of the free sites; None if none is better."""
    goal = problem.goal
    fixed = count.copy()
    emptied = np.concatenate([devices for _, devices in free])
    fixed[:, emptied] = 0
    patterns, times, _ = contents(sites, fixed)
    program = Program()
    uses = program.columns(len(patterns), upper=times, lower=times)
    loads = add_loads(program, numbers, sites, patterns, uses)
    kind = numbers.kind[emptied]
    host = np.repeat(np.arange(len(free)), [len(devices) for _, devices in free])
    cells = add_cells(program, numbers, kind, host, ask_used=goal.rate_rps is not None)
    tier, _, column, rows = served(numbers, kind, cells)
    wanted = None if goal.rate_rps is None else goal.rate_rps / numbers.scale_rps
    best = value / numbers.scale_rps * (1.0 + BETTER)
    rate = program.columns(1, lower=best) if wanted is None else None
    keep_up(program, numbers, loads, len(patterns), rate, wanted, others=[(tier, column, rows)])
    homeless = [i for i in np.flatnonzero(numbers.faint) if not fixed[numbers.tier == i].any()]
    add_homes(program, numbers, cells, np.array(homeless, np.int64))
    if rate is not None:
        cost = [(rate, -np.ones(1))]
    else:
        price = running_cost(numbers, goal, sites, patterns, loads)
        cost = [(loads.column, price), *_cost(problem, numbers, free, cells)]
    result = program.solve(cost, limit_s)
    if result.x is None:
        return None
    fixed[:, emptied] = cells.counts(result.x, (len(numbers.tier), len(emptied)))
    return fixed


def _cost(
    problem: Problem, numbers: Numbers, free: list[tuple[int, IntArray]], cells: Cells
) -> list[tuple[IntArray, FloatArray]]:
    assert cells.used is not None
    kind = numbers.kind[np.concatenate([devices for _, devices in free])]
    per_device, per_busy = prices_of_goal(
        numbers, problem.goal, SiteKind(kind, np.zeros((0, len(kind)), np.int64))
    )
    return [(cells.used, per_device), (cells.busy, per_busy[cells.unit, cells.device])]
