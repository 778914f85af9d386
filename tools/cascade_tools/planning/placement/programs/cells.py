"""The part that every program shares: instances on given devices, their load, and the chains inside hosts.

    f[j, g] busy instances of unit j on device g, n[j, g] instances, whole numbers:  0 <= f <= n <= most
    sum_j memory_j(n[j, g]) <= memory_g              the first instance of a unit may take more than the next
    loose:  sum_j u_j f[j, g] <= 1                   strict:  sum_j u_j n[j, g] <= 1, and with an overhead,
                                                     which counts in it as nothing, the loose row as well
    sum_(g in h) f[j, g] / tau_j = y[c, h]           for every stage j of chain c: a chain stays in its host

tau is seconds per row, u the kernel utilization of one busy instance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cascade_tools.planning.placement.problem import FloatArray, IntArray
from cascade_tools.planning.placement.programs.numbers import Numbers
from cascade_tools.planning.placement.programs.program import Program

STRICT_SCALE = 1000.0  # rows may be off by 1e-6, and utilizations that add up to more than 1 are refused

Term = tuple[IntArray, IntArray, FloatArray]


@dataclass(frozen=True)
class Cells:
    """The variables that were added; one cell per unit and device that can run it.

    Attributes:
        unit, device, host: of each cell, [cells].
        busy, count: columns of each cell, [cells].
        most: instances that its count may reach, [cells].
        used: columns that say whether a device is in use, [devices]; None if nobody asked.
        chain, chain_host, flow: number of the chain, its host, and the column of its rate, [flows]; chains
            of one stage have none.
    """

    unit: IntArray
    device: IntArray
    host: IntArray
    busy: IntArray
    count: IntArray
    most: FloatArray
    used: IntArray | None
    chain: IntArray
    chain_host: IntArray
    flow: IntArray

    def counts(self, x: FloatArray, shape: tuple[int, ...]) -> IntArray:
        """Instances [units, devices] of a solution."""
        count = np.zeros(shape, np.int64)
        count[self.unit, self.device] = np.round(x[self.count]).astype(np.int64)
        return count


def add_cells(
    program: Program,
    numbers: Numbers,
    kind: IntArray,
    host: IntArray,
    ask_used: bool = False,
    fewest: IntArray | None = None,
) -> Cells:
    """Add devices of these kinds, in these hosts (0 .. hosts - 1), to a program.

    Args:
        program: is added to.
        numbers: the problem.
        kind: of each device, [devices].
        host: of each device, [devices].
        ask_used: add a column per device that is 1 if anything stands on it.
        fewest: instances [units, devices] that have to be there.
    """
    most = numbers.most[:, kind]
    least = np.zeros_like(most) if fewest is None else fewest.astype(np.float64)
    most = np.maximum(most, least)
    unit, device = np.nonzero(most > 0.0)
    busy = program.columns(len(unit), upper=most[unit, device])
    count = program.columns(len(unit), most[unit, device], least[unit, device], whole=True)
    used = program.columns(len(kind), upper=1.0, whole=True) if ask_used else None
    chains = np.unique(np.stack([numbers.chain[unit], host[device]])[:, numbers.stages[unit] > 1], axis=1)
    flow = program.columns(chains.shape[1])
    cells = Cells(
        unit, device, host[device], busy, count, most[unit, device], used, chains[0], chains[1], flow
    )
    row = np.arange(len(unit))
    program.rows(len(unit), [(row, busy, 1.0), (row, count, -1.0)], upper=0.0)
    if used is not None:
        program.rows(len(unit), [(row, count, 1.0), (row, used[device], -most[unit, device])], upper=0.0)
    _fits(program, numbers, kind, cells)
    _not_too_busy(program, numbers, kind, cells)
    _limited(program, numbers, len(kind), cells)
    _stages_keep_up(program, numbers, kind, cells)
    return cells


def served(numbers: Numbers, kind: IntArray, cells: Cells) -> tuple[IntArray, IntArray, IntArray, FloatArray]:
    """What the tiers get done: tier, host, column and rows/s (over the scale) per unit of the column."""
    whole = numbers.stages[cells.unit] == 1
    unit, device = cells.unit[whole], cells.device[whole]
    tier_of_chain = np.zeros(int(numbers.chain.max()) + 1, np.int64)
    tier_of_chain[numbers.chain] = numbers.tier
    return (
        np.concatenate([numbers.tier[unit], tier_of_chain[cells.chain]]),
        np.concatenate([cells.host[whole], cells.chain_host]),
        np.concatenate([cells.busy[whole], cells.flow]),
        np.concatenate([numbers.rows_per_busy[unit, kind[device]], np.ones(len(cells.flow))]),
    )


def power_w(numbers: Numbers, kind: IntArray, cells: Cells) -> FloatArray:
    """Dynamic watts of one busy instance of each cell, [cells]."""
    rate = numbers.rows_per_busy[cells.unit, kind[cells.device]] * numbers.scale_rps
    return np.asarray(rate * numbers.energy_j[cells.unit, kind[cells.device]], np.float64)


def add_homes(
    program: Program, numbers: Numbers, cells: Cells, tiers: IntArray, in_use: IntArray | None = None
) -> None:
    """Ask for a complete chain of each of these tiers; with `in_use` [hosts] in every host in use."""
    home_tier, home_host, home = _homes(program, numbers, cells, tiers)
    whole = np.isin(numbers.tier[cells.unit], tiers) & (numbers.stages[cells.unit] == 1)
    at = {int(tier): i for i, tier in enumerate(tiers)}
    position = np.array([at.get(int(t), 0) for t in numbers.tier[cells.unit[whole]]], np.int64)
    home_at = np.array([at[int(t)] for t in home_tier], np.int64)
    if in_use is None:
        terms = [(position, cells.count[whole], 1.0), (home_at, home, 1.0)]
        program.rows(len(tiers), terms, lower=1.0)
        return
    hosts = len(in_use)
    rows = np.arange(len(tiers) * hosts)
    terms = [
        (position * hosts + cells.host[whole], cells.count[whole], 1.0),
        (home_at * hosts + home_host, home, 1.0),
        (rows, np.tile(in_use, len(tiers)), -1.0),
    ]
    program.rows(len(rows), terms, lower=0.0)


def _homes(
    program: Program, numbers: Numbers, cells: Cells, tiers: IntArray
) -> tuple[IntArray, IntArray, IntArray]:
    """Columns that may be 1 where every stage of a chain has an instance: their tier, host, column."""
    tier_of_chain = dict(zip(numbers.chain.tolist(), numbers.tier.tolist(), strict=True))
    wanted = set(tiers.tolist())
    chosen = np.array([tier_of_chain[c] in wanted for c in cells.chain.tolist()], bool)
    chain, host = cells.chain[chosen], cells.chain_host[chosen]
    home = program.columns(len(chain), upper=1.0, whole=True)
    for c, h, column in zip(chain.tolist(), host.tolist(), home.tolist(), strict=True):
        for unit in np.flatnonzero(numbers.chain == c):
            there = cells.count[(cells.unit == unit) & (cells.host == h)]
            terms = [(0, there, -1.0), (0, column, 1.0)]
            program.rows(1, terms, upper=0.0)
    return np.array([tier_of_chain[c] for c in chain.tolist()], np.int64), host, home


def _fits(program: Program, numbers: Numbers, kind: IntArray, cells: Cells) -> None:
    room = np.array([max(float(numbers.kinds[k].memory_mib), 1.0) for k in kind])
    shared = numbers.shares_memory[cells.unit] & (cells.most > 1.0)
    each = np.where(shared, numbers.further_mib[cells.unit], numbers.memory_mib[cells.unit])
    terms = [(cells.device, cells.count, each / room[cells.device])]
    if shared.any():
        unit, device, count = cells.unit[shared], cells.device[shared], cells.count[shared]
        there = program.columns(len(unit), upper=1.0, whole=True)
        row = np.arange(len(unit))
        program.rows(len(unit), [(row, count, 1.0), (row, there, -cells.most[shared])], upper=0.0)
        terms.append((device, there, (numbers.memory_mib - numbers.further_mib)[unit] / room[device]))
    _per_device(program, terms, np.ones(len(kind)), cells.used)


def _not_too_busy(program: Program, numbers: Numbers, kind: IntArray, cells: Cells) -> None:
    if numbers.strict:
        share = STRICT_SCALE * numbers.resident[cells.unit, kind[cells.device]]
        _per_device(
            program, [(cells.device, cells.count, share)], np.full(len(kind), STRICT_SCALE), cells.used
        )
    if numbers.busy_binds:
        share = numbers.utilization[cells.unit, kind[cells.device]]
        _per_device(program, [(cells.device, cells.busy, share)], np.ones(len(kind)), cells.used)


def _per_device(program: Program, terms: list[Term], upper: FloatArray, used: IntArray | None) -> None:
    if used is None:
        program.rows(len(upper), terms, upper=upper)
    else:
        program.rows(len(upper), [*terms, (np.arange(len(upper)), used, -upper)], upper=0.0)


def _limited(program: Program, numbers: Numbers, devices: int, cells: Cells) -> None:
    for tier in np.flatnonzero(np.isfinite(numbers.limit)):
        if (numbers.tier == tier).sum() > 1:  # of a single unit the bound on its count says it already
            mine = numbers.tier[cells.unit] == tier
            terms = [(cells.device[mine], cells.count[mine], 1.0)]
            program.rows(devices, terms, upper=numbers.limit[tier])


def _stages_keep_up(program: Program, numbers: Numbers, kind: IntArray, cells: Cells) -> None:
    """One row per host and stage of a chain: its busy instances do the chain's rate."""
    for c, h, column in zip(
        cells.chain.tolist(), cells.chain_host.tolist(), cells.flow.tolist(), strict=True
    ):
        units = np.flatnonzero(numbers.chain == c)
        mine = (numbers.chain[cells.unit] == c) & (cells.host == h)
        rate = numbers.rows_per_busy[cells.unit[mine], kind[cells.device[mine]]]
        terms = [
            (cells.unit[mine] - units[0], cells.busy[mine], rate),
            (np.arange(len(units)), column, -1.0),
        ]
        program.rows(len(units), terms, lower=0.0, upper=0.0)
