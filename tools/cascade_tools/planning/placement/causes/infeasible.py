"""Why there is no placement, and what would help.

A search for the highest rate never says so: its answer is a rate of zero; and the slacks of a linear program
miss what whole instances cannot fill. So, in this order: arithmetic on single tiers; least memory of all
tiers; then small programs with one complete chain of every tier and memory that may be exceeded; then tiers
that may be missing; kernel utilizations under the strict rule; and last the rate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from cascade_tools.errors import Infeasible
from cascade_tools.planning.placement.causes.elastic import least_overflow, most_tiers
from cascade_tools.planning.placement.causes.stage_counts import smallest_stage_count
from cascade_tools.planning.placement.direct import Found, direct, host_numbers
from cascade_tools.planning.placement.finish import finish
from cascade_tools.planning.placement.patterns.patterns import patterns
from cascade_tools.planning.placement.patterns.sites import sites_of
from cascade_tools.planning.placement.problem import FloatArray, Goal, Problem, TierLoad
from cascade_tools.planning.placement.programs.numbers import Numbers, numbers_of

ELASTIC_DEVICES = 64
DIRECT_DEVICES = 16
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
    help_ = f"cut it into {enough} stages, or give" if enough else "no number of stages helps: give"
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
    host = host_numbers(problem)
    room = np.array([float(device.memory_mib) for device in problem.devices])
    best: tuple[int, int, int] | None = None
    for chain in np.unique(numbers.chain[numbers.tier == number]):
        unit = int(np.flatnonzero(numbers.chain == chain)[0])
        stages, each = int(numbers.stages[unit]), max(float(numbers.memory_mib[unit]), 1.0)
        places = np.floor(room / each + EXACT)
        if numbers.strict:
            places = np.minimum(places, _resident_places(numbers, unit))
        places = np.where(numbers.rows_per_busy[unit, numbers.kind] > 0.0, places, 0.0)
        held = int(np.bincount(host, places).max())
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
        have, where = int(np.bincount(host_numbers(problem), room).max()), "the largest host has"
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
    have = len(problem.devices)
    if numbers.per_host:
        have = int(np.bincount(host_numbers(problem)).max())
    if need > have + EXACT:
        raise _strict(
            f"one instance of every tier adds up to a kernel utilization of {need:.2f}", have, numbers
        )


def _strict(what: str, have: int, numbers: Numbers) -> Infeasible:
    where = "a host has" if numbers.per_host else "there are"
    return Infeasible(
        f"{what}, and {where} {have} device(s)",
        "add devices, or take `rule: loose`",
        constraint="strict",
        details={"missing_mib": None},
    )


def explain(problem: Problem, found: Sequence[Found], time_limit_s: float) -> Infeasible:
    """Why the searches found nothing, where arithmetic alone says nothing.

    Args:
        problem: for which `check_arithmetic` raises nothing.
        found: what the searches returned.
        time_limit_s: for a search of the highest rate, where a given one is out of reach.
    """
    packing = _packing(_sample(problem))
    if packing is not None:
        return packing
    if problem.goal.rate_rps is not None:
        return _too_fast(problem, problem.goal.rate_rps, time_limit_s)
    reasons = ", ".join(dict.fromkeys(f.status for f in found)) or "nothing to try"
    return Infeasible(
        f"no placement of {len(problem.tiers)} tiers on {len(problem.devices)} devices was found ({reasons})",
        "give more time, plan for fewer devices, or for equal ones",
        constraint="time",
        details={"missing_mib": None},
    )


def _sample(problem: Problem) -> Problem:
    """Some sites of each kind where there are many devices; one of each where hosts are on their own."""
    problem = replace(problem, at_least=None)
    alone = problem.closure == "host"
    if len(problem.devices) <= ELASTIC_DEVICES and not alone:
        return problem
    sites = sites_of(problem, numbers_of(problem))
    taken: list[int] = []
    for turn in range(1 if alone else max(site.sites for site in sites)):
        for site in sites:
            if turn < site.sites and (alone or len(taken) + len(site.kind) <= ELASTIC_DEVICES):
                taken += site.devices[turn].tolist()
    return replace(problem, devices=tuple(problem.devices[g] for g in sorted(taken)))


def _packing(problem: Problem) -> Infeasible | None:
    """What is missing to give every tier one complete chain; None if they fit."""
    overflow = least_overflow(problem)
    if overflow is not None and overflow.missing_mib > 0:
        names = [tier.name for tier in problem.tiers]
        homeless = [
            name for name, home in zip(names, most_tiers(problem, strict=False), strict=True) if not home
        ]
        device = problem.devices[overflow.device]
        return Infeasible(
            f"the {len(names)} tiers do not fit together into {len(problem.devices)} device(s): "
            f"{overflow.missing_mib} MiB are missing, most of them on device {overflow.device} "
            f"({device.type}, {device.memory_mib} MiB)"
            + (f"; without {', '.join(homeless)} the others fit" if homeless else ""),
            "add memory or devices, cut a tier into smaller stages, or leave a tier out",
            constraint="memory",
            details={
                "missing_mib": overflow.missing_mib,
                "device": overflow.device,
                "tiers_without_home": homeless,
            },
        )
    if problem.rule == "strict":
        placed = most_tiers(problem, strict=True)
        homeless = [tier.name for tier, home in zip(problem.tiers, placed, strict=True) if not home]
        if homeless:
            problem_of = "the kernel utilizations of one instance of every tier cannot be packed; without "
            error = _strict(
                problem_of + ", ".join(homeless) + " they can", len(problem.devices), numbers_of(problem)
            )
            error.details["tiers_without_home"] = homeless
            return error
    return None


def _too_fast(problem: Problem, wanted_rps: float, time_limit_s: float) -> Infeasible:
    """The goal's rate against the highest that was found."""
    fastest = replace(problem, goal=Goal())
    search = direct if len(problem.devices) <= DIRECT_DEVICES else patterns
    found = search(fastest, 0.5 * time_limit_s)
    answer = None if found.count is None else finish(fastest, found.count, found.bound, found.status, "")
    highest = 0.0 if answer is None else answer.rate_rps
    bound = found.bound if np.isfinite(found.bound) else None
    surely = bound is not None and bound < wanted_rps
    more = "" if bound is None else f", and none sustains more than {bound:.1f}"
    return Infeasible(
        f"{wanted_rps:g} rows/s are {'too many' if surely else 'not reached'}: "
        f"the best placement found sustains {highest:.1f}{more}",
        f"ask for at most {highest:.1f} rows/s, or add devices",
        constraint="rate",
        details={"missing_mib": None, "highest_rps": highest, "bound_rps": bound},
    )
