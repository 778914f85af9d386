"""What the plan of a cascade says of its load, for `planning.watch`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cascade_tools.artifacts import GearPlan, Placement, PlannedRates, Profile
from cascade_tools.planning.curves import latency_at, point_at
from cascade_tools.planning.rate_test import RatePlan
from cascade_tools.planning.watch import Planned, PlannedDevice, PlannedTier
from cascade_tools.stages.gears import GEARS_FILE
from cascade_tools.stages.place import PLACEMENT_FILE
from cascade_tools.stages.profile import PROFILE_FILE
from cascade_tools.stages.search import planned_point
from cascade_tools.store import Workspace


def planned_of(work: Workspace, shown_gpus: Sequence[str] = (), own_gpus: Sequence[str] = ()) -> Planned:
    """What the plan says of rates, tiers and devices.

    Args:
        work: a planned cascade.
        shown_gpus: ids of the GPUs on the metrics page.
        own_gpus: ids of this machine's GPUs, as CUDA numbers them.

    Raises:
        ArtifactError: the plan is not there.
    """
    plan = work.load(GEARS_FILE, GearPlan, "gears")
    placement = work.load(PLACEMENT_FILE, Placement, "place")
    profile = work.load(PROFILE_FILE, Profile, "profile")
    ids = _gpu_ids(placement, shown_gpus, own_gpus)
    devices = tuple(
        PlannedDevice(f"{device.type} {number}", "" if device.gpu is None else ids.get(device.gpu, ""))
        for number, device in enumerate(placement.devices)
    )
    tiers = {name: _tier(work, placement, profile, name) for name in work.cascade.tier_names}
    rates = RatePlan.below(placement.rate_rps) if plan.rates is None else _rate_plan(plan.rates)
    return Planned(rates, {name: tier for name, tier in tiers.items() if tier is not None}, devices)


def _rate_plan(rates: PlannedRates) -> RatePlan:
    return RatePlan(rates.edges_rps[-1], np.array(rates.edges_rps), np.array(rates.shares))


def _gpu_ids(placement: Placement, shown: Sequence[str], own: Sequence[str]) -> dict[int, str]:
    """Id on the metrics page by number of the GPU; empty where it cannot be told which is which."""
    planned = sorted({device.gpu for device in placement.devices if device.gpu is not None})
    if shown and set(shown) <= set(own):
        return {number: own[number] for number in planned if number < len(own)}
    return {planned[0]: shown[0]} if len(planned) == len(shown) == 1 else {}


def _tier(work: Workspace, placement: Placement, profile: Profile, name: str) -> PlannedTier | None:
    """None for a tier that is placed nowhere."""
    placed = [one for one in placement.instances if one.tier == name]
    if not placed:
        return None
    busy = sum(one.busy_instances for one in placed)
    weights = [one.busy_instances if busy > 0.0 else float(one.count) for one in placed]
    share: dict[int, float] = {}
    for one, weight in zip(placed, weights, strict=True):
        share[one.device] = share.get(one.device, 0.0) + weight / sum(weights)
    largest = work.cascade.serving.max_batch_size
    batch = planned_point(profile, name, largest).batch
    points = {device: profile.points_of(name, placement.devices[device].type) for device in share}
    at_batch = {device: point_at(points[device], batch) for device in share}
    batch_ms = sum(
        share[device] * np.array([latency_at(points[device], b) for b in range(1, largest + 1)])
        for device in share
    )
    return PlannedTier(
        batch_ms=np.asarray(batch_ms, np.float64),
        seconds_per_row=sum(share[d] * at_batch[d].latency_p50_ms / 1000.0 / batch for d in share),
        device_share=share,
        utilization={device: point.kernel_utilization for device, point in at_batch.items()},
    )
