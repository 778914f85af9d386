"""Why there is no placement, and what would help.

A search for the highest rate never says so: its answer is a rate of zero; and the slacks of a linear program
miss what whole instances cannot fill. So, in this order: arithmetic on single tiers; least memory of all
tiers; then small programs with one complete chain of every tier and memory that may be exceeded; then tiers
that may be missing; and kernel utilizations under the strict rule. Only what fits can be too slow.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from cascade_tools.errors import Infeasible
from cascade_tools.planning.placement.causes.elastic import least_overflow, most_tiers
from cascade_tools.planning.placement.causes.sample import sample
from cascade_tools.planning.placement.causes.stage_counts import smallest_stage_count
from cascade_tools.planning.placement.direct import Found
from cascade_tools.planning.placement.problem import FloatArray, Problem, Solution, TierLoad
from cascade_tools.planning.placement.programs.numbers import Numbers, numbers_of

ELASTIC_CELLS = 20_000
EXACT = 1e-9


def check_arithmetic(problem: Problem) -> None:
    """Look at what needs no search.

    Raises:
        Infeasible: a tier fits nowhere by itself, or all tiers together need more than there is.
    """
    numbers = numbers_of(problem)
    for number, tier in enumerate(problem.tiers):
        _check_runs(problem, tier)
        _check_stage(problem, numbers, number)
        _check_host(problem, numbers, number)
    _check_total(problem, numbers)
    _check_utilization(problem, numbers)


def _check_runs(problem: Problem, tier: TierLoad) -> None:
    types = list(dict.fromkeys(device.type for device in problem.devices))
    if any(kind in variant.seconds_per_row for variant in tier.variants for kind in types):
        return
    known = sorted({kind for variant in tier.variants for kind in variant.seconds_per_row})
    raise Infeasible(
        f"tier {tier.name} runs on {', '.join(known) or 'no type'}, the devices are {', '.join(types)}",
        "give its figures for one of these types, or add a device of a type that it runs on",
        constraint="device type",
        details={"missing_mib": None, "tiers_without_home": [tier.name]},
    )


def _check_stage(problem: Problem, numbers: Numbers, number: int) -> None:
    """The smallest stage of a tier against the largest device that can run it."""
    mine = np.flatnonzero(numbers.tier == number)
    if (numbers.most[mine] > 0.0).any():
        return
    tier = problem.tiers[number]
    able = numbers.rows_per_busy[mine] > 0.0
    room = np.array([float(kind.memory_mib) for kind in numbers.kinds])
    short = np.where(able, numbers.memory_mib[mine][:, None] - room[None, :], np.inf)
    unit, kind = np.unravel_index(int(np.argmin(short)), short.shape)
    missing, stages = int(short[unit, kind]), int(numbers.stages[mine[unit]])
    if missing <= 0:  # it fits, and somebody has set that there is none of it
        raise Infeasible(
            f"tier {tier.name} may have {tier.instances} instances on a device",
            constraint="instances",
            details={"missing_mib": None, "tiers_without_home": [tier.name]},
        )
    largest = int(room[able.any(axis=0)].max())
    enough = smallest_stage_count(tier, largest)
    what = f"tier {tier.name}" if stages == 1 else f"a stage of tier {tier.name}, cut into {stages},"
    help_ = f"cut it into at least {enough} stages, or give" if enough else "no number of stages helps: give"
    raise Infeasible(
        f"{what} needs {int(numbers.memory_mib[mine[unit]])} MiB, the largest device "
        f"({numbers.kinds[int(kind)].type}) has {int(room[kind])}: {missing} MiB are missing",
        f"{help_} a device {missing} MiB more",
        constraint="memory",
        details={
            "missing_mib": missing,
            "tier": tier.name,
            "device_type": numbers.kinds[int(kind)].type,
            "stages_needed": enough,
            "tiers_without_home": [tier.name],
        },
    )


def _check_host(problem: Problem, numbers: Numbers, number: int) -> None:
    """A tier by itself in an empty host: every stage needs its own place."""
    room = np.array([float(device.memory_mib) for device in problem.devices])
    best: tuple[int, int, int] | None = None
    for chain in np.unique(numbers.chain[numbers.tier == number]):
        unit = int(np.flatnonzero(numbers.chain == chain)[0])
        stages, each = int(numbers.stages[unit]), max(float(numbers.memory_mib[unit]), 1.0)
        places = np.floor(room / each + EXACT)
        if numbers.strict:
            places = np.minimum(places, _resident_places(numbers, unit))
        places = np.where(numbers.rows_per_busy[unit, numbers.kind] > 0.0, places, 0.0)
        held = int(np.bincount(problem.hosts, places).max())
        if held >= stages:
            return
        if best is None or stages - held < best[0]:
            best = (stages - held, stages, int(each))
    assert best is not None
    short, stages, each = best
    raise Infeasible(
        f"tier {problem.tiers[number].name} in {stages} stages of {each} MiB fits into no host: "
        f"one has places for {stages - short} of them",
        "a chain stays in one host: put more or larger devices into a host",
        constraint="host",
        details={
            "missing_mib": short * each,
            "tier": problem.tiers[number].name,
            "tiers_without_home": [problem.tiers[number].name],
        },
    )


def _resident_places(numbers: Numbers, unit: int) -> FloatArray:
    """How many instances of a unit the strict rule lets stand on each device, [devices]."""
    share = np.maximum(numbers.resident[unit, numbers.kind], EXACT)
    return np.asarray(np.floor(1.0 / share + EXACT), np.float64)


def _check_total(problem: Problem, numbers: Numbers) -> None:
    """The least memory of all tiers against the cluster, or the largest host."""
    whole = numbers.memory_mib * numbers.stages
    need = int(sum(whole[numbers.tier == i].min() for i in range(len(problem.tiers))))
    room = np.array([float(device.memory_mib) for device in problem.devices])
    have, where = int(room.sum()), f"all {len(room)} device(s) together have"
    if numbers.per_host:
        have, where = int(np.bincount(problem.hosts, room).max()), "the largest host has"
    if need <= have:
        return
    raise Infeasible(
        f"one instance of every tier needs {need} MiB, {where} {have}: {need - have} MiB are missing",
        "add memory or devices, or leave a tier out",
        constraint="memory",
        details={"missing_mib": need - have},
    )


def _check_utilization(problem: Problem, numbers: Numbers) -> None:
    """Under the strict rule one chain of every tier against the number of devices."""
    if not numbers.strict:
        return
    least = np.where(numbers.rows_per_busy > 0.0, numbers.resident, np.inf).min(axis=1) * numbers.stages
    need = float(sum(least[numbers.tier == i].min() for i in range(len(problem.tiers))))
    if need > _together(problem) + EXACT:
        raise _strict(f"one instance of every tier adds up to a kernel utilization of {need:.2f}", problem)


def _together(problem: Problem) -> int:
    """Devices that may hold one complete chain of every tier together."""
    alone = problem.closure == "host"
    return int(np.bincount(problem.hosts).max()) if alone else len(problem.devices)


def _strict(what: str, problem: Problem, homeless: Sequence[str] = ()) -> Infeasible:
    where = "the largest host has" if problem.closure == "host" else "there are"
    details: dict[str, object] = {"missing_mib": None}
    if homeless:
        details["tiers_without_home"] = list(homeless)
    return Infeasible(
        f"{what}, and {where} {_together(problem)} device(s)",
        "add devices, or take `rule: loose`",
        constraint="strict",
        details=details,
    )


def explain(problem: Problem, found: Sequence[Found]) -> Infeasible:
    """Why the searches found no placement at any rate, where arithmetic alone says nothing.

    Args:
        problem: for which `check_arithmetic` raises nothing.
        found: what the searches returned.
    """
    packing = _packing(problem)
    if packing is not None:
        return packing
    reasons = ", ".join(dict.fromkeys(f.status for f in found)) or "nothing to try"
    return Infeasible(
        f"no placement of {_tiers(problem)} on {len(problem.devices)} devices was found ({reasons})",
        "give more time, plan for fewer devices, or for equal ones",
        constraint="time",
        details={"missing_mib": None},
    )


def _tiers(problem: Problem) -> str:
    """How many; what asking them costs is none."""
    number = sum(not tier.overhead for tier in problem.tiers)
    return "1 tier" if number == 1 else f"{number} tiers"


def too_fast(wanted_rps: float, fastest: Solution) -> Infeasible:
    """The goal's rate against the highest: of a placement found, and proven."""
    highest, bound = fastest.rate_rps, fastest.bound if math.isfinite(fastest.bound) else None
    surely = bound is not None and bound < wanted_rps
    more = "" if bound is None else f", and none sustains more than {bound:.4g}"
    return Infeasible(
        f"{wanted_rps:g} rows/s are {'too many' if surely else 'not reached'}: "
        f"the best placement found sustains {_down(highest)}{more}",
        f"ask for at most {_down(highest)} rows/s, or add devices",
        constraint="rate",
        details={"missing_mib": None, "highest_rps": highest, "bound_rps": bound},
    )


