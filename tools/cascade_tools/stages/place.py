"""Places the tiers on the devices of the device file."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from cascade_tools.artifacts import PlacedDevice, PlacedInstances, Placement, Profile, RoutingPolicy
from cascade_tools.errors import CheckFailed, Infeasible, UsageError
from cascade_tools.planning.curves import memory_at, point_at
from cascade_tools.planning.memory import held_mib
from cascade_tools.planning.placement.direct import Device, Solution, TierLoad, verify
from cascade_tools.planning.placement.direct import place as place_tiers
from cascade_tools.spec import SPEC_FILE, Cascade, DeviceGroup, load_devices
from cascade_tools.stages.profile import PROFILE_FILE
from cascade_tools.stages.progress import Reporter
from cascade_tools.stages.search import POLICY_FILE, planned_point
from cascade_tools.store import Workspace, readable_disk_errors

PLACEMENT_FILE = "placement.json"
ASKING = "(asking)"  # no tier can have this name
UNBOUNDED = 10**6


def place(work: Workspace, made_from: dict[str, str], report: Reporter) -> None:
    """Write `placement.json`.

    Raises:
        Infeasible: the tiers do not fit; names the constraint.
        UsageError: the profile has no figures for a device type.
    """
    cascade = work.cascade
    profile = work.load(PROFILE_FILE, Profile, "profile")
    groups = expand(cascade)
    tiers = tier_loads(cascade, profile, _reach(work), groups)
    devices = tuple(Device(g.type, g.memory_mib - g.reserved_mib) for g in groups)
    giant_only = _giant_only(tiers[len(cascade.tiers) - 1], devices)
    # A request may fall back on the last tier alone, so it keeps what it would have by itself.
    at_least = np.zeros((len(tiers), len(devices)), np.int64)
    if giant_only is not None:
        at_least[len(cascade.tiers) - 1] = giant_only.count[0]
    for number, name in enumerate(cascade.tier_names):
        if name in profile.instances:  # of an adopted model: they are there
            at_least[number, 0] = profile.instances[name]
    with solver_output_on_stderr():
        solution = place_tiers(tiers, devices, at_least)
    problems = verify(tiers, devices, solution)
    if problems:
        raise CheckFailed("the placement does not hold: " + "; ".join(problems))
    report.say(f"  {solution.rate_rps:.0f} rows/s sustainable ({solution.status})")
    largest = cascade.serving.max_batch_size
    batch = {name: planned_point(profile, name, largest).batch for name in cascade.tier_names}
    with readable_disk_errors(work.build):
        work.save(
            PLACEMENT_FILE,
            _artifact(
                cascade,
                made_from,
                groups,
                tiers,
                solution,
                batch,
                giant_only.rate_rps if giant_only else None,
            ),
        )


def _reach(work: Workspace) -> dict[str, float]:
    """Share of all rows that each tier sees: of the policy, or as it is given where there are no models."""
    if work.cascade.has_models:
        return work.load(POLICY_FILE, RoutingPolicy, "search").chosen.reach
    reach = {tier.name: tier.reach for tier in work.cascade.tiers if tier.reach is not None}
    if not reach:
        raise UsageError(
            f"{work.cascade.folder / SPEC_FILE}: tiers.{work.cascade.tier_names[0]}.reach: missing; without "
            "models no policy can be searched",
            "give every tier the share of all rows that it sees, such as `reach: 0.4`",
        )
    return reach


@contextmanager
def solver_output_on_stderr() -> Iterator[None]:
    """HiGHS prints some of its troubles on file descriptor 1, which belongs to our own results."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def expand(cascade: Cascade) -> list[DeviceGroup]:
    """One entry per device, in the order of the device file."""
    return [group for group in load_devices(cascade).devices for _ in range(group.count)]


def placed_counts(cascade: Cascade, placement: Placement, loads: int) -> npt.NDArray[np.int64]:
    """Instances of every load on every device, [loads, devices].

    Hops are no instances: nothing but the busy share of the devices bounds them.
    """
    count = np.full((loads, len(placement.devices)), UNBOUNDED, np.int64)
    count[: len(cascade.tiers)] = 0
    for placed in placement.instances:
        count[cascade.tier_names.index(placed.tier), placed.device] = placed.count
    return count


