"""Small programs that tell what is missing: one complete chain of every tier, and something may give way.

place[v, h] = 1 in one host for one variant of each tier; every stage of it has an instance there
memory: min sum_g overflow_g,  sum_j memory_j n[j, g] <= memory_g + overflow_g
tiers:  max sum_i home_i,      with the memory that there is, and under the strict rule the utilization
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from cascade_tools.planning.placement.problem import FloatArray, IntArray, Problem
from cascade_tools.planning.placement.programs.numbers import numbers_of
from cascade_tools.planning.placement.programs.program import Program, Term

LIMIT_S = 2.0
PRECISION_MIB = 0.5


class Overflow(NamedTuple):
    """MiB that are missing in all, and the device where most of them are."""

    missing_mib: int
    device: int


class Held(NamedTuple):
    """Whether each tier has a home in the best placement found, and whether it is proven that not all can."""

    home: list[bool]
    not_all: bool


class _Homes(NamedTuple):
    """Columns: one 0/1 per cell (unit and device), and whether each tier has a home."""

    program: Program
    unit: IntArray
    device: IntArray
    there: IntArray
    home: IntArray


def least_overflow(problem: Problem) -> Overflow | None:
    """The least memory that is missing; None if it is not known in time whether any is."""
    homes = _homes(problem)
    memory = numbers_of(problem).memory_mib
    room = _rooms(problem)
    largest = max(float(room.max()), 1.0)
    excess = homes.program.columns(len(room))
    terms: list[Term] = [
        (homes.device, homes.there, memory[homes.unit] / largest),
        (np.arange(len(room)), excess, -1.0),
    ]
    homes.program.rows(len(room), terms, upper=room / largest)
    tiers = len(homes.home)
    homes.program.rows(tiers, [(np.arange(tiers), homes.home, 1.0)], lower=1.0)
    result = homes.program.solve([(excess, 1.0)], LIMIT_S, 1e-4)
    if result.x is None:
        return None
    mib = result.x[excess] * largest
    missing = float(mib.sum())
    if missing < PRECISION_MIB:
        return Overflow(0, int(np.argmax(mib)))
    proven = float(result.mip_dual_bound or 0.0) * largest >= PRECISION_MIB
    return Overflow(round(missing), int(np.argmax(mib))) if proven else None


def most_tiers(problem: Problem, strict: bool) -> Held:
    """Which tiers have a home if as many as possible have one."""
    homes = _homes(problem)
    numbers, room = numbers_of(problem), _rooms(problem)
    memory = (homes.device, homes.there, numbers.memory_mib[homes.unit] / np.maximum(room, 1.0)[homes.device])
    homes.program.rows(len(room), [memory], upper=1.0)
    if strict:
        share = numbers.resident[homes.unit, numbers.kind[homes.device]]
        homes.program.rows(len(room), [(homes.device, homes.there, share)], upper=1.0)
    result = homes.program.solve([(homes.home, -1.0)], LIMIT_S, 1e-4)
    if result.x is None:
        return Held([True] * len(homes.home), False)
    proven = result.mip_dual_bound is not None and -result.mip_dual_bound < len(homes.home) - 0.5
    return Held([bool(value > 0.5) for value in result.x[homes.home]], proven)


def _rooms(problem: Problem) -> FloatArray:
    return np.array([float(device.memory_mib) for device in problem.devices])


def _homes(problem: Problem) -> _Homes:
    """One instance of each stage of one variant per tier; all tiers in one host with the closure `host`."""
    numbers, host = numbers_of(problem), problem.hosts
    hosts, tiers = int(host.max()) + 1, len(problem.tiers)
    program = Program()
    unit, device = np.nonzero(numbers.rows_per_busy[:, numbers.kind] > 0.0)
    there = program.columns(len(unit), upper=1.0, whole=True)
    chains = int(numbers.chain.max()) + 1
    place = program.columns(chains * hosts, upper=1.0, whole=True)
    home = program.columns(tiers, upper=1.0, whole=True)
    # Every stage of a chain that is placed in a host has an instance there.
    stage = np.arange(len(numbers.tier) * hosts)
    terms = [
        (unit * hosts + host[device], there, 1.0),
        (
            stage,
            place[np.repeat(numbers.chain, hosts) * hosts + np.tile(np.arange(hosts), len(numbers.tier))],
            -1.0,
        ),
    ]
    program.rows(len(stage), terms, lower=0.0)
    tier_of_chain = np.zeros(chains, np.int64)
    tier_of_chain[numbers.chain] = numbers.tier
    row = np.arange(tiers)
    program.rows(tiers, [(np.repeat(tier_of_chain, hosts), place, 1.0), (row, home, -1.0)], lower=0.0)
    if numbers.per_host:
        chosen = program.columns(hosts, upper=1.0, whole=True)
        program.rows(1, [(0, chosen, 1.0)], upper=1.0)
        each = np.arange(chains * hosts)
        program.rows(len(each), [(each, place, 1.0), (each, np.tile(chosen, chains), -1.0)], upper=0.0)
    return _Homes(program, unit, device, there, home)
