"""Whether an answer holds, recomputed without the model of any solver.

Memory is counted in whole MiB, the rate by a linear program of its own (`recount.py`); nothing is shared with
the programs that made the answer but the types.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import numpy as np

from cascade_tools.planning.placement.problem import FloatArray, IntArray, Problem, Solution
from cascade_tools.planning.placement.recount import highest_rate

TOLERANCE = 1e-6
EXACT = 1e-9


def verify(problem: Problem, solution: Solution) -> list[str]:
    """What is wrong with a solution, in words; empty if nothing is.

    Checked are: memory with shared weights, utilization by the rule, what devices can run, given limits,
    a home for every tier, that the loads serve the rate, that the rate is what the placement sustains,
    and that the value is what the goal counts and does not beat the bound.
    """
    found = _shapes(problem, solution)
    if found:
        return found
    found = [*_devices(problem, solution), *_homes(problem, solution.count), *_loads(problem, solution)]
    return found or [*_rate(problem, solution), *_value(problem, solution)]


def _shapes(problem: Problem, solution: Solution) -> list[str]:
    shape = (len(problem.units), len(problem.devices))
    if solution.count.shape != shape or solution.busy.shape != shape:
        return [f"instances {solution.count.shape} and loads {solution.busy.shape} are not {shape}"]
    found = []
    if not np.issubdtype(solution.count.dtype, np.integer) or (solution.count < 0).any():
        found.append("instances are not whole numbers from 0")
    if not np.isfinite(solution.busy).all() or (solution.busy < -EXACT).any():
        found.append("loads are not finite numbers from 0")
    if not np.isfinite(solution.rate_rps) or solution.rate_rps <= 0.0:
        found.append(f"a rate of {solution.rate_rps} rows/s is no answer")
    return found


def _devices(problem: Problem, solution: Solution) -> Iterator[str]:
    """What is wrong on single devices; equal ones, in every respect, are looked at once."""
    seen: dict[tuple[object, ...], list[str]] = {}
    for g, device in enumerate(problem.devices):
        count, busy = solution.count[:, g], solution.busy[:, g]
        key = (device.type, device.memory_mib, count.tobytes(), busy.tobytes())
        if key not in seen:
            seen[key] = list(_device(problem, g, count, busy))
        yield from (f"device {g}: {text}" for text in seen[key])


def _device(problem: Problem, g: int, count: IntArray, busy: FloatArray) -> Iterator[str]:
    device = problem.devices[g]
    held_mib, resident, busy_share = 0, 0.0, 0.0
    of_tier: dict[int, int] = defaultdict(int)
    for u, unit in enumerate(problem.units):
        n, f = int(count[u]), float(busy[u])
        name = f"{problem.tiers[unit.tier].name} (variant {unit.variant}, stage {unit.stage})"
        if f > n + TOLERANCE:
            yield f"{f:.6f} busy instances of {name}, and there are {n}"
        if n == 0:
            continue
        variant = problem.tiers[unit.tier].variants[unit.variant]
        if device.type not in variant.seconds_per_row or device.type not in variant.utilization:
            yield f"type {device.type} cannot run {name}"
            continue
        held_mib += int(variant.memory_mib) + (n - 1) * int(variant.further_mib)
        busy_share += variant.utilization[device.type] * f
        if problem.rule == "strict" and not problem.tiers[unit.tier].overhead:
            resident += variant.utilization[device.type] * n
        of_tier[unit.tier] += n
    if held_mib > device.memory_mib:
        yield f"{held_mib} MiB placed on {device.memory_mib} MiB"
    yield from _too_much(resident, busy_share)
    for i, n in of_tier.items():
        most = problem.tiers[i].instances
        if most is not None and n > most:
            yield f"{n} instances of {problem.tiers[i].name}, at most {most} are allowed"


def _too_much(resident: float, busy_share: float) -> Iterator[str]:
    if resident > 1.0 + EXACT:
        yield f"kernel utilization of its instances {resident:.6f} is above 1"
    if busy_share > 1.0 + TOLERANCE:
        yield f"busy share {busy_share:.6f} is above 1"


def _homes(problem: Problem, count: IntArray) -> Iterator[str]:
    """Tiers without a complete chain in one host; with the closure `host`, in some host in use."""
    there: dict[int, set[tuple[int, int, int]]] = defaultdict(set)
    units = problem.units
    for u, g in zip(*(index.tolist() for index in np.nonzero(count)), strict=True):
        there[problem.devices[g].host].add(units[u])
    held = {host: _complete(problem, present) for host, present in there.items()}
    everywhere = set().union(*held.values()) if held else set()
    for i, tier in enumerate(problem.tiers):
        if i not in everywhere:
            yield f"tier {tier.name}: has no complete chain of instances in one host"
        elif problem.closure == "host":
            without = [host for host, tiers in held.items() if i not in tiers]
            if without:
                yield f"tier {tier.name}: host {without[0]} is in use and does not hold it"


def _complete(problem: Problem, present: set[tuple[int, int, int]]) -> set[int]:
    return {
        i
        for i, tier in enumerate(problem.tiers)
        for v, variant in enumerate(tier.variants)
        if all((i, v, s) in present for s in range(variant.stages))
    }


def _loads(problem: Problem, solution: Solution) -> Iterator[str]:
    """Whether the stages of every chain agree in every host, and every tier serves its share of the rate."""
    served = _served(problem, solution.busy)
    chain: dict[tuple[int, int, int], list[float]] = {}
    for (i, v, s, host), rows in served.items():
        stages = problem.tiers[i].variants[v].stages
        chain.setdefault((i, v, host), [0.0] * stages)[s] += rows
    tier = np.zeros(len(problem.tiers))
    at_host: dict[int, FloatArray] = defaultdict(lambda: np.zeros(len(problem.tiers)))
    slack = TOLERANCE * solution.rate_rps
    for (i, v, host), stage in chain.items():
        if max(stage) - min(stage) > slack:
            yield (
                f"tier {problem.tiers[i].name} (variant {v}): its stages in host {host} serve "
                f"{min(stage):.3f} to {max(stage):.3f} rows/s"
            )
        tier[i] += min(stage)
        at_host[host][i] += min(stage)
    reach = np.array([t.reach for t in problem.tiers])
    for i, named in enumerate(problem.tiers):
        if abs(tier[i] - reach[i] * solution.rate_rps) > slack * max(float(reach[i]), 1e-3):
            yield (f"tier {named.name}: serves {tier[i]:.3f} rows/s, not {reach[i] * solution.rate_rps:.3f}")
    if problem.closure == "host" and (reach > 0.0).any():
        for host, here in at_host.items():
            own = here[reach > 0.0] / reach[reach > 0.0]
            if own.max() - own.min() > slack:
                yield f"host {host}: its tiers serve different shares of the rows that it gets"


def _served(problem: Problem, busy: FloatArray) -> dict[tuple[int, int, int, int], float]:
    """Rows/s by tier, variant, stage and host."""
    served: dict[tuple[int, int, int, int], float] = defaultdict(float)
    for u, g in zip(*(index.tolist() for index in np.nonzero(busy)), strict=True):
        unit, device = problem.units[u], problem.devices[g]
        seconds = problem.tiers[unit.tier].variants[unit.variant].seconds_per_row.get(device.type)
        if seconds is not None:
            served[*unit, device.host] += float(busy[u, g]) / seconds
    return served


def _rate(problem: Problem, solution: Solution) -> Iterator[str]:
    highest = highest_rate(problem, solution.count, solution.rate_rps)
    goal = problem.goal.rate_rps
    if goal is not None and abs(solution.rate_rps - goal) > TOLERANCE * goal:
        yield f"the rate is {solution.rate_rps:.6f} rows/s, the goal {goal:.6f}"
    if solution.rate_rps > highest * (1.0 + TOLERANCE):
        yield f"{solution.rate_rps:.6f} rows/s are said, the placement sustains {highest:.6f}"
    if goal is None and solution.rate_rps < highest * (1.0 - TOLERANCE):
        yield f"only {solution.rate_rps:.6f} rows/s are said, the placement sustains {highest:.6f}"


def _value(problem: Problem, solution: Solution) -> Iterator[str]:
    value = solution.rate_rps
    sign = 1.0
    if problem.goal.rate_rps is not None:
        sign = -1.0
        used = [g for g, there in enumerate(solution.count.any(axis=0).tolist()) if there]
        value = float(len(used))
        if problem.goal.minimise == "energy":
            value = sum(problem.devices[g].idle_w for g in used) + _dynamic_w(problem, solution.busy)
    slack = TOLERANCE * max(abs(value), abs(solution.value))
    if not abs(solution.value - value) <= slack:
        yield f"the value is said to be {solution.value:.6f}, it is {value:.6f}"
    if not sign * (solution.value - solution.bound) <= TOLERANCE * max(abs(solution.bound), abs(value)):
        yield f"the value {solution.value:.6f} beats the bound {solution.bound:.6f}, said to be proven"


def _dynamic_w(problem: Problem, busy: FloatArray) -> float:
    watts = 0.0
    for u, g in zip(*(index.tolist() for index in np.nonzero(busy)), strict=True):
        variant, kind = problem.variant(problem.units[u]), problem.devices[g].type
        watts += float(busy[u, g]) / variant.seconds_per_row[kind] * variant.energy_j.get(kind, 0.0)
    return watts
