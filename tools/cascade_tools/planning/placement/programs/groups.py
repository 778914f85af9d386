"""Equal devices as one: same type, same instances, and where it matters, in equal hosts.

The programs over loads are convex, so the mean of a best load over devices that can be exchanged is a best
load, too: each of them may do the same. That keeps clusters of thousands of devices small.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cascade_tools.planning.placement.problem import FloatArray, IntArray, Problem


@dataclass(frozen=True)
class Groups:
    """Devices that can be exchanged for each other.

    Attributes:
        member: group of each device, [devices].
        size: devices of each group, [groups].
        type: device type of each group.
        host: group of equal hosts that each group of devices is in, [groups].
        host_member: group of equal hosts of each device, [devices].
        count: instances on one device of each group, [units, groups].
    """

    member: IntArray
    size: IntArray
    type: tuple[str, ...]
    host: IntArray
    host_member: IntArray
    count: IntArray


def grouped(problem: Problem, count: IntArray, whole_hosts: bool = False) -> Groups:
    """The groups of equal devices of a placement, in order of their first device.

    A host matters where it holds stages of a split model, since a chain does not leave it, and with the
    closure `host`. Elsewhere each device stands for itself, unless `whole_hosts`.

    Args:
        problem: with all devices.
        count: instances, [units, devices].
        whole_hosts: keep every host together.
    """
    code = numbered(
        (device.type, column.tobytes())
        for device, column in zip(problem.devices, np.ascontiguousarray(count.T), strict=True)
    )
    host = numbered(d.host for d in problem.devices) if whole_hosts else hosts_that_matter(problem, count)
    inside: dict[int, list[int]] = {}
    for h, c in zip(host.tolist(), code.tolist(), strict=True):
        inside.setdefault(h, []).append(c)
    alike = {h: tuple(sorted(codes)) for h, codes in inside.items()}
    host_member = numbered(alike[h] for h in host.tolist())
    member = numbered(zip(host_member.tolist(), code.tolist(), strict=True))
    first = np.unique(member, return_index=True)[1]
    return Groups(
        member=member,
        size=np.bincount(member, minlength=len(first)).astype(np.int64),
        type=tuple(problem.devices[d].type for d in first.tolist()),
        host=host_member[first],
        host_member=host_member,
        count=count[:, first],
    )


def hosts_that_matter(problem: Problem, count: IntArray) -> IntArray:
    """Number of the host of each device, [devices]; one of its own where nothing ties it to its host."""
    host = numbered(device.host for device in problem.devices)
    if problem.closure == "host":
        return host
    split = np.array([problem.variant(unit).stages > 1 for unit in problem.units], dtype=bool)
    chained = np.zeros(int(host.max(initial=-1)) + 1, dtype=bool)
    chained[host[count[split].any(axis=0)]] = True
    return np.where(chained[host], host, len(host) + np.arange(len(host)))


def numbered(keys: Iterable[Hashable]) -> IntArray:
    """Each key as a number from 0, in order of first appearance."""
    seen: dict[Hashable, int] = {}
    return np.array([seen.setdefault(key, len(seen)) for key in keys], dtype=np.int64)


@dataclass(frozen=True)
class Table:
    """What one instance of each unit does on devices of each type; NaN where it cannot run or is not known.

    Attributes:
        seconds: per row, [units, types].
        utilization: of a busy instance, [units, types].
        energy_j: dynamic, of one row, [units, types].
    """

    seconds: FloatArray
    utilization: FloatArray
    energy_j: FloatArray


def table(problem: Problem, types: tuple[str, ...]) -> Table:
    """Seconds, utilization and energy of each unit on each of `types`."""
    variants = [problem.variant(unit) for unit in problem.units]
    known = sorted(set(types))
    column = np.array([known.index(name) for name in types], dtype=np.intp)

    def of(values: Iterable[dict[str, float]]) -> npt.NDArray[np.float64]:
        rows = [[value.get(name, np.nan) for name in known] for value in values]
        return np.array(rows, dtype=np.float64).reshape(len(variants), len(known))[:, column]

    seconds = of(variant.seconds_per_row for variant in variants)
    utilization = of(variant.utilization for variant in variants)
    runs = np.isfinite(seconds) & np.isfinite(utilization)
    return Table(
        np.where(runs, seconds, np.nan),
        np.where(runs, utilization, np.nan),
        of(variant.energy_j for variant in variants),
    )
