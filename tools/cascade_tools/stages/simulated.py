"""Makes what the simulator needs of the artifacts of a planned cascade."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from cascade_tools.artifacts import (
    Exported,
    Gear,
    GearPlan,
    LadderTier,
    Partition,
    PlacedInstances,
    Placement,
    Profile,
    ProfilePoint,
    WorkCost,
)
from cascade_tools.artifacts.profile import LOCAL_FORMATS, AskCost
from cascade_tools.errors import UsageError
from cascade_tools.planning.simulator.service import service_time
from cascade_tools.planning.simulator.system import (
    Loss,
    Recorded,
    SimDevice,
    SimGear,
    SimRouter,
    SimTier,
    System,
    Work,
)
from cascade_tools.repository.render import nice_of
from cascade_tools.runtime.plan import parse_policy
from cascade_tools.spec import Cascade, DeviceGroup, load_devices
from cascade_tools.stages.calibrate import SCORES_FILE
from cascade_tools.stages.export import EXPORTED_FILE
from cascade_tools.stages.gears import GEARS_FILE
from cascade_tools.stages.place import PLACEMENT_FILE
from cascade_tools.stages.profile import PROFILE_FILE
from cascade_tools.store import Workspace, load_score_table

WEIGHT_OF_NICE = 1 / 1.25  # Linux: of one step of priority


class Planned(NamedTuple):
    """The artifacts that a system is made of."""

    cascade: Cascade
    profile: Profile
    placement: Placement
    plan: GearPlan
    exported: Exported


def load_planned(work: Workspace) -> Planned:
    """Read them.

    Raises:
        ArtifactError: one is missing; says which verb makes it.
    """
    return Planned(
        cascade=work.cascade,
        profile=work.load(PROFILE_FILE, Profile, "profile"),
        placement=work.load(PLACEMENT_FILE, Placement, "place"),
        plan=work.load(GEARS_FILE, GearPlan, "gears"),
        exported=work.load(EXPORTED_FILE, Exported, "export"),
    )


def system_of(work: Workspace, losses: tuple[Loss, ...] = (), *, client_here: bool = False) -> System:
    """The system that a planned cascade will be on the embedded server.

    Args:
        work: with all stages up to the gears.
        losses: devices that are lost meanwhile.
        client_here: the client is on the router's machine and takes of its CPU time, too.

    Raises:
        ArtifactError: a stage has not run.
        UsageError: a loss names no device, or the router's; or the profile has nothing for a device.
    """
    return with_losses(make_system(load_planned(work), client_here), losses)


def with_losses(system: System, losses: tuple[Loss, ...]) -> System:
    """The same system, in which devices are lost.

    Raises:
        UsageError: a loss names no device, or the router's.
    """
    for loss in losses:
        what = f"--lose {loss.device}@{loss.at_s:g}"
        if not 0 <= loss.device < len(system.devices):
            raise UsageError(f"{what}: the plan has devices 0 to {len(system.devices) - 1}")
        if loss.device == system.router.device:
            raise UsageError(f"{what}: that device runs the router; without it nothing is served")
    return replace(system, losses=losses)


def make_system(planned: Planned, client_here: bool = False) -> System:
    """The same from artifacts that are at hand.

    Raises:
        UsageError: the profile has nothing for a device.
    """
    groups = {group.type: group for group in load_devices(planned.cascade).devices}
    devices = tuple(
        SimDevice(device.type, device.host, _idle_w(planned, groups.get(device.type), device.type))
        for device in planned.placement.devices
    )
    home = next((n for n, d in enumerate(planned.placement.devices) if d.kind == "cpu"), None)
    group = None if home is None else groups.get(devices[home].type)
    plan = planned.plan
    return System(
        tiers=tuple(_tier(planned, tier) for tier in plan.ladder),
        devices=devices,
        router=_router(planned, home, 1 if group is None else group.cores or 1, client_here),
        gears=tuple(map(sim_gear, plan.gears)),
        fallbacks=tuple(
            (frozenset(entry.without), tuple(map(sim_gear, entry.gears))) for entry in plan.fallbacks
        ),
        alpha=plan.hysteresis.alpha,
        window_ms=plan.hysteresis.window_ms,
    )


def recorded_of(work: Workspace) -> Recorded:
    """What the tiers say of the held-out rows (all that no head was fitted on).

    Raises:
        ArtifactError: there is no score table.
    """
    table = load_score_table(work.path(SCORES_FILE), f"run `{work.command('calibrate')}`")
    held_out = table.where(table.split != "fit")
    return Recorded(
        confidence=np.ascontiguousarray(held_out.confidence),
        correct=held_out.label == held_out.target[:, None],
    )


def sim_gear(gear: Gear) -> SimGear:
    """A gear of the plan, parsed as the router parses it."""
    policy = parse_policy(gear.policy.model_dump(), "policy")
    return SimGear(gear.up_to_rps, policy, gear.min_queue, gear.max_wait_ms)


def _idle_w(planned: Planned, group: DeviceGroup | None, kind: str) -> float | None:
    """What the device file says, else what `profile` read from the meter."""
    given = None if group is None else group.idle_watts
    return planned.profile.idle_watts.get(kind) if given is None else given


def _tier(planned: Planned, tier: LadderTier) -> SimTier:
    profile, largest = planned.profile, planned.plan.limits.max_batch_size
    mine = [placed for placed in planned.placement.instances if placed.tier == tier.tier]
    types = dict.fromkeys(planned.placement.devices[placed.device].type for placed in mine)
    points = {kind: profile.points_of(tier.tier, kind) for kind in types}
    missing = [kind for kind in types if not points[kind]]
    if missing or not types:
        what = f"device type {missing[0]!r}" if missing else "it"
        raise UsageError(
            f"tier {tier.tier}: the {'profile' if missing else 'placement'} has nothing for {what}",
            "run `cascade-tools run`",
        )
    partition = _partition(planned.exported, tier.tier)
    stages = max(placed.stages for placed in mine) if partition is None else len(partition.stages)
    local = stages == 1 and _is_local(planned, tier, mine[0].device)
    cost = profile.ask_cost(tier.tier, inline=local)
    if profile.router is not None and not local:
        cost = AskCost(profile.router.server.call_ms, profile.router.server.call_ms)
    served = {kind: _as_served(profile, points[kind], local=local) for kind in types}
    return SimTier(
        name=tier.tier,
        service={kind: service_time(served[kind], largest) for kind in types},
        instances=tuple(_homes(mine, number) for number in range(1, stages + 1)),
        stage_shares=() if partition is None else _shares(partition),
        ask_ms=cost.latency_ms,
        ask_cpu_ms=cost.cpu_ms,
        local=local,
        planned_ms=tier.p50_ms,
        further_row_ms=tier.further_row_ms,
        weight=_weight(planned, tier, mine),
    )


def _weight(planned: Planned, tier: LadderTier, placed: list[PlacedInstances]) -> float:
    """Of a tier on CPUs whose config we render; what was adopted has whatever priority it has."""
    on_cpu = all(planned.placement.devices[one.device].kind == "cpu" for one in placed)
    return WEIGHT_OF_NICE ** nice_of(planned.plan, tier) if on_cpu and tier.adopted is None else 1.0


def _as_served(profile: Profile, points: Sequence[ProfilePoint], *, local: bool) -> list[ProfilePoint]:
    """The points with the time of a batch that is run once, between other work.

    `latency_p50_ms` is that of a batch run again and again, with all of it in the caches; what the server
    counts beyond it, and beyond a call that does nothing, is what a first run takes longer. That is about the
    same for every batch size, and the rest is noise: the least counts. A batch that was not repeated has it
    in its time. Where the costs of calls are not known, they have it.
    """
    known = [point.overhead_ms for point in points if point.overhead_ms]
    if profile.hop is None or not known or (profile.router is None and not local):
        return list(points)
    longer_ms = max(0.0, min(known) - profile.hop.latency_ms)
    return [
        point.model_copy(update={"latency_p50_ms": point.latency_p50_ms + longer_ms})
        if point.overhead_ms
        else point
        for point in points
    ]


def _homes(placed: list[PlacedInstances], stage: int) -> tuple[int, ...]:
    """The device of every instance of a stage; of what is placed whole, every stage has all."""
    here = [entry for entry in placed if entry.stages == 1 or entry.stage == stage]
    return tuple(entry.device for entry in here for _ in range(entry.count))


def _is_local(planned: Planned, tier: LadderTier, device: int) -> bool:
    """The embedded server's router runs the tier itself; see `runtime/local.py`."""
    return (
        tier.adopted is None
        and planned.profile.at(tier.tier, 1).format in LOCAL_FORMATS
        and tier.p50_ms <= planned.plan.limits.inline_entry_ms
        and planned.placement.devices[device].kind == "cpu"
    )


def _partition(exported: Exported, tier: str) -> Partition | None:
    return next((entry.partition for entry in exported.tiers if entry.tier == tier), None)


def _shares(partition: Partition) -> tuple[float, ...]:
    """What every stage takes of the time of the whole graph; together more than 1 by what cutting costs."""
    return tuple(stage.time_ms / partition.whole_ms for stage in partition.stages)


def _router(planned: Planned, home: int | None, cores: int, client_here: bool) -> SimRouter:
    limits, cost = planned.plan.limits, planned.profile.router
    router = SimRouter(
        max_batch_size=limits.max_batch_size,
        rows_in_flight=limits.rows_in_flight,
        escalation_threads=limits.escalation_threads,
        inline_entry_ms=limits.inline_entry_ms,
        device=home,
        cores=cores,
        client_here=client_here,
        instances=limits.router_instances,
    )
    if cost is None:
        return router
    return replace(
        router,
        own=_work(cost.router),
        server=_work(cost.server),
        client=_work(cost.client),
        rest_ms=cost.rest_ms,
    )


def _work(cost: WorkCost) -> Work:
    return Work(**cost.model_dump())
