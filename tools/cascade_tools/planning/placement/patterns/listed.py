"""Few devices: all patterns of single devices, listed, and put together in whole numbers.

Without chains that is exact. With them it is a bound: the stages of a chain are taken for one another, so
that S of its instances are a chain, wherever they are in hosts of one kind.

    q_p whole, how many devices of a kind, in hosts of a kind, have pattern p;  loads as in `assembly.py`
    y[c, H] = sum_p in H f[p, c] / (S tau)         rows/s of chain c in all hosts of kind H
    y[c, H] <= m[c, H] / (least tau),  m whole     of m whole chains in all
    S m[c, H] <= sum_p in H n[p, c] q_p

The last two are for the strict rule, under which no device holds more instances than can be busy. It is often
tighter than the bound of prices, which knows of no whole numbers but inside a pattern.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cascade_tools.planning.placement.direct import Found
from cascade_tools.planning.placement.patterns.assembly import (
    Loads,
    Pattern,
    add_homes_of_faint,
    add_loads,
    cost_of,
    keep_up,
    written_out,
)
from cascade_tools.planning.placement.patterns.enumeration import maximal_patterns
from cascade_tools.planning.placement.patterns.sites import SiteKind, sites_of
from cascade_tools.planning.placement.problem import IntArray, Problem, TierLoad, Variant
from cascade_tools.planning.placement.programs.numbers import Numbers, numbers_of
from cascade_tools.planning.placement.programs.program import STATUS, Program

MOST_PATTERNS = 1000
GAP = 2e-4
NOTHING = Found(None, float("nan"), "too many patterns")


def listed(problem: Problem, time_limit_s: float) -> Found:
    """The best mixture of all patterns: a placement where there are no chains, and the bound in any case."""
    numbers, stages = numbers_of(_without_stages(problem)), _stages(problem)
    sites, host_kind = _single_devices(problem)
    patterns = _all_patterns(numbers, sites)
    if patterns is None:
        return NOTHING
    program = Program()
    there = np.array([float(sites[p.site].sites) for p in patterns])
    uses = program.columns(len(patterns), upper=there, whole=True)
    site = np.array([p.site for p in patterns], np.int64)
    program.rows(len(sites), [(site, uses, 1.0)], upper=np.array([float(s.sites) for s in sites]))
    loads = add_loads(program, numbers, sites, patterns, uses)
    goal = problem.goal
    rate = program.columns(1, lower=0.0 if goal.rate_rps is None else goal.rate_rps / numbers.scale_rps)
    keep_up(program, numbers, loads, len(patterns), rate, None)
    add_homes_of_faint(program, numbers, patterns, uses)
    for chain in np.flatnonzero(stages > 1) if numbers.strict else ():
        _whole_chains(program, numbers, (int(chain), int(stages[chain])), patterns, loads, uses, host_kind)
    cost = [(rate, -1.0)] if goal.rate_rps is None else cost_of(numbers, goal, sites, patterns, uses, loads)
    result = program.solve(cost, time_limit_s, GAP)
    unit = -numbers.scale_rps if goal.rate_rps is None else 1.0
    bound = float("nan") if result.mip_dual_bound is None else float(result.mip_dual_bound) * unit
    if result.x is None or (stages > 1).any() or problem.closure == "host":
        return Found(None, bound, STATUS[result.status])
    shape = (len(problem.units), len(problem.devices))
    times = np.round(result.x[uses]).astype(np.int64)
    return Found(written_out(shape, sites, patterns, times), bound, STATUS[result.status])


def _without_stages(problem: Problem) -> Problem:
    """Every variant in one piece, of which an instance is as quick as S times one stage."""

    def one(variant: Variant) -> Variant:
        seconds = {kind: s * variant.stages for kind, s in variant.seconds_per_row.items()}
        joule = {kind: j * variant.stages for kind, j in variant.energy_j.items()}
        return replace(variant, stages=1, seconds_per_row=seconds, energy_j=joule)

    def tier(load: TierLoad) -> TierLoad:
        return replace(load, variants=tuple(one(variant) for variant in load.variants))

    return replace(problem, tiers=tuple(tier(t) for t in problem.tiers), closure="pool", at_least=None)


def _stages(problem: Problem) -> IntArray:
    """Stages of every variant, which is one unit without them, [variants]."""
    return np.array([variant.stages for tier in problem.tiers for variant in tier.variants], np.int64)


def _single_devices(problem: Problem) -> tuple[list[SiteKind], IntArray]:
    """Devices of each kind in hosts of each kind, as sites of one place; and the kind of those hosts."""
    sites, host_kind = [], []
    for number, host in enumerate(sites_of(problem, numbers_of(problem))):
        for kind in np.unique(host.kind).tolist():
            devices = host.devices[:, host.kind == kind].reshape(-1, 1)
            sites.append(SiteKind(np.array([kind], np.int64), devices))
            host_kind.append(number)
    return sites, np.array(host_kind, np.int64)


def _all_patterns(numbers: Numbers, sites: list[SiteKind]) -> list[Pattern] | None:
    """All maximal patterns of all sites; None where there are too many."""
    of_kind: dict[int, IntArray] = {}
    found: list[Pattern] = []
    for number, site in enumerate(sites):
        kind = int(site.kind[0])
        if kind not in of_kind:
            all_ = maximal_patterns(numbers, kind)
            if all_ is None:
                return None
            of_kind[kind] = all_
        found += [Pattern(number, np.ascontiguousarray(row[:, None])) for row in of_kind[kind] if row.any()]
        if len(found) > MOST_PATTERNS:
            return None
    return found


def _whole_chains(
    program: Program,
    numbers: Numbers,
    chain: tuple[int, int],
    patterns: list[Pattern],
    loads: Loads,
    uses: IntArray,
    host_kind: IntArray,
) -> None:
    """What a chain (unit, stages) does in hosts of one kind, it does in whole chains."""
    unit, stages = chain
    host = host_kind[np.array([p.site for p in patterns])][loads.pattern]
    for kind in np.unique(host_kind):
        here = (loads.unit == unit) & (host == kind)
        if here.any():
            speed = numbers.rows_per_busy[unit, loads.kind[here]]
            count = np.array([float(patterns[p].count[unit, 0]) for p in loads.pattern[here].tolist()])
            whole = program.columns(1, whole=True)
            rows = [(0, loads.column[here], speed), (0, whole, -stages * float(speed.max()))]
            program.rows(1, rows, upper=0.0)
            program.rows(1, [(0, whole, float(stages)), (0, uses[loads.pattern[here]], -count)], upper=0.0)
