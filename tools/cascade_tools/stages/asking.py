"""What asking the tiers costs: one more load of the router's host, beside the tiers.

    CPU      front end, router, and the calls of the tiers that a row sees: a share of the host's cores
    serial   what one process of the router does one after another (`stages/row_cost.py`); however many cores
             there are, it caps the rate

Both are one load of which there is one instance. Its seconds per row are those of whichever is scarcer; its
utilization is the share of the cores that is busy meanwhile.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from cascade_tools.artifacts import PolicyTable, Profile
from cascade_tools.planning.placement.problem import TierLoad, Variant
from cascade_tools.spec import Cascade, DeviceGroup, host_numbers, load_devices
from cascade_tools.stages.row_cost import RowCost, row_cost

ASKING = "(asking)"  # no tier can have this name
NO_CPU = "the device file has no device of kind cpu: what the router takes of its host is not counted"
APART = "closure: host, and only the first host has a cpu: what the routers take of theirs is not counted"
NO_COST = (
    "the profile does not know what router and front end cost: no more than the calls of tiers is counted"
)


class Asking(NamedTuple):
    """The load, and what is to be said of it.

    Attributes:
        load: None where nothing can be counted.
        router_rps: what the processes of the router take at most; None where it is not known.
        note: what is not counted; empty if nothing is missing.
    """

    load: TierLoad | None
    router_rps: float | None = None
    note: str = ""


def asking_of(cascade: Cascade, profile: Profile, reach: Mapping[str, float], *, skips: bool) -> Asking:
    """What router and server spend on the rows of a cascade.

    Args:
        cascade: its tiers, devices and section `serving`.
        profile: knows what a call costs (`hop`), and what the router does (`router`).
        reach: share of all rows that each tier sees.
        skips: whether rows may pass over a tier; true where that is not known.
    """
    groups = load_devices(cascade).devices
    home = next((group for group in groups if group.kind == "cpu"), None)
    if home is None or home.cores is None:
        return Asking(None, note=NO_CPU)
    if cascade.placement.closure == "host" and len(set(host_numbers(groups))) > 1:
        return Asking(None, note=APART)
    note = NO_COST if profile.router is None else ""
    only_cpu = len(groups) == 1
    kinds = {group.type for group in groups}
    largest = cascade.serving.max_batch_size
    cost = row_cost(profile, reach, largest, kinds, may_be_inline=only_cpu, skips=skips)
    if cost.cpu_ms <= 0.0:
        return Asking(None, note=note)
    instances = cascade.serving.router_instances
    router_rps = 1000.0 * instances / cost.serial_ms if cost.serial_ms > 0.0 else None
    return Asking(_load(home, home.cores, cost, instances), router_rps, note)


def has_skips(table: PolicyTable) -> bool:
    """Whether some rows of a policy pass over a tier."""
    return any(to > tier + 1 for tier, route in enumerate(table.routes) for to in route.to)


def _load(home: DeviceGroup, cores: int, cost: RowCost, instances: int) -> TierLoad:
    seconds = max(cost.cpu_ms / cores, cost.serial_ms / instances) / 1000.0
    alone = _variant(home, cost.alone_ms, cores, cost.alone_ms / cores / 1000.0)
    return TierLoad(
        ASKING,
        1.0,
        (_variant(home, cost.cpu_ms, cores, seconds),),
        instances=1,
        overhead=True,
        alone=alone if cost.alone_ms > 0.0 else None,
    )


def _variant(home: DeviceGroup, cpu_ms: float, cores: int, seconds: float) -> Variant:
    joule = {} if home.busy_watts is None else {home.type: home.busy_watts * cpu_ms / 1000.0}
    busy_share = cpu_ms / cores / 1000.0 / seconds if seconds > 0.0 else 1.0
    return Variant(
        stages=1,
        batch=1,
        seconds_per_row={home.type: seconds},
        utilization={home.type: min(1.0, busy_share)},
        memory_mib=0,
        further_mib=0,
        energy_j=joule,
    )
