"""Profiles held against each other: what differs, and several made one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from cascade_tools.artifacts import Profile, ProfilePoint
from cascade_tools.errors import UsageError

_V = TypeVar("_V")
BUILT_PER_DEVICE = "tensorrt"  # a plan differs from GPU to GPU, though its graph is the same


class PointKey(NamedTuple):
    """What tells a point of a profile from the others."""

    tier: str
    format: str
    device: str
    batch: int
    instances: int

    def __str__(self) -> str:
        return (
            f"tier {self.tier}, format {self.format}, device {self.device}, batch {self.batch}, "
            f"instances {self.instances}"
        )


def key_of(point: ProfilePoint) -> PointKey:
    """The key of a point."""
    return PointKey(point.tier, point.format, point.device, point.batch, point.instances)


@dataclass(frozen=True)
class PointDiff:
    """The second profile's figure over the first's; None where one of them does not have it.

    `memory` is of what one instance holds by itself; 1 where neither holds anything.
    """

    key: PointKey
    time: float | None
    utilization: float | None
    memory: float | None
    energy: float | None

    @property
    def largest_percent(self) -> float:
        """How far the figure that differs most is from the first profile's, in percent of it."""
        ratios = (self.time, self.utilization, self.memory, self.energy)
        return max((100.0 * abs(ratio - 1.0) for ratio in ratios if ratio is not None), default=0.0)


@dataclass(frozen=True)
class ProfileDiff:
    """Points of both profiles, in the first one's order, and those that only one of them has."""

    points: tuple[PointDiff, ...]
    only_first: tuple[PointKey, ...]
    only_second: tuple[PointKey, ...]

    @property
    def largest_percent(self) -> float:
        """Over all common points."""
        return max((point.largest_percent for point in self.points), default=0.0)


def diff(first: Profile, second: Profile) -> ProfileDiff:
    """Hold the second profile against the first, point by point."""
    one = {key_of(point): point for point in first.points}
    other = {key_of(point): point for point in second.points}
    return ProfileDiff(
        tuple(_point_diff(key, one[key], other[key]) for key in one if key in other),
        tuple(key for key in one if key not in other),
        tuple(key for key in other if key not in one),
    )


def _point_diff(key: PointKey, first: ProfilePoint, second: ProfilePoint) -> PointDiff:
    return PointDiff(
        key,
        time=_ratio(first.latency_p50_ms, second.latency_p50_ms),
        utilization=_ratio(first.kernel_utilization, second.kernel_utilization),
        memory=_ratio(first.memory_mib, second.memory_mib),
        energy=_ratio(first.energy_j, second.energy_j),
    )


def _ratio(first: float | None, second: float | None) -> float | None:
    if first is None or second is None:
        return None
    if first == second:
        return 1.0
    return second / first if first > 0.0 else None


def merge(profiles: Sequence[Profile], names: Sequence[str], made_from: Mapping[str, str]) -> Profile:
    """The points of all profiles, in their order.

    Args:
        profiles: at least one; of one cascade, of the same tiers and the same graphs.
        names: what they are called in messages, such as their files.
        made_from: of the result.

    Returns:
        The union. Hop and router's costs are those of the first profile that has one.

    Raises:
        UsageError: two profiles do not belong together, or hold different figures for the same key.
    """
    for profile, name in zip(profiles, names, strict=True):
        _check_kin(profiles[0], names[0], profile, name)
    points: dict[PointKey, ProfilePoint] = {}
    origin: dict[PointKey, str] = {}
    for profile, name in zip(profiles, names, strict=True):
        for point in profile.points:
            key = key_of(point)
            if points.setdefault(key, point) != point:
                raise UsageError(
                    f"{name}: {key}: differs from {origin[key]}",
                    "leave the point out of one of them, or give the devices different types",
                )
            origin.setdefault(key, name)
    served = next((profile for profile in profiles if profile.hop is not None), profiles[0])
    meters = dict.fromkeys(profile.energy_meter for profile in profiles if profile.energy_meter)
    return Profile(
        cascade=profiles[0].cascade,
        made_from=dict(made_from),
        environment=_environment(profiles),
        points=tuple(points.values()),
        hop=served.hop,
        router=served.router,
        instances=_union("instances of tier", [p.instances for p in profiles], names),
        idle_watts=_union("idle watts of device", [p.idle_watts for p in profiles], names),
        energy_meter=", ".join(meters) or None,
        graphs=_union("graph of tier", [_comparable_graphs(p) for p in profiles], names),
    )


def _check_kin(first: Profile, first_name: str, other: Profile, name: str) -> None:
    if other.cascade != first.cascade:
        raise UsageError(
            f"{name}: is of cascade {other.cascade!r}, but {first_name} of {first.cascade!r}",
            "only profiles of one cascade can be merged",
        )
    tiers, others = {point.tier for point in first.points}, {point.tier for point in other.points}
    if tiers != others:
        raise UsageError(
            f"{name}: tier {min(tiers ^ others)!r} is only in one of it and {first_name}",
            "profile all tiers on every machine",
        )


def _comparable_graphs(profile: Profile) -> dict[str, str]:
    built = {point.tier for point in profile.points if point.format == BUILT_PER_DEVICE}
    return {tier: digest for tier, digest in profile.graphs.items() if tier not in built}


def _union(what: str, tables: Sequence[Mapping[str, _V]], names: Sequence[str]) -> dict[str, _V]:
    found: dict[str, _V] = {}
    origin: dict[str, str] = {}
    for table, name in zip(tables, names, strict=True):
        for key, value in table.items():
            if found.setdefault(key, value) != value:
                raise UsageError(f"{name}: {what} {key}: {value}, but {found[key]} in {origin[key]}")
            origin.setdefault(key, name)
    return found


def _environment(profiles: Sequence[Profile]) -> dict[str, str]:
    """Every fact, with all its values where the machines differ."""
    names = dict.fromkeys(name for profile in profiles for name in profile.environment)
    return {
        name: "; ".join(dict.fromkeys(p.environment[name] for p in profiles if name in p.environment))
        for name in names
    }