def _down(rate_rps: float) -> str:
    """Five digits, not above the rate itself."""
    unit = 10.0 ** (math.floor(math.log10(rate_rps)) - 4)
    return f"{math.floor(rate_rps / unit) * unit:.5g}"


def _packing(problem: Problem) -> Infeasible | None:
    """What is missing to give every tier one complete chain; None if they fit, or nobody knows."""
    where = sample(problem)
    if len(where) * len(problem.units) > ELASTIC_CELLS:
        return None
    part = replace(problem, devices=tuple(problem.devices[g] for g in where.tolist()), at_least=None)
    overflow = least_overflow(part)
    if overflow is not None and overflow.missing_mib > 0:
        return _too_large(problem, overflow.missing_mib, int(where[overflow.device]), _homeless(part))
    if problem.rule == "strict":
        held = most_tiers(part, strict=True)
        if held.not_all:
            homeless = [tier.name for tier, home in zip(problem.tiers, held.home, strict=True) if not home]
            return _strict(
                "the kernel utilizations of one instance of every tier cannot be packed; without "
                f"{', '.join(homeless)} they can",
                problem,
                homeless,
            )
    return None


def _homeless(problem: Problem) -> list[str]:
    held = most_tiers(problem, strict=False)
    return [tier.name for tier, home in zip(problem.tiers, held.home, strict=True) if not home]


def _too_large(problem: Problem, missing_mib: int, number: int, homeless: list[str]) -> Infeasible:
    device = problem.devices[number]
    return Infeasible(
        f"the {_tiers(problem)} do not fit together into {len(problem.devices)} device(s): "
        f"{missing_mib} MiB are missing, most of them on device {number} "
        f"({device.type}, {device.memory_mib} MiB)"
        + (f"; without {', '.join(homeless)} the others fit" if homeless else ""),
        "add memory or devices, cut a tier into smaller stages, or leave a tier out",
        constraint="memory",
        details={"missing_mib": missing_mib, "device": number, "tiers_without_home": homeless},
    )
