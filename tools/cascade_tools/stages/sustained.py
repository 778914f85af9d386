"""What a placement sustains with another policy than the one that it was made for."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from cascade_tools.artifacts import PlacedInstances, Placement, Profile, RoutingPolicy
from cascade_tools.errors import ArtifactError
from cascade_tools.planning.placement.balance import balance
from cascade_tools.planning.placement.problem import IntArray, Problem
from cascade_tools.stages.asking import has_skips
from cascade_tools.stages.place import PLACEMENT_FILE
from cascade_tools.stages.search import POLICY_FILE
from cascade_tools.stages.tier_loads import partitions_of, problem_of
from cascade_tools.store import Workspace


def sustained_by(
    work: Workspace, profile: Profile, placement: Placement
) -> Callable[[Mapping[str, float]], float]:
    """From the share of rows that each tier sees to rows/s.

    Raises:
        ArtifactError: when called, if the placement is of other variants than the cascade has now.
    """
    partitions, skips = partitions_of(work), _may_skip(work)

    def sustained(reach: Mapping[str, float]) -> float:
        problem = problem_of(work.cascade, profile, partitions, reach, skips=skips)
        return balance(problem, placed_counts(work, problem, placement))[0]

    return sustained


def _may_skip(work: Workspace) -> bool:
    """Whether rows pass over a tier in some policy that the search kept; true where there is none."""
    if not work.cascade.has_models:
        return True
    policy = work.load(POLICY_FILE, RoutingPolicy, "search")
    kept = (policy.reference, policy.chosen, *policy.alternatives)
    return any(has_skips(one.table) for one in kept)


def placed_counts(work: Workspace, problem: Problem, placement: Placement) -> IntArray:
    """Instances of every unit of a problem on every device, [units, devices].

    What asking costs is no instance of a placement: it is there wherever it can be.
    """
    count = np.zeros((len(problem.units), len(problem.devices)), np.int64)
    for u, unit in enumerate(problem.units):
        if problem.tiers[unit.tier].overhead:
            able = problem.variant(unit).seconds_per_row
            count[u] = [device.type in able for device in problem.devices]
    for placed in placement.instances:
        units = _units_of(problem, placed, placed.batch or placement.batch[placed.tier])
        if not units or placed.device >= count.shape[1]:
            raise ArtifactError(
                f"{work.path(PLACEMENT_FILE)}: places {placed.tier} otherwise than the profile has it now, "
                "or on other devices",
                f"run `{work.command('place')}`",
            )
        count[units, placed.device] = placed.count
    return count


def _units_of(problem: Problem, placed: PlacedInstances, batch: int) -> list[int]:
    """The units that instances belong to: one, or all stages, where a whole tier was placed."""
    found = []
    for u, unit in enumerate(problem.units):
        variant = problem.variant(unit)
        whole = placed.stages == 1 or (placed.stages, placed.stage) == (variant.stages, unit.stage + 1)
        if problem.tiers[unit.tier].name == placed.tier and variant.batch == batch and whole:
            found.append(u)
    return found
