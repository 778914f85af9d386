"""Which host serves what, where a plan is for several hosts.

A Triton process is one host, and neither a call between models nor an ensemble leaves it. So each host has a
repository of its own, and a tier that a router's host lacks, or has too little of, is a proxy model there, of
the tier's own name (`backends/remote_tier.py`): a router only ever knows names of models.

    closure host     every host has all tiers and a router; nothing is asked across hosts
    closure pool     with a CPU in the plan the router is on its host, as the plan counts it; else on every
                     host that the plan gives rows of the first tier
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from cascade_tools.artifacts import PlacedInstances, Placement
from cascade_tools.errors import ArtifactError

LEAST_SHARE = 0.01  # what is less goes to the others: no proxy for rounding errors

Shares = dict[int, float]  # by host; they sum to 1


class Way(NamedTuple):
    """A host that rows of a tier go to, and the share of them."""

    host: int
    share: float


@dataclass(frozen=True)
class HostPart:
    """What one host does of a plan.

    Attributes:
        host: its number.
        placement: its devices and instances alone.
        entry_share: of all rows that should enter the cascade here; None where no router is.
        ways: where a tier's rows go to that this host does not take all by itself, by tier.
    """

    host: int
    placement: Placement
    entry_share: float | None
    ways: Mapping[str, tuple[Way, ...]]


def host_parts(placement: Placement) -> tuple[HostPart, ...]:
    """The parts of all hosts that have work; a single one has no ways.

    Raises:
        ArtifactError: several hosts have, and an older plan does not say which rows.
    """
    used = {placement.devices[placed.device].host for placed in placement.instances}
    if len(used) > 1 and any(placed.rows_rps is None for placed in placement.instances):
        raise ArtifactError(
            "placement.json: of an older version, which does not say how many rows go to which host",
            "run `cascade-tools place` again",
        )
    placed = {tier: _row_shares(placement, tier) for tier in placement.batch}
    entry = _entry_shares(placement, placed)
    pooled = placement.closure == "pool"
    hosts = sorted(entry.keys() | {host for shares in placed.values() for host in shares})
    return tuple(
        HostPart(
            host,
            _on_host(placement, host),
            entry.get(host),
            _ways(host, entry, placed) if pooled and host in entry else {},
        )
        for host in hosts
    )


def _row_shares(placement: Placement, tier: str) -> Shares:
    """Share of a tier's rows that each host takes; by instances where no row reaches the tier."""
    here = [placed for placed in placement.instances if placed.tier == tier and placed.stage == 1]
    by_rows = any(_rows(placed) > 0.0 for placed in here)
    amounts: Shares = {}
    for placed in here:
        host = placement.devices[placed.device].host
        amounts[host] = amounts.get(host, 0.0) + (_rows(placed) if by_rows else placed.count)
    whole = sum(amounts.values())
    return {host: amount / whole for host, amount in amounts.items()}


def _rows(placed: PlacedInstances) -> float:
    return placed.rows_rps or 0.0


def _entry_shares(placement: Placement, placed: Mapping[str, Shares]) -> Shares:
    """Share of all rows that enter at each host with a router."""
    homes = {device.host for device in placement.devices if device.kind == "cpu"}
    if homes and placement.closure == "pool":
        return {min(homes): 1.0}
    rows = dict.fromkeys(placed, 0.0)
    for instances in placement.instances:
        rows[instances.tier] += _rows(instances) if instances.stage == 1 else 0.0
    first = max(rows, key=rows.__getitem__)  # all rows see it; of equal ones the smallest tier
    if placement.closure == "host":
        return placed[first]
    return _without_crumbs(placed[first])


def _without_crumbs(shares: Shares) -> Shares:
    least = LEAST_SHARE * max(shares.values())
    kept = {host: share for host, share in shares.items() if share >= least}
    whole = sum(kept.values())
    return {host: share / whole for host, share in kept.items()}


def _ways(host: int, entry: Shares, placed: Mapping[str, Shares]) -> dict[str, tuple[Way, ...]]:
    """Where a router's host sends the rows of each tier, so that every host gets what the plan gives it.

    A host keeps what it can take; what is too much for it goes to those that have room for more than enters
    there, as they have it.
    """
    found = {}
    for tier, shares in placed.items():
        room = {other: max(0.0, share - entry.get(other, 0.0)) for other, share in shares.items()}
        too_much = max(0.0, entry[host] - shares.get(host, 0.0))
        whole = sum(room.values())
        if too_much / entry[host] < LEAST_SHARE or whole <= 0.0:
            continue
        amounts = {other: too_much * free / whole for other, free in room.items() if free > 0.0}
        if host in shares:
            amounts[host] = min(entry[host], shares[host])
        kept = _without_crumbs({other: amount / entry[host] for other, amount in amounts.items()})
        found[tier] = tuple(Way(other, share) for other, share in sorted(kept.items()))
    return found


def _on_host(placement: Placement, host: int) -> Placement:
    """The plan of one host: its devices in their order, and what is on them."""
    devices = [number for number, device in enumerate(placement.devices) if device.host == host]
    position = {number: index for index, number in enumerate(devices)}
    return placement.model_copy(
        update={
            "devices": tuple(placement.devices[number] for number in devices),
            "instances": tuple(
                placed.model_copy(update={"device": position[placed.device]})
                for placed in placement.instances
                if placed.device in position
            ),
        }
    )
