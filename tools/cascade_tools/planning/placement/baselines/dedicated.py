"""Baseline: each GPU holds one model, or one stage of one; how many of each is chosen well.

A mixed-integer program over numbers of devices: x[u, k] devices of a kind in one kind of host for each whole
model, b[c, k] sets of S of them in one host for each chain of S stages (all of one kind).

    max L    sum capacity * x + sum capacity * b >= reach_i * L       sum x + sum S * b <= devices
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from cascade_tools.planning.placement.patterns.sites import SiteKind, sites_of
from cascade_tools.planning.placement.problem import FloatArray, IntArray, Problem
from cascade_tools.planning.placement.programs.numbers import Numbers, numbers_of
from cascade_tools.planning.placement.programs.program import Program

LIMIT_S = 2.0
GAP = 1e-4


class _Set(NamedTuple):
    """Devices of one kind in one host that hold one chain; `most`: how many such sets there may be."""

    site: int
    kind: int
    units: tuple[int, ...]
    most: int


def dedicated(problem: Problem) -> IntArray | None:
    """Instances [units, devices], each device with as many of its one unit as fit and can be busy.

    With the closure `host` each host has a program of its own. None if a tier gets no device, or the goal's
    rate is out of reach.
    """
    numbers = numbers_of(problem)
    sites = sites_of(problem, numbers)
    count = np.zeros((len(numbers.tier), len(problem.devices)), np.int64)
    if problem.closure == "pool":
        return count if _fill(problem, numbers, sites, count, problem.goal.rate_rps) else None
    for site in sites:
        one = SiteKind(site.kind, site.devices[:1])
        if _fill(problem, numbers, (one,), count, None):
            for place in range(len(site.kind)):
                count[:, site.devices[1:, place]] = count[:, site.devices[:1, place]]
    return count if count.any() else None


def _fill(
    problem: Problem,
    numbers: Numbers,
    sites: tuple[SiteKind, ...],
    count: IntArray,
    goal_rps: float | None,
) -> bool:
    """Put the best numbers of sets onto the devices of these sites; false if there is no answer."""
    sets = _sets(numbers, sites)
    chosen = _chosen(numbers, sites, sets, goal_rps, by_power=problem.goal.minimise == "energy")
    if chosen is None:
        return False
    for s, site in enumerate(sites):
        for kind in np.unique(site.kind).tolist():
            here = [(x, number) for x, number in zip(sets, chosen, strict=True) if x[:2] == (s, kind)]
            _pack(numbers, site.devices[:, site.kind == kind], kind, here, count)
    return True


def _sets(numbers: Numbers, sites: tuple[SiteKind, ...]) -> list[_Set]:
    found = []
    for s, site in enumerate(sites):
        for kind in np.unique(site.kind).tolist():
            places = int((site.kind == kind).sum())
            for chain in np.unique(numbers.chain).tolist():
                units = np.flatnonzero(numbers.chain == chain)
                if len(units) <= places and (numbers.most[units, kind] > 0.0).all():
                    most = places // len(units) * site.sites
                    found.append(_Set(s, kind, tuple(units.tolist()), most))
    return found


def _chosen(
    numbers: Numbers, sites: tuple[SiteKind, ...], sets: list[_Set], goal_rps: float | None, by_power: bool
) -> IntArray | None:
    """How many of each set; None if there is no answer."""
    if not sets:
        return None
    program = Program()
    column = program.columns(len(sets), upper=np.array([float(x.most) for x in sets]), whole=True)
    least = 0.0 if goal_rps is None else goal_rps / numbers.scale_rps
    rate = program.columns(1, lower=least)
    tier = np.array([numbers.tier[x.units[0]] for x in sets])
    tiers = np.arange(len(numbers.reach))
    served = [(tier, column, _capacity(numbers, sets)), (tiers, rate, -numbers.reach)]
    program.rows(len(tiers), served, lower=0.0)
    program.rows(len(tiers), [(tier, column, 1.0)], lower=1.0)
    pools = sorted({x[:2] for x in sets})
    pool = np.array([pools.index(x[:2]) for x in sets])
    devices = np.array([float((sites[s].kind == kind).sum() * sites[s].sites) for s, kind in pools])
    needs = np.array([float(len(x.units)) for x in sets])
    program.rows(len(pools), [(pool, column, needs / devices[pool])], upper=1.0)
    cost = [(rate, -1.0)]
    if goal_rps is not None:
        idle = np.array([max(numbers.kinds[x.kind].idle_w, 1.0) if by_power else 1.0 for x in sets])
        cost = [(column, needs * idle)]
    result = program.solve(cost, LIMIT_S, GAP)
    if result.x is None or (goal_rps is None and result.x[rate[0]] <= 0.0):
        return None
    return np.asarray(np.round(result.x[column]), np.int64)


def _capacity(numbers: Numbers, sets: list[_Set]) -> FloatArray:
    """Rows/s (over the scale) of one of each set: of its slowest stage."""
    able = numbers.most if numbers.strict else np.minimum(numbers.most, 1.0 / numbers.utilization)
    rows = able * numbers.rows_per_busy
    return np.array([float(rows[list(x.units), x.kind].min()) for x in sets])


def _pack(
    numbers: Numbers, devices: IntArray, kind: int, sets: list[tuple[_Set, int]], count: IntArray
) -> None:
    """Largest sets first, host by host; what finds no host is left out.

    Args:
        numbers: of the problem.
        devices: [sites, places].
        kind: of all of them.
        sets: with their number.
        count: instances [units, devices], is written to.
    """
    taken = np.zeros(len(devices), np.int64)
    for each, number in sorted(sets, key=lambda item: -len(item[0].units)):
        left = number
        for s in range(len(devices)):
            while left > 0 and taken[s] + len(each.units) <= devices.shape[1]:
                for unit in each.units:
                    count[unit, devices[s, taken[s]]] = int(numbers.most[unit, kind])
                    taken[s] += 1
                left -= 1
            if left == 0:
                break