def tier_loads(
    cascade: Cascade, profile: Profile, reach: dict[str, float], groups: list[DeviceGroup]
) -> tuple[TierLoad, ...]:
    """What the placement needs to know of every tier.

    Raises:
        UsageError: a device type was not profiled.
    """
    loads = []
    largest = cascade.serving.max_batch_size
    for name in cascade.tier_names:
        batch = planned_point(profile, name, largest).batch
        points = {}
        for kind in dict.fromkeys(group.type for group in groups):
            if not profile.points_of(name, kind):
                raise UsageError(
                    f"{cascade.folder / cascade.devices}: the profile has no figures for device type {kind!r}"
                    f" (tier {name})"
                )
            points[kind] = point_at(profile.points_of(name, kind), batch)
        loads.append(
            TierLoad(
                name=name,
                reach=reach[name],
                seconds_per_row={kind: p.latency_p50_ms / 1000.0 / p.batch for kind, p in points.items()},
                utilization={kind: point.kernel_utilization for kind, point in points.items()},
                # Triton may send the largest batch, and what an instance took for it stays taken.
                # What instances share is counted with each: too much for several, never too little.
                memory_mib=max(
                    held_mib(memory_at(profile.points_of(name, kind), largest), point.shared_mib, 1)
                    for kind, point in points.items()
                ),
                instances=profile.instances.get(name),
            )
        )
    return (*loads, *_asking(profile, reach, groups))


def _asking(profile: Profile, reach: dict[str, float], groups: list[DeviceGroup]) -> list[TierLoad]:
    """Asking the tiers as one more load of the CPU: what router and server spend on a row."""
    cores = {group.type: group.cores for group in groups if group.cores is not None}
    if profile.hop is None or not cores or len(cores) < len({group.type for group in groups}):
        return []
    asking_ms = sum(share * profile.ask_cost(tier).cpu_ms for tier, share in reach.items())
    return [
        TierLoad(
            name=ASKING,
            reach=1.0,
            seconds_per_row=dict.fromkeys(cores, asking_ms / 1000.0),
            utilization={kind: 1.0 / count for kind, count in cores.items()},
            memory_mib=0.0,
        )
    ]


def _giant_only(giant: TierLoad, devices: tuple[Device, ...]) -> Solution | None:
    """The last tier alone on the same devices, None where it does not fit."""
    try:
        return place_tiers((replace(giant, reach=1.0),), devices)
    except Infeasible:
        return None


def _artifact(
    cascade: Cascade,
    made_from: dict[str, str],
    groups: list[DeviceGroup],
    tiers: tuple[TierLoad, ...],
    solution: Solution,
    batch: dict[str, int],
    giant_only_rps: float | None,
) -> Placement:
    gpus = [g for g, group in enumerate(groups) if group.kind == "gpu"]
    devices = []
    for g, group in enumerate(groups):
        used = sum(t.memory_mib * int(solution.count[i, g]) for i, t in enumerate(tiers))
        busy = sum(t.utilization[group.type] * float(solution.busy[i, g]) for i, t in enumerate(tiers))
        devices.append(
            PlacedDevice(
                type=group.type,
                kind=group.kind,
                gpu=gpus.index(g) if group.kind == "gpu" else None,
                memory_mib=group.memory_mib,
                used_memory_mib=used,
                busy_share=busy,
            )
        )
    instances = [
        PlacedInstances(
            tier=tier.name,
            device=g,
            count=int(solution.count[i, g]),
            busy_instances=float(solution.busy[i, g]),
        )
        for i, tier in enumerate(tiers)
        for g in range(len(groups))
        if solution.count[i, g] > 0 and tier.name != ASKING
    ]
    return Placement(
        cascade=cascade.name,
        made_from=made_from,
        rate_rps=solution.rate_rps,
        bound_rps=solution.bound_rps,
        gap=solution.gap,
        status=solution.status,
        giant_only_rps=giant_only_rps,
        batch=batch,
        devices=tuple(devices),
        instances=tuple(instances),
    )
