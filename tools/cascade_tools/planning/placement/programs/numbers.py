"""A placement problem as arrays, scaled so that every coefficient of a program is of order one.

Devices of one *kind* have the same type, memory and idle power, so figures are kept per kind. Busy instances
are the variables, not rates: rows/s are counted in multiples of `scale_rps`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cascade_tools.planning.placement.problem import Device, FloatArray, IntArray, Problem

BoolArray = npt.NDArray[np.bool_]
FAINT = 0.05
SMALLEST_S = 1e-9


@dataclass(frozen=True)
class Numbers:
    """A problem as arrays; rows of [units, kinds] are the problem's units.

    Attributes:
        kinds: one device of each kind.
        kind: kind of each device, [devices].
        tier: tier of each unit, [units].
        chain: number of its (tier, variant), [units].
        stages: stages of its variant, [units].
        rows_per_busy: rows/s of one busy instance over `scale_rps`, [units, kinds]; 0 where it cannot run.
        utilization: of one busy instance, [units, kinds].
        resident: of one instance, busy or not, for the strict rule, [units, kinds]; 0 of an overhead.
        energy_j: dynamic energy of one row, [units, kinds].
        memory_mib, further_mib: of the first and of each further instance, [units].
        most: instances of one unit that can be of use on one device, [units, kinds].
        limit: most instances of each tier on one device, inf for any number, [tiers].
        reach: of each tier, [tiers].
        faint: tiers that so few rows reach that a home has to be asked for explicitly, [tiers].
        scale_rps: a rate that is not exceeded by much; at most the goal's.
    """

    kinds: tuple[Device, ...]
    kind: IntArray
    tier: IntArray
    chain: IntArray
    stages: IntArray
    rows_per_busy: FloatArray
    utilization: FloatArray
    resident: FloatArray
    energy_j: FloatArray
    memory_mib: FloatArray
    further_mib: FloatArray
    most: FloatArray
    limit: FloatArray
    reach: FloatArray
    faint: BoolArray
    scale_rps: float
    strict: bool
    per_host: bool

    @property
    def shares_memory(self) -> BoolArray:
        """Units whose further instances take less than the first, bool [units]."""
        return np.asarray(self.further_mib < self.memory_mib, np.bool_)

    @property
    def busy_binds(self) -> bool:
        """Whether busy shares have to be bounded: under the strict rule only beside an overhead."""
        return not self.strict or bool((self.resident < self.utilization).any())

    @property
    def has_chains(self) -> bool:
        """Whether some variant has more than one stage."""
        return bool((self.stages > 1).any())


def numbers_of(problem: Problem) -> Numbers:
    """The arrays of a problem."""
    keys = [(d.type, d.memory_mib, d.idle_w) for d in problem.devices]
    place = {key: k for k, key in enumerate(dict.fromkeys(keys))}
    kinds = tuple(Device(*key[:2], idle_w=key[2]) for key in place)
    units, variants = problem.units, [problem.variant(unit) for unit in problem.units]
    chains = {pair: c for c, pair in enumerate(dict.fromkeys(unit[:2] for unit in units))}

    def table(name: str, missing: float) -> FloatArray:
        rows = [[getattr(v, name).get(kind.type, missing) for kind in kinds] for v in variants]
        return np.array(rows, np.float64).reshape(len(units), len(kinds))

    seconds = table("seconds_per_row", np.inf)
    able = np.isfinite(seconds)
    seconds = np.maximum(seconds, SMALLEST_S)
    utilization = np.where(able, table("utilization", 1.0), 1.0)
    tier = np.array([unit.tier for unit in units], np.int64)
    overhead = np.array([t.overhead for t in problem.tiers], np.bool_)
    reach = np.array([t.reach for t in problem.tiers])
    memory = np.array([float(v.memory_mib) for v in variants])
    further = np.array([float(v.further_mib) for v in variants])
    room = np.array([float(kind.memory_mib) for kind in kinds])
    limit = np.array([np.inf if t.instances is None else float(t.instances) for t in problem.tiers])
    stages = np.array([v.stages for v in variants], np.int64)
    strict = problem.rule == "strict"
    useful = np.floor(1.0 / utilization + 1e-9) if strict else np.ceil(1.0 / utilization - 1e-9)
    most = np.minimum(useful, np.minimum(_fitting(memory, further, room), limit[tier][:, None]))
    work = np.where(able, seconds * utilization * stages[:, None], np.inf).min(axis=1, initial=np.inf)
    least = np.array([work[tier == i].min(initial=np.inf) for i in range(len(problem.tiers))])
    total = float(np.sum(reach * np.where(np.isfinite(least), least, 0.0)))
    scale = len(problem.devices) / total if total > 0.0 else 1.0
    if problem.goal.rate_rps is not None:  # beside a much higher rate what is asked for would be rounding
        scale = min(scale, problem.goal.rate_rps)
    quickest = np.where(able, seconds, np.inf).min(axis=1, initial=np.inf)
    slowest = np.array([quickest[tier == i].min(initial=np.inf) for i in range(len(problem.tiers))])
    return Numbers(
        kinds=kinds,
        kind=np.array([place[key] for key in keys], np.int64),
        tier=tier,
        chain=np.array([chains[unit[:2]] for unit in units], np.int64),
        stages=stages,
        rows_per_busy=np.where(able, 1.0 / (seconds * scale), 0.0),
        utilization=utilization,
        resident=np.where(overhead[tier][:, None], 0.0, utilization),
        energy_j=table("energy_j", 0.0),
        memory_mib=memory,
        further_mib=further,
        most=np.where(able, most, 0.0),
        limit=limit,
        reach=reach,
        faint=np.where(np.isfinite(slowest), reach * scale * slowest, 0.0) < FAINT,
        scale_rps=scale,
        strict=strict,
        per_host=problem.closure == "host",
    )


def _fitting(memory: FloatArray, further: FloatArray, room: FloatArray) -> FloatArray:
    """How many instances fit on a device by themselves, [units, kinds]."""
    left = room[None, :] - memory[:, None]
    more = np.floor(np.maximum(left, 0.0) / np.maximum(further[:, None], 1e-9) + 1e-9)
    return np.where(left >= 0.0, 1.0 + more, 0.0)
