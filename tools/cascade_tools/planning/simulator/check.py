"""Whether a system, a trace and what was recorded fit together."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt

from cascade_tools.planning.simulator.system import Recorded, ServiceTime, SimGear, SimTier, System


def check(
    system: System,
    arrival_s: npt.NDArray[np.float64],
    rows: npt.NDArray[np.int64],
    recorded: Recorded,
) -> None:
    """See that they do.

    Raises:
        ValueError: they do not; the message names the field.
    """
    names = [tier.name for tier in system.tiers]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"tiers: needs at least one, and none twice; found {names}")
    for tier in system.tiers:
        _check_tier(system, tier)
    for name, gears in (("gears", system.gears), *((f"fallbacks {w}", g) for w, g in system.fallbacks)):
        _check_gears(name, gears, names)
    _check_places(system)
    _check_trace(arrival_s, rows, recorded, len(names))


def _check_tier(system: System, tier: SimTier) -> None:
    where = f"tiers.{tier.name}"
    if not tier.service:
        raise ValueError(f"{where}.service: needs at least one device type")
    for kind, service in tier.service.items():
        _check_service(f"{where}.service.{kind}", service, system.router.max_batch_size)
    if not tier.weight > 0.0:
        raise ValueError(f"{where}.weight: must be above 0")
    if not tier.local and not tier.instances:
        raise ValueError(f"{where}.instances: needs at least one stage")
    if tier.stage_shares and len(tier.stage_shares) != len(tier.instances):
        raise ValueError(f"{where}.stage_shares: {len(tier.stage_shares)} for {len(tier.instances)} stages")
    for place in (place for stage in tier.instances for place in stage):
        if not 0 <= place < len(system.devices):
            raise ValueError(f"{where}.instances: there is no device {place}")
        if not tier.local and system.devices[place].type not in tier.service:
            raise ValueError(f"{where}.service: nothing for device type {system.devices[place].type!r}")


def _check_service(where: str, service: ServiceTime, max_batch_size: int) -> None:
    if (service.time_ms <= 0.0).any():
        raise ValueError(f"{where}.time_ms: must be above 0")
    if len(service.utilization) != len(service.time_ms):
        raise ValueError(f"{where}.utilization: needs as many values as time_ms")
    if service.energy_j is not None and len(service.energy_j) != len(service.time_ms):
        raise ValueError(f"{where}.energy_j: needs as many values as time_ms")
    if len(service.time_ms) < max_batch_size:
        raise ValueError(
            f"{where}: {len(service.time_ms)} batch sizes, the router's batches have {max_batch_size} rows"
        )


def _check_gears(where: str, gears: tuple[SimGear, ...], names: list[str]) -> None:
    if not gears or gears[-1].up_to_rps is not None:
        raise ValueError(f"{where}: needs at least one, and the last serves any rate")
    limits = [gear.up_to_rps for gear in gears[:-1]]
    if None in limits or any(low >= high for low, high in pairwise(filter(None, limits))):
        raise ValueError(f"{where}: up_to_rps must grow from gear to gear")
    for gear in gears:
        places = [names.index(tier) if tier in names else -1 for tier in gear.policy.tiers]
        if not places or -1 in places or places != sorted(places):
            raise ValueError(f"{where}: {gear.policy.tiers} are no tiers of the ladder in its order")


def _check_places(system: System) -> None:
    known = range(len(system.devices))
    if system.router.device is not None and system.router.device not in known:
        raise ValueError(f"router.device: there is no device {system.router.device}")
    for loss in system.losses:
        if loss.device not in known:
            raise ValueError(f"losses: there is no device {loss.device}")
        if loss.device == system.router.device:
            raise ValueError(f"losses: device {loss.device} is the router's; without it nothing is served")


def _check_trace(
    arrival_s: npt.NDArray[np.float64], rows: npt.NDArray[np.int64], recorded: Recorded, tiers: int
) -> None:
    shape = recorded.confidence.shape
    if shape != recorded.correct.shape or len(shape) != 2 or shape[1] != tiers:
        raise ValueError(f"recorded: must be [rows, {tiers}] both, found {shape}, {recorded.correct.shape}")
    if len(rows) != len(arrival_s):
        raise ValueError(f"rows: {len(rows)} rows for {len(arrival_s)} arrivals")
    if not np.isfinite(arrival_s).all() or (len(arrival_s) and arrival_s[0] < 0.0):
        raise ValueError("arrival_s: must be finite and from 0 on")
    if (np.diff(arrival_s) < 0.0).any():
        raise ValueError("arrival_s: must not decrease")
    if len(rows) and not (rows.min() >= 0 and rows.max() < shape[0]):
        raise ValueError(f"rows: must be numbers of the {shape[0]} recorded rows")
