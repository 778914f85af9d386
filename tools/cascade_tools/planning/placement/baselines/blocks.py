"""Devices that a baseline treats alike, so that thousands of them cost as little as a few.

A block is the same place in equal hosts. Where no variant has several stages and rows may change hosts, each
device is a host of its own, and a block is all devices of one kind.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cascade_tools.planning.placement.balance import balance_groups
from cascade_tools.planning.placement.patterns.sites import SiteKind, sites_of
from cascade_tools.planning.placement.problem import FloatArray, IntArray, Problem
from cascade_tools.planning.placement.programs.groups import Groups, numbered
from cascade_tools.planning.placement.programs.numbers import Numbers


@dataclass(frozen=True)
class Blocks:
    """All devices of a problem, or of a part of it, in blocks.

    Attributes:
        devices: positions of the devices of each block.
        host: group of equal hosts of each block, [blocks].
        kind: kind of its devices, as in `Numbers`, [blocks].
        place: which device of its host it is, from 0, [blocks].
        places: how many devices that host has, [blocks].
    """

    devices: tuple[IntArray, ...]
    host: IntArray
    kind: IntArray
    place: IntArray
    places: IntArray

    def __len__(self) -> int:
        return len(self.devices)

    def load(self, problem: Problem, count: IntArray) -> tuple[float, FloatArray]:
        """Highest rate of instances [units, blocks] on each device of a block, and busy ones alike."""
        columns = np.ascontiguousarray(count.T)
        keys = zip(self.host.tolist(), self.kind.tolist(), columns, strict=True)
        member = numbered((host, kind, column.tobytes()) for host, kind, column in keys)
        first = np.unique(member, return_index=True)[1]
        number = np.array([len(devices) for devices in self.devices], np.int64)
        groups = Groups(
            member=member,
            size=np.bincount(member, number).astype(np.int64),
            type=tuple(problem.devices[self.devices[b][0]].type for b in first.tolist()),
            host=self.host[first],
            host_member=self.host,
            count=count[:, first],
        )
        rate, busy = balance_groups(problem, groups)
        return rate, busy[:, member]

    def expand(self, problem: Problem, count: IntArray) -> IntArray:
        """Instances [units, devices] of instances [units, blocks]."""
        all_devices = np.zeros((len(problem.units), len(problem.devices)), np.int64)
        for devices, column in zip(self.devices, count.T, strict=True):
            all_devices[:, devices] = column[:, None]
        return all_devices


def blocks_of(problem: Problem, numbers: Numbers) -> Blocks:
    """One block per place of each kind of host."""
    parts = []
    for h, site in enumerate(sites_of(problem, numbers)):
        places = len(site.kind)
        parts += [(site.devices[:, p], h, int(site.kind[p]), p, places) for p in range(places)]
    return _blocks(parts)


def coarse_blocks(problem: Problem, numbers: Numbers, most: int) -> Blocks:
    """About `most` blocks: equal hosts in a few lots, equal devices of one host, too, where it has many.

    A small cluster has a block per device.
    """
    sites = sites_of(problem, numbers)
    places = sum(min(len(site.kind), most) for site in sites)
    lots = max(1, most // places)
    parts, host = [], 0
    for site in sites:
        for lot in np.array_split(np.arange(site.sites), min(lots, site.sites)):
            for p, chunk in enumerate(_chunks(site, most)):
                devices = site.devices[np.ix_(lot, chunk)].ravel()
                parts.append((devices, host, int(site.kind[chunk[0]]), p, len(site.kind)))
            host += 1
    return _blocks(parts)


def _chunks(site: SiteKind, most: int) -> list[IntArray]:
    """Places of a host, equal ones together if there are more than `most`."""
    kinds = np.unique(site.kind)
    if len(site.kind) <= most:
        return [np.array([p], np.int64) for p in range(len(site.kind))]
    parts = max(1, most // len(kinds))
    found = []
    for kind in kinds:
        places = np.flatnonzero(site.kind == kind)
        found += np.array_split(places, min(parts, len(places)))
    return found


def _blocks(parts: list[tuple[IntArray, int, int, int, int]]) -> Blocks:
    devices, host, kind, place, places = zip(*parts, strict=True)
    return Blocks(devices, *(np.array(values, np.int64) for values in (host, kind, place, places)))


def complete(problem: Problem, count: IntArray, host: npt.ArrayLike) -> IntArray:
    """Without chains that miss a stage in their host and, with the closure `host`, hosts that miss a tier.

    Args:
        problem: tiers and closure.
        count: instances, [units, columns].
        host: of each column.
    """
    number = numbered(np.asarray(host).tolist())
    present = np.zeros((len(problem.units), int(number.max(initial=-1)) + 1), bool)
    unit, column = np.nonzero(count)
    present[unit, number[column]] = True
    held = np.zeros((len(problem.tiers), present.shape[1]), bool)
    kept = np.zeros_like(present)
    start = 0
    for i, tier in enumerate(problem.tiers):
        for variant in tier.variants:
            rows = slice(start, start + variant.stages)
            whole = present[rows].all(axis=0)
            held[i] |= whole
            kept[rows] = present[rows] & whole
            start += variant.stages
    if problem.closure == "host":
        kept &= held.all(axis=0)
    return np.where(kept[:, number], count, 0)


def homeless(problem: Problem, count: IntArray) -> bool:
    """Whether some tier has no instance left; `count` is `complete`."""
    tier = np.array([unit.tier for unit in problem.units])
    return len(np.unique(tier[count.any(axis=1)])) < len(problem.tiers)
