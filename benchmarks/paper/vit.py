"""The published vision transformers of `ensembles/vit-cluster`, to be planned and to be simulated."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cascade_tools.artifacts import Profile, ProfilePoint
from cascade_tools.planning.curves import point_at
from cascade_tools.planning.evaluate import threshold_policy
from cascade_tools.planning.placement.problem import Problem, Solution, TierLoad, Variant
from cascade_tools.planning.simulator.system import (
    Recorded,
    ServiceTime,
    SimDevice,
    SimGear,
    SimRouter,
    SimTier,
    System,
)
from cascade_tools.runtime.plan import parse_policy
from cascade_tools.spec import load_cascade
from cascade_tools.stages.given_profile import read_profile

FOLDER = Path("ensembles/vit-cluster")
LARGE_GPU, SMALL_GPU = "gpu-24gb", "gpu-16gb"
RESERVED_MIB = 600
FULLEST = 0.98  # the highest utilization that a busy instance is taken to have
DRAWN_ROWS = 20_000
SEED = 0

Change = Callable[[ProfilePoint], ProfilePoint]


@dataclass(frozen=True)
class Ladder:
    """Tier names with the share of rows that each sees, and their given profile."""

    reach: dict[str, float]
    profile: Profile


def published() -> Ladder:
    """The ladder as it ships: the policy that keeps the giant's accuracy."""
    cascade = load_cascade(FOLDER)
    assert cascade.profile.given is not None
    profile = read_profile(cascade, cascade.folder / cascade.profile.given)
    return Ladder({tier.name: tier.reach or 0.0 for tier in cascade.tiers}, profile)


def as_given(point: ProfilePoint) -> ProfilePoint:
    """The point itself."""
    return point


def half_as_wide(point: ProfilePoint) -> ProfilePoint:
    """The same batch on a GPU with half the units: what filled a share of the large one fills twice of it.

    Only beyond that it takes longer, so that utilization times time is twice as much.
    """
    wide = min(FULLEST, 2.0 * point.kernel_utilization)
    longer = 2.0 * point.kernel_utilization / wide
    return point.model_copy(
        update={"kernel_utilization": wide, "latency_p50_ms": point.latency_p50_ms * longer}
    )


def tier_loads(
    ladder: Ladder, batches: Sequence[int], kind: str = LARGE_GPU, change: Change = as_given
) -> tuple[TierLoad, ...]:
    """What the planner needs, for one type of GPU: every tier whole, in batches of these sizes."""
    loads = []
    for name, reach in ladder.reach.items():
        points = [change(point_at(ladder.profile.points_of(name, kind), batch)) for batch in batches]
        variants = tuple(
            Variant(
                stages=1,
                batch=point.batch,
                seconds_per_row={kind: point.latency_p50_ms / 1000.0 / point.batch},
                utilization={kind: point.kernel_utilization},
                memory_mib=math.ceil(point.memory_mib),
                further_mib=math.ceil(point.memory_mib),
            )
            for point in points
        )
        loads.append(TierLoad(name, reach, variants))
    return tuple(loads)


def resident_utilization(problem: Problem, solution: Solution) -> list[float]:
    """Sum over the instances on every device of the utilization that each has when it is busy."""
    return [
        sum(
            int(solution.count[u, g]) * problem.variant(unit).utilization[device.type]
            for u, unit in enumerate(problem.units)
        )
        for g, device in enumerate(problem.devices)
    ]


def held_mib(problem: Problem, solution: Solution) -> list[int]:
    """Memory that the instances on every device hold."""
    return [
        sum(problem.variant(unit).held_mib(int(solution.count[u, g])) for u, unit in enumerate(problem.units))
        for g in range(len(problem.devices))
    ]


def placed(problem: Problem, solution: Solution) -> str:
    """All instances in words, such as `2 tiny (batch 4), 1 large (batch 1)`."""
    return ", ".join(
        f"{int(solution.count[u].sum())} {problem.tiers[unit.tier].name} "
        f"(batch {problem.variant(unit).batch})"
        for u, unit in enumerate(problem.units)
        if solution.count[u].sum()
    )


def system(
    ladder: Ladder, problem: Problem, solution: Solution, batch: int, kind: str, change: Change
) -> System:
    """A placement as the simulator runs it, on GPUs of another type if need be.

    The router is on no GPU and is never in the way: what is simulated are the GPUs.

    Args:
        ladder: whose profile holds.
        problem: of the placement.
        solution: the placement.
        batch: the largest of all tiers.
        kind: whose points of the profile are taken for all GPUs.
        change: what happens to the points.
    """
    tiers = []
    for number, (name, load) in enumerate(zip(ladder.reach, problem.tiers, strict=True)):
        assert load.name == name
        points = [change(point_at(ladder.profile.points_of(name, kind), b)) for b in range(1, batch + 1)]
        count = sum(solution.count[u] for u, unit in enumerate(problem.units) if unit.tier == number)
        homes = tuple(g for g, many in enumerate(np.asarray(count).tolist()) for _ in range(int(many)))
        service = ServiceTime(
            time_ms=np.array([point.latency_p50_ms for point in points]),
            utilization=np.array([point.kernel_utilization for point in points]),
        )
        tiers.append(SimTier(name, {kind: service}, (homes,)))
    policy = threshold_policy(tuple(ladder.reach), [0.5] * (len(ladder.reach) - 1))
    return System(
        tiers=tuple(tiers),
        devices=tuple(SimDevice(kind) for _ in problem.devices),
        router=SimRouter(
            max_batch_size=batch, rows_in_flight=10**6, escalation_threads=10**6, inline_entry_ms=0.0
        ),
        gears=(SimGear(None, parse_policy(policy.model_dump(), "policy")),),
    )


def drawn(ladder: Ladder) -> Recorded:
    """Rows that reach each tier as often as it is given; nothing is said of their answers.

    A row that leaves a tier leaves the ones before it, too.
    """
    hard = np.random.default_rng(SEED).random(DRAWN_ROWS)
    reach = [*list(ladder.reach.values())[1:], 0.0]
    confidence = np.stack([(hard >= share) for share in reach], axis=1).astype(np.float32)
    return Recorded(confidence, np.ones(confidence.shape, bool))
