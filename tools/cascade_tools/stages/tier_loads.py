"""What the placement needs to know of a cascade: its tiers as loads, its devices, as one problem."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import ceil, fsum

from cascade_tools.artifacts import Exported, Partition, Profile, ProfilePoint
from cascade_tools.errors import UsageError
from cascade_tools.planning.curves import memory_at, point_at
from cascade_tools.planning.memory import held_mib
from cascade_tools.planning.placement.problem import Device, Goal, Problem, TierLoad, Variant
from cascade_tools.spec import Cascade, DeviceGroup, RateGoal, host_numbers, load_devices
from cascade_tools.stages.asking import asking_of
from cascade_tools.stages.export import EXPORTED_FILE
from cascade_tools.stages.search import GOOD_ENOUGH_THROUGHPUT, planned_point
from cascade_tools.store import Workspace

WORTH_ANOTHER_BATCH = 0.9  # of the work per row at the planned batch


def problem_of(
    cascade: Cascade,
    profile: Profile,
    partitions: Mapping[str, Partition],
    reach: Mapping[str, float],
    *,
    skips: bool = True,
) -> Problem:
    """The placement problem of a cascade: what asking costs comes first, then the tiers, smallest first.

    Args:
        cascade: its tiers, devices and section `placement`.
        profile: has figures for every device type.
        partitions: of the tiers that are cut into stages.
        reach: share of all rows that each tier sees.
        skips: whether rows may pass over a tier; true where that is not known.

    Raises:
        UsageError: a device type was not profiled, or no energy is known where it is to be minimised.
    """
    groups = load_devices(cascade).devices
    rule = "loose" if all(group.kind == "cpu" for group in groups) else cascade.placement.rule
    kinds = tuple(dict.fromkeys(group.type for group in groups))
    tiers = tuple(
        TierLoad(
            name=name,
            reach=reach[name],
            variants=tuple(
                _variant(cascade, profile, name, kinds, batch, partitions.get(name))
                for batch in _batches(cascade, profile, name, kinds, rule)
            ),
            instances=profile.instances.get(name),
        )
        for name in cascade.tier_names
    )
    asking = asking_of(cascade, profile, reach, skips=skips).load
    problem = Problem(
        tiers=tiers if asking is None else (asking, *tiers),
        devices=_devices(profile, groups),
        rule=rule,
        goal=goal_of(cascade.placement.objective),
        closure=cascade.placement.closure,
    )
    _need_energy(cascade, problem)
    return problem


def goal_of(objective: RateGoal | None) -> Goal:
    """The goal of a spec; None is the highest rate."""
    return Goal() if objective is None else Goal(objective.rate_rps, objective.minimise)


def partitions_of(work: Workspace) -> dict[str, Partition]:
    """How the tiers were cut that are served in stages; nothing is read where none is."""
    names = [tier.name for tier in work.cascade.tiers if tier.stages > 1]
    if not names:
        return {}
    exported = work.load(EXPORTED_FILE, Exported, "export")
    found = {name: exported.tier(name).partition for name in names}
    return {name: partition for name, partition in found.items() if partition is not None}


def expand(cascade: Cascade) -> list[DeviceGroup]:
    """One entry per device, in the order of the device file."""
    return [group for group in load_devices(cascade).devices for _ in range(group.count)]


def _devices(profile: Profile, groups: tuple[DeviceGroup, ...]) -> tuple[Device, ...]:
    hosts = host_numbers(groups)
    single = [group for group in groups for _ in range(group.count)]
    return tuple(
        Device(
            type=group.type,
            memory_mib=group.memory_mib - group.reserved_mib,
            host=host,
            # What a CPU draws it draws anyhow.
            idle_w=0.0
            if group.kind == "cpu"
            else profile.idle_watts.get(group.type, 0.0)
            if group.idle_watts is None
            else group.idle_watts,
        )
        for group, host in zip(single, hosts, strict=True)
    )


def _points(cascade: Cascade, profile: Profile, tier: str, kind: str) -> tuple[ProfilePoint, ...]:
    points = profile.points_of(tier, kind)
    if not points:
        raise UsageError(
            f"{cascade.folder / cascade.devices}: the profile has no figures for device type {kind!r}"
            f" (tier {tier})"
        )
    return points


def _batches(
    cascade: Cascade, profile: Profile, tier: str, kinds: tuple[str, ...], rule: str
) -> tuple[int, ...]:
    """The planned batch size, and another one if a row is clearly less work there.

    Where only busy instances count (loose), the other one must be as good in throughput as the planned one
    has to be. Where all that are resident count (strict), smaller batches leave room for other tiers.
    """
    largest = cascade.serving.max_batch_size
    planned = planned_point(profile, tier, largest).batch

    def work(batch: int) -> float:
        points = [point_at(_points(cascade, profile, tier, kind), batch) for kind in kinds]
        return fsum(p.kernel_utilization * p.latency_p50_ms / p.batch for p in points)

    possible = [point for point in profile.points_of(tier) if point.batch <= largest]
    if rule == "loose":
        best = max((point.throughput_rps for point in possible), default=0.0)
        possible = [p for p in possible if p.throughput_rps >= GOOD_ENOUGH_THROUGHPUT * best]
    other = min((point.batch for point in possible), key=work, default=planned)
    return (planned, other) if work(other) < WORTH_ANOTHER_BATCH * work(planned) else (planned,)


def _variant(
    cascade: Cascade,
    profile: Profile,
    tier: str,
    kinds: tuple[str, ...],
    batch: int,
    partition: Partition | None,
) -> Variant:
    """One tier in batches of one size, whole or in the stages that it was cut into."""
    points = {kind: point_at(_points(cascade, profile, tier, kind), batch) for kind in kinds}
    # Triton may send the largest batch, and what an instance took for it stays taken.
    largest = cascade.serving.max_batch_size
    own = max(memory_at(profile.points_of(tier, kind), largest) for kind in kinds)
    shared = max(point.shared_mib for point in points.values())
    whole = Variant(
        stages=1,
        batch=batch,
        seconds_per_row={kind: p.latency_p50_ms / 1000.0 / p.batch for kind, p in points.items()},
        utilization={kind: point.kernel_utilization for kind, point in points.items()},
        memory_mib=ceil(held_mib(own, shared, 1)),
        further_mib=ceil(own),
        energy_j={kind: point.energy_j for kind, point in points.items() if point.energy_j is not None},
    )
    return whole if partition is None else _staged(whole, partition)


def _staged(whole: Variant, partition: Partition) -> Variant:
    """The tier in stages: each counts as the slowest and as the largest of them.

    A stage runs on as much of the device as the whole, and holds what the whole holds beside its weights.
    """
    stages = partition.stages
    slowest = max(stage.time_ms for stage in stages) / partition.whole_ms
    together = fsum(stage.time_ms for stage in stages) / partition.whole_ms
    others = fsum(stage.weights_mib for stage in stages) - max(stage.weights_mib for stage in stages)
    less = min(int(others), whole.further_mib)
    return replace(
        whole,
        stages=len(stages),
        seconds_per_row={kind: slowest * value for kind, value in whole.seconds_per_row.items()},
        memory_mib=whole.memory_mib - less,
        further_mib=whole.further_mib - less,
        energy_j={kind: together / len(stages) * value for kind, value in whole.energy_j.items()},
    )


def _need_energy(cascade: Cascade, problem: Problem) -> None:
    if problem.goal.rate_rps is None or problem.goal.minimise != "energy":
        return
    for tier in problem.tiers:
        for kind in tier.variants[0].seconds_per_row:
            if not tier.overhead and kind not in tier.variants[0].energy_j:
                raise UsageError(
                    f"{cascade.folder / 'cascade.yaml'}: placement.objective.minimise: energy, but the "
                    f"profile knows no energy of tier {tier.name} on {kind}",
                    "profile with a readable meter, give `busy_watts` in the device file, or minimise gpus",
                )
