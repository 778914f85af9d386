"""Solves a placement problem, checks the answer, and describes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from time import perf_counter
from typing import Literal, NamedTuple

import numpy as np

from cascade_tools.artifacts import PlacedDevice, PlacedInstances, Placement, Taken
from cascade_tools.errors import CheckFailed
from cascade_tools.planning.placement.balance import balance
from cascade_tools.planning.placement.baselines.baselines import (
    giant_alone,
    in_problem_alone,
    settled,
    ways,
)
from cascade_tools.planning.placement.baselines.giant_only import giant_problem
from cascade_tools.planning.placement.ceiling import ceiling_rps
from cascade_tools.planning.placement.losses import ReachWithout
from cascade_tools.planning.placement.problem import Goal, IntArray, Problem, Solution, Variant
from cascade_tools.planning.placement.solve import solve
from cascade_tools.planning.placement.verify import verify
from cascade_tools.stages.lost import what_is_left
from cascade_tools.stages.solver_output import solver_output_on_stderr

TIME_LIMIT_S = 20.0


@dataclass(frozen=True)
class Planned:
    """An answer beside the simple ones.

    Attributes:
        problem: that was solved.
        simple: the baselines, by the same goal; None for those that are infeasible.
        giant_alone: the last tier alone at the highest rate.
        seconds: that the search and the baselines took.
    """

    problem: Problem
    solution: Solution
    simple: Mapping[str, Solution | None]
    giant_alone: Solution | None
    seconds: float


class Named(NamedTuple):
    """What the problem does not know of a device."""

    kind: Literal["cpu", "gpu"]
    memory_mib: int


def planned(problem: Problem, wanted: IntArray | None = None, *, keep_giant: bool = False) -> Planned:
    """Solve a problem.

    Args:
        problem: without `at_least`.
        wanted: instances [units, devices] that are there anyhow.
        keep_giant: the last tier keeps what it would have alone, where that fits beside the others and the
            goal is the highest rate: a request may fall back on it.

    Raises:
        Infeasible: there is no placement; names the constraint.
        CheckFailed: the answer does not hold; a defect.
    """
    with solver_output_on_stderr():
        began = perf_counter()
        alone, counts = giant_alone(problem), ways(problem)
        simple = {"giant_only": alone, **settled(problem, counts)}
        if problem.goal.rate_rps is not None:
            alone = giant_alone(replace(problem, goal=Goal()))
        elif keep_giant and alone is not None:
            wanted = alone.count if wanted is None else np.maximum(wanted, alone.count)
        problem = replace(problem, at_least=wanted)
        # Those that keep what is wanted anyhow.
        floors = simple if wanted is None else settled(problem, counts)
        solution = solve(problem, TIME_LIMIT_S, floors)
        seconds = perf_counter() - began
    wrong = verify(problem, solution)
    if wrong:
        raise CheckFailed("the placement does not hold: " + "; ".join(wrong))
    return Planned(problem, solution, simple, alone, seconds)


def placement_of(
    found: Planned,
    devices: Sequence[Named],
    cascade: str,
    made_from: dict[str, str],
    *,
    skips: bool = True,
    without: ReachWithout | None = None,
) -> Placement:
    """The answer as an artifact.

    Args:
        found: the answer.
        devices: of the problem, in its order.
        cascade: its name; empty where there is none.
        made_from: digests of what was read.
        skips: whether rows may pass over a tier; true where that is not known.
        without: the reach of the policy that serves without some tiers, where there are policies.
    """
    problem, solution = found.problem, found.solution
    ceiling = ceiling_rps(problem)
    highest = problem.goal.rate_rps is None
    bound_rps = min(ceiling, solution.bound) if highest else ceiling
    bound = solution.bound if isfinite(solution.bound) else ceiling
    return Placement(
        cascade=cascade,
        made_from=made_from,
        rule=problem.rule,
        closure=problem.closure,
        rate_rps=solution.rate_rps,
        could_rps=max(solution.rate_rps, 0.0 if highest else balance(problem, solution.count)[0]),
        bound_rps=max(bound_rps, solution.rate_rps),
        gap=replace(solution, bound=bound).gap,
        status=solution.status,
        method=solution.method,
        minimise=None if highest else problem.goal.minimise,
        value=solution.value,
        bound=bound,
        giant_only_rps=None if found.giant_alone is None else found.giant_alone.rate_rps,
        baselines={name: None if one is None else one.rate_rps for name, one in found.simple.items()},
        baselines_take={} if highest else {name: _taken(one) for name, one in found.simple.items()},
        batch=_batches(problem, solution),
        energy_j=energy_per_row(problem, solution),
        giant_energy_j=_giant_energy_j(problem, found.giant_alone),
        devices=_devices(problem, solution, devices),
        instances=instances_of(problem, solution),
        losses=what_is_left(problem, solution, skips=skips, without=without),
    )


def _taken(one: Solution | None) -> Taken | None:
    return None if one is None else Taken(devices=int((one.count.sum(axis=0) > 0).sum()), value=one.value)


def energy_per_row(problem: Problem, solution: Solution) -> float | None:
    """Dynamic J of one row at the solution's rate; None where a tier that is used has none.

    What asking takes is left out where nothing is known of it.
    """
    if solution.rate_rps <= 0.0:
        return None
    watts = 0.0
    for u, g in np.argwhere(solution.busy > 0.0).tolist():
        unit, kind = problem.units[u], problem.devices[g].type
        variant = problem.variant(unit)
        energy_j = variant.energy_j.get(kind)
        if energy_j is None and problem.tiers[unit.tier].overhead:
            continue
        if energy_j is None:
            return None
        watts += float(solution.busy[u, g]) / variant.seconds_per_row[kind] * energy_j
    return watts / solution.rate_rps


def _giant_energy_j(problem: Problem, alone: Solution | None) -> float | None:
    """Dynamic J of one row where the last tier answers alone."""
    return None if alone is None else energy_per_row(giant_problem(problem), in_problem_alone(problem, alone))


def _batches(problem: Problem, solution: Solution) -> dict[str, int]:
    """By tier, the batch of the variant that does most of its rows."""
    most = dict.fromkeys(range(len(problem.tiers)), -1.0)
    batch: dict[str, int] = {}
    for u, unit in enumerate(problem.units):
        if problem.tiers[unit.tier].overhead:
            continue
        variant = problem.variant(unit)
        done = sum(
            float(busy) / variant.seconds_per_row[device.type]
            for busy, device in zip(solution.busy[u], problem.devices, strict=True)
            if busy > 0.0
        )
        if unit.stage == 0 and done > most[unit.tier]:
            most[unit.tier] = done
            batch[problem.tiers[unit.tier].name] = variant.batch
    return batch


def _devices(problem: Problem, solution: Solution, named: Sequence[Named]) -> tuple[PlacedDevice, ...]:
    units = problem.units
    variants = [problem.variant(unit) for unit in units]
    seen: dict[int, int] = {}
    found = []
    for g, (device, name) in enumerate(zip(problem.devices, named, strict=True)):
        gpu = None
        if name.kind == "gpu":
            gpu = seen[device.host] = seen.get(device.host, -1) + 1
        here = np.flatnonzero(solution.count[:, g]).tolist()
        found.append(
            PlacedDevice(
                type=device.type,
                kind=name.kind,
                gpu=gpu,
                host=device.host,
                memory_mib=name.memory_mib,
                used_memory_mib=sum(variants[u].held_mib(int(solution.count[u, g])) for u in here),
                busy_share=sum(variants[u].utilization[device.type] * solution.busy[u, g] for u in here),
            )
        )
    return tuple(found)


def instances_of(problem: Problem, solution: Solution) -> tuple[PlacedInstances, ...]:
    """The instances of the tiers of an answer."""
    found = []
    for u, g in np.argwhere(solution.count > 0).tolist():
        unit = problem.units[u]
        variant, tier = problem.variant(unit), problem.tiers[unit.tier]
        if not tier.overhead:
            found.append(
                PlacedInstances(
                    tier=tier.name,
                    stages=variant.stages,
                    stage=unit.stage + 1,
                    batch=variant.batch,
                    device=g,
                    count=int(solution.count[u, g]),
                    busy_instances=float(solution.busy[u, g]),
                    rows_rps=_rows_rps(float(solution.busy[u, g]), variant, problem.devices[g].type),
                )
            )
    return tuple(found)


def _rows_rps(busy: float, variant: Variant, device_type: str) -> float:
    return busy / variant.seconds_per_row[device_type] if busy > 0.0 else 0.0
