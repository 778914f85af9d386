"""What a placement sustains with another policy than the one that it was made for."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

import numpy as np

from cascade_tools.artifacts import (
    Lost,
    PlacedInstances,
    Placement,
    PolicyTable,
    PredictedPolicy,
    Profile,
)
from cascade_tools.errors import ArtifactError
from cascade_tools.planning.placement.balance import balance
from cascade_tools.planning.placement.problem import IntArray, Problem
from cascade_tools.stages.asking import has_skips
from cascade_tools.stages.place import PLACEMENT_FILE
from cascade_tools.stages.tier_loads import partitions_of, problem_of
from cascade_tools.store import Workspace

Sustained = Callable[[Mapping[str, float], PolicyTable | None], float]


def sustained_by(work: Workspace, profile: Profile, placement: Placement) -> Sustained:
    """From the share of rows that each tier sees, and its policy (None where none is known), to rows/s.

    Raises:
        ArtifactError: when called, if the placement is of other variants than the cascade has now.
    """
    partitions = partitions_of(work)

    def sustained(reach: Mapping[str, float], table: PolicyTable | None) -> float:
        skips = table is None or has_skips(table)
        problem = problem_of(work.cascade, profile, partitions, reach, skips=skips)
        return balance(problem, placed_counts(work, problem, placement))[0]

    return sustained


def sustained_without(
    lost: Collection[str], policy: PredictedPolicy, sustained: Sustained, losses: Iterable[Lost]
) -> float | None:
    """The highest rate (rows/s) without some tiers: the least over all that may take them away.

    One tier can be broken while all devices are there; several at once are gone with a device or a host. What
    takes the router away, too, says nothing: nothing is served then.

    Args:
        lost: these tiers.
        policy: that serves without them.
        sustained: by the placement, see `sustained_by`.
        losses: of the placement.

    Returns:
        None where nothing that still serves takes just these.
    """
    rates = [sustained(policy.reach, policy.table)] if len(lost) == 1 else []
    left = (one.rate_rps for one in losses if set(one.homeless) == set(lost))
    return min((*rates, *(rate for rate in left if rate is not None)), default=None)


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
