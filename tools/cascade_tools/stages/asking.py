"""What asking the tiers costs: one more load of the router's host, beside the tiers.

    CPU      front end, router, and the calls of the tiers that a row sees: a share of the host's cores
    serial   what one process of the router does one after another: its own work on a row, and the tiers that
             it runs inside `execute`; however many cores there are, it caps the rate

Both are one load of which there is one instance. Its seconds per row are those of whichever is scarcer; its
utilization is the share of the cores that is busy meanwhile.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import fsum
from typing import NamedTuple

from cascade_tools.artifacts import PolicyTable, Profile, RouterCost
from cascade_tools.planning.curves import latency_at
from cascade_tools.planning.placement.problem import TierLoad, Variant
from cascade_tools.runtime.router import HAND_OFF_MS
from cascade_tools.spec import Cascade, DeviceGroup, host_numbers, load_devices
from cascade_tools.stages.search import planned_point

ASKING = "(asking)"  # no tier can have this name
NO_CPU = "the device file has no device of kind cpu: what the router takes of its host is not counted"
APART = "closure: host, and only the first host has a cpu: what the routers take of theirs is not counted"
NO_COST = (
    "the profile does not know what router and front end cost: no more than the calls of tiers is counted"
)


class RowCost(NamedTuple):
    """ms that one row costs the router's host.

    Attributes:
        cpu_ms: of its cores, in all.
        serial_ms: of one process of the router, one after another.
        alone_ms: of its cores, where clients ask the last tier directly.
    """

    cpu_ms: float
    serial_ms: float = 0.0
    alone_ms: float = 0.0


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
    cost = row_cost(profile, reach, cascade.serving.max_batch_size, may_be_inline=only_cpu, skips=skips)
    if cost.cpu_ms <= 0.0:
        return Asking(None, note=note)
    instances = cascade.serving.router_instances
    router_rps = 1000.0 * instances / cost.serial_ms if cost.serial_ms > 0.0 else None
    return Asking(_load(home, home.cores, cost, instances), router_rps, note)


def has_skips(table: PolicyTable) -> bool:
    """Whether some rows of a policy pass over a tier."""
    return any(to > tier + 1 for tier, route in enumerate(table.routes) for to in route.to)


def row_cost(
    profile: Profile, reach: Mapping[str, float], largest_batch: int, *, may_be_inline: bool, skips: bool
) -> RowCost:
    """What a row costs that takes the way of the average row.

    Args:
        profile: of the tiers and the router.
        reach: share of all rows that each tier sees, smallest tier first.
        largest_batch: rows of a batch of the router at most.
        may_be_inline: the router may run quick tiers itself; false where they may stand on a GPU.
        skips: whether rows may pass over a tier.
    """
    seen = {tier: share for tier, share in reach.items() if share > 0.0}
    inline = {tier: may_be_inline and profile.runs_inline(tier) for tier in seen}
    router = profile.router
    if router is None or not seen:
        return RowCost(
            fsum(share * profile.ask_cost(tier, inline[tier]).cpu_ms for tier, share in seen.items())
        )
    entry = next(iter(seen))
    batch_rows = float(planned_point(profile, entry, largest_batch).batch)
    within = [tier for tier in seen if inline[tier] and _in_execute(profile, tier, entry, reach, batch_rows)]
    late = late_share([share for tier, share in seen.items() if tier not in within], skips=skips)
    groups = {tier: groups_per_row(share, batch_rows) for tier, share in seen.items()}
    calls = fsum(groups[tier] for tier in seen if not inline[tier])
    steps_ms = fsum(groups[tier] * profile.ask_cost(tier, True).cpu_ms for tier in seen if inline[tier])
    tiers_ms = fsum(_execute_ms(profile, tier, seen[tier], batch_rows) for tier in within)
    return RowCost(
        cpu_ms=steps_ms + router.cpu_ms_per_row(batch_rows, calls, late),
        serial_ms=steps_ms + tiers_ms + router.serial_ms_per_row(batch_rows, calls, late),
        alone_ms=_front_ms(router, float(planned_point(profile, list(reach)[-1], largest_batch).batch)),
    )


def _front_ms(router: RouterCost, batch_rows: float) -> float:
    """What no process of the router does is the front end's."""
    return router.server.per_row_ms(batch_rows, 0.0, 0.0)


def groups_per_row(share: float, batch_rows: float) -> float:
    """Of how many groups of rows that go to a tier together a row is, if that tier sees such a share.

    A batch of the router makes one group of the rows that go to a tier, and none where no row does.
    """
    return float(1.0 - (1.0 - share) ** batch_rows) / batch_rows


def late_share(reach: Sequence[float], *, skips: bool) -> float:
    """Share of rows that are answered late.

    Args:
        reach: of the tiers that do not run inside `execute`.
        skips: whether rows may pass over a tier. Without skips each tier sees some of the rows of the one
            before; with them no more is known than that it is not above the sum.
    """
    return min(1.0, fsum(reach)) if skips else max(reach, default=0.0)


def _in_execute(
    profile: Profile, tier: str, entry: str, reach: Mapping[str, float], batch_rows: float
) -> bool:
    """Whether the router waits for a tier that it runs itself, by its own rule (`runtime/router.py`)."""
    if tier == entry:
        return True
    rows = max(1, round(batch_rows * reach[tier]))
    return latency_at(profile.points_of(tier), rows) <= HAND_OFF_MS


def _execute_ms(profile: Profile, tier: str, share: float, batch_rows: float) -> float:
    """What running a tier inside `execute` takes of it, per row that enters the cascade."""
    rows = max(1.0, batch_rows * share)
    return share * latency_at(profile.points_of(tier), round(rows)) / round(rows)


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
