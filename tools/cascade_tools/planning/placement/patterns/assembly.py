"""How often each pattern of a pool is used: whole numbers, with the loads free.

    q_p whole, sum_(p of kind k) q_p <= sites_k
    f[p, u, d] <= n[p, u, d] q_p        loose:  sum_u utilization f[p, u, d] <= q_p at every place d
    chains of pattern p keep up inside p;   sum_p served_i >= reach_i * L

Sites with the same pattern can be exchanged and the loads are convex, so the mean load of its q sites is a
load of each of them: L is the rate of the placement with the patterns written out. Every stage has its own
instances; stages are never thought of as one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.optimize import OptimizeResult

from cascade_tools.planning.placement.patterns.pricing import prices_of_goal
from cascade_tools.planning.placement.patterns.sites import SiteKind
from cascade_tools.planning.placement.problem import FloatArray, Goal, IntArray
from cascade_tools.planning.placement.programs.numbers import Numbers
from cascade_tools.planning.placement.programs.program import Program, Term

NO_RATE = 1e-9


@dataclass(frozen=True)
class Pattern:
    """Instances [units, places] of one kind of site."""

    site: int
    count: IntArray


class Loads(NamedTuple):
    """Entries of all patterns, one per unit and place with instances: pattern, unit, place, kind, column."""

    pattern: IntArray
    unit: IntArray
    place: IntArray
    kind: IntArray
    column: IntArray


def assemble(
    numbers: Numbers,
    goal: Goal,
    sites: Sequence[SiteKind],
    patterns: Sequence[Pattern],
    limit_s: float,
    gap: float,
    most_rate: float,
) -> IntArray | None:
    """How often each pattern is used, [patterns]; None if the goal's rate, or any, is not reached in time.

    Args:
        numbers: the problem.
        goal: what is counted.
        sites: all kinds.
        patterns: to choose from.
        limit_s: for the solver.
        gap: at which it may stop, a fraction.
        most_rate: a proven bound on the rate, over the scale.
    """
    program = Program()
    there = np.array([sites[p.site].sites for p in patterns], np.float64)
    uses = program.columns(len(patterns), upper=there, whole=True)
    kind = np.array([p.site for p in patterns], np.int64)
    program.rows(len(sites), [(kind, uses, 1.0)], upper=np.array([s.sites for s in sites], np.float64))
    loads = add_loads(program, numbers, sites, patterns, uses)
    wanted = None if goal.rate_rps is None else goal.rate_rps / numbers.scale_rps
    rate = program.columns(1, upper=most_rate * (1.0 + 1e-9)) if wanted is None else None
    keep_up(program, numbers, loads, len(patterns), rate, wanted)
    add_homes_of_faint(program, numbers, patterns, uses)
    cost = [(rate, -1.0)] if rate is not None else cost_of(numbers, goal, sites, patterns, uses, loads)
    result = program.solve(cost, limit_s, gap)
    return _used(result, uses, rate)


def _used(result: OptimizeResult, uses: IntArray, rate: IntArray | None) -> IntArray | None:
    x = result.x
    if x is None or (rate is not None and x[rate[0]] <= NO_RATE):
        return None
    return np.asarray(np.round(x[uses]), np.int64)


def add_loads(
    program: Program,
    numbers: Numbers,
    sites: Sequence[SiteKind],
    patterns: Sequence[Pattern],
    uses: IntArray,
) -> Loads:
    """Add the loads of patterns that are used so often (columns `uses`), within bounds."""
    found = [np.nonzero(p.count) for p in patterns]
    sizes = [len(unit) for unit, _ in found]
    pattern = np.repeat(np.arange(len(patterns)), sizes)
    unit = np.concatenate([unit for unit, _ in found])
    place = np.concatenate([place for _, place in found])
    kind = np.concatenate([sites[p.site].kind[place] for p, (_, place) in zip(patterns, found, strict=True)])
    count = np.concatenate([p.count[at] for p, at in zip(patterns, found, strict=True)])
    busy = program.columns(len(unit))
    row = np.arange(len(unit))
    program.rows(len(unit), [(row, busy, 1.0), (row, uses[pattern], -count)], upper=0.0)
    if numbers.busy_binds:
        places = max(p.count.shape[1] for p in patterns)
        spot, spots = np.unique(pattern * places + place, return_inverse=True)
        terms = [
            (spots, busy, numbers.utilization[unit, kind]),
            (np.arange(len(spot)), uses[spot // places], -1.0),
        ]
        program.rows(len(spot), terms, upper=0.0)
    return Loads(pattern, unit, place, kind, busy)


def keep_up(
    program: Program,
    numbers: Numbers,
    loads: Loads,
    patterns: int,
    rate: IntArray | None,
    wanted: float | None,
    exact: bool = False,
) -> None:
    """Chains inside their pattern, tiers over all patterns, or inside each where hosts are on their own.

    Args:
        program: is added to.
        numbers: the problem.
        loads: of all patterns.
        patterns: how many there are.
        rate: column of the rate, or None where it is `wanted`.
        wanted: a rate, over the scale.
        exact: serve no more than the rate.
    """
    whole = numbers.stages[loads.unit] == 1
    speed = numbers.rows_per_busy[loads.unit, loads.kind]
    tier, pattern = numbers.tier[loads.unit[whole]], loads.pattern[whole]
    column, value = loads.column[whole], speed[whole]
    chain = np.unique(np.stack([loads.pattern, numbers.chain[loads.unit]])[:, ~whole], axis=1)
    for p, c in chain.T.tolist():
        units = np.flatnonzero(numbers.chain == c)
        mine = (loads.pattern == p) & (numbers.chain[loads.unit] == c)
        flow = program.columns(1)
        kept: list[Term] = [
            (loads.unit[mine] - units[0], loads.column[mine], speed[mine]),
            (np.arange(len(units)), flow, -1.0),
        ]
        program.rows(len(units), kept, lower=0.0, upper=0.0)
        tier, pattern = np.append(tier, numbers.tier[units[0]]), np.append(pattern, p)
        column, value = np.append(column, flow), np.append(value, 1.0)
    tiers, reach = len(numbers.reach), numbers.reach
    terms: list[Term] = [(tier, column, value)]
    if numbers.per_host:
        each = program.columns(patterns)
        rows = np.arange(tiers * patterns)
        terms = [
            (tier * patterns + pattern, column, value),
            (rows, np.tile(each, tiers), -np.repeat(reach, patterns)),
        ]
        program.rows(len(rows), terms, lower=0.0, upper=0.0)
        terms, tiers, reach = [(0, each, 1.0)], 1, np.ones(1)
    if rate is None:
        right = reach * (wanted or 0.0)
        program.rows(tiers, terms, lower=right, upper=right if exact else np.inf)
    else:
        program.rows(tiers, [*terms, (np.arange(tiers), rate[0], -reach)], lower=0.0)


def add_homes_of_faint(
    program: Program, numbers: Numbers, patterns: Sequence[Pattern], uses: IntArray
) -> None:
    """Tiers that hardly any row reaches still need a complete chain."""
    if numbers.per_host:
        return  # every pattern has all tiers
    for tier in np.flatnonzero(numbers.faint):
        there = np.array([complete_chains(numbers, p.count, int(tier)) for p in patterns], np.float64)
        program.rows(1, [(0, uses, there)], lower=1.0)


def complete_chains(numbers: Numbers, count: IntArray, tier: int) -> int:
    """How many chains of a tier one site holds by counting: of each variant the rarest stage."""
    total = 0
    for chain in np.unique(numbers.chain[numbers.tier == tier]):
        total += int(count[numbers.chain == chain].sum(axis=1).min())
    return total


def cost_of(
    numbers: Numbers,
    goal: Goal,
    sites: Sequence[SiteKind],
    patterns: Sequence[Pattern],
    uses: IntArray,
    loads: Loads,
) -> list[tuple[IntArray, FloatArray]]:
    """What patterns and their loads cost by a goal at a given rate."""
    devices = [prices_of_goal(numbers, goal, sites[p.site])[0] for p in patterns]
    fixed = np.array([float(d @ p.count.any(axis=0)) for d, p in zip(devices, patterns, strict=True)])
    return [(uses, fixed), (loads.column, running_cost(numbers, goal, sites, patterns, loads))]


def running_cost(
    numbers: Numbers, goal: Goal, sites: Sequence[SiteKind], patterns: Sequence[Pattern], loads: Loads
) -> FloatArray:
    """What a busy instance of each entry costs by the goal."""
    price = [prices_of_goal(numbers, goal, site)[1] for site in sites]
    entries = zip(loads.pattern.tolist(), loads.unit, loads.place, strict=True)
    return np.array([price[patterns[p].site][u, d] for p, u, d in entries])


def written_out(
    shape: tuple[int, ...], sites: Sequence[SiteKind], patterns: Sequence[Pattern], uses: IntArray
) -> IntArray:
    """Instances [units, devices] of patterns that are used so often."""
    count = np.zeros(shape, np.int64)
    filled = [0] * len(sites)
    for pattern, times in zip(patterns, uses.tolist(), strict=True):
        start = filled[pattern.site]
        filled[pattern.site] = start + times
        devices = sites[pattern.site].devices[start : start + times]
        count[:, devices] = pattern.count[:, None, :]
    return count


def contents(sites: Sequence[SiteKind], count: IntArray) -> tuple[list[Pattern], FloatArray, list[IntArray]]:
    """Distinct contents of sites, how many sites have each, and the devices [sites, places] of each."""
    members: dict[tuple[int, bytes], list[IntArray]] = {}
    for number, site in enumerate(sites):
        for devices in site.devices:
            members.setdefault((number, np.ascontiguousarray(count[:, devices]).tobytes()), []).append(
                devices
            )
    patterns = [Pattern(number, count[:, rows[0]]) for (number, _), rows in members.items()]
    times = np.array([float(len(rows)) for rows in members.values()])
    return patterns, times, [np.stack(rows) for rows in members.values()]
