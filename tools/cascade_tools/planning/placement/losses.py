"""What a placement still does without any one device, and without any one host.

The instances that are left stay where they are. Where a tier loses its last home, some other policy has to
do without it; policies are the caller's, who says how many rows reach each tier then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from cascade_tools.planning.placement.balance import balance_groups, balance_groups_at
from cascade_tools.planning.placement.baselines.blocks import complete
from cascade_tools.planning.placement.problem import FloatArray, IntArray, Problem, Solution
from cascade_tools.planning.placement.programs.groups import Groups, grouped, hosts_that_matter, table

ReachWithout = Callable[[tuple[int, ...]], Sequence[float] | None]


@dataclass(frozen=True)
class Left:
    """What is left without one device, or one host.

    Attributes:
        what: what is lost.
        which: positions of devices, or numbers of hosts; each loss alone leaves the same, and what is shown
            is that of the first.
        gone: tiers, as positions, that have no complete chain of instances in one host any more.
        tiers: those that have.
        reach: of every tier, by the policy that serves then: the present one if it asks none of `gone`; None
            if there is no policy.
        rate_rps: the highest that is left; 0 if nothing can be served.
        load_rps: rate of the predicted load: the planned one, or all that is left.
        busiest_share: largest busy share of a device at that load.
    """

    what: Literal["device", "host"]
    which: tuple[int, ...]
    gone: tuple[int, ...]
    tiers: tuple[int, ...]
    reach: tuple[float, ...] | None
    rate_rps: float
    load_rps: float
    busiest_share: float
    _member: IntArray
    _busy: FloatArray

    @property
    def serves(self) -> bool:
        """Whether any rows can be served."""
        return self.rate_rps > 0.0

    def busy(self) -> FloatArray:
        """The predicted load: busy instances, float64 [units, devices]."""
        return self._busy[:, self._member]


def losses(
    problem: Problem, solution: Solution, reach_without: ReachWithout | None = None
) -> tuple[Left, ...]:
    """What is left without each device, then without each host (if hosts have several devices).

    Args:
        problem: what was placed.
        solution: its placement.
        reach_without: from the positions of tiers without a home to the reach of every tier by a policy that
            does not ask them; None if there is no such policy.

    Returns:
        One entry per group of equal devices or hosts; together they name every one.
    """
    cluster = _Cluster(problem, solution)
    return tuple(cluster.left(what, which, reach_without) for what, which in cluster.cases())


class _Cluster:
    """A placement in groups of equal devices, from which devices can be taken."""

    def __init__(self, problem: Problem, solution: Solution) -> None:
        self.problem, self.planned_rps = problem, solution.rate_rps
        self.groups = grouped(problem, solution.count)
        self.tied = hosts_that_matter(problem, solution.count)
        self.host = np.array([device.host for device in problem.devices])
        order = np.argsort(self.tied, kind="stable")
        starts = np.flatnonzero(np.diff(self.tied[order], prepend=-1))
        self.together = {int(self.tied[part[0]]): part for part in np.split(order, starts[1:])}

    def cases(self) -> Iterator[tuple[Literal["device", "host"], tuple[int, ...]]]:
        """Equal devices, then equal hosts."""
        member = self.groups.member
        for group in range(len(self.groups.size)):
            yield "device", tuple(np.flatnonzero(member == group).tolist())
        inside: dict[int, list[int]] = {}
        for host, group in zip(self.host.tolist(), member.tolist(), strict=True):
            inside.setdefault(host, []).append(group)
        alike: dict[tuple[int, ...], list[int]] = {}
        for host, groups in inside.items():
            alike.setdefault(tuple(sorted(groups)), []).append(host)
        if max(len(groups) for groups in inside.values()) > 1:
            yield from (("host", tuple(hosts)) for hosts in alike.values())

    def left(
        self, what: Literal["device", "host"], which: tuple[int, ...], reach_without: ReachWithout | None
    ) -> Left:
        """Without the first of these devices or hosts."""
        lost = np.array([which[0]]) if what == "device" else np.flatnonzero(self.host == which[0])
        groups = self._without(lost)
        gone = self._gone(groups)
        tiers = tuple(i for i in range(len(self.problem.tiers)) if i not in gone)
        reach = self._reach(gone, reach_without)
        rate, load, busy = 0.0, 0.0, np.zeros(groups.count.shape)
        if reach is not None:
            rate, load, busy = self._load(groups, reach)
        share = (np.nan_to_num(table(self.problem, groups.type).utilization) * busy).sum(axis=0)
        return Left(
            what, which, gone, tiers, reach, rate, load, float(share.max(initial=0.0)), groups.member, busy
        )

    def _without(self, lost: IntArray) -> Groups:
        """Hosts that lose a device are not equal to others any more: what is left of each is a new one."""
        old = self.groups
        size, member = old.size.copy(), old.member.copy()
        source, host = list(range(len(size))), old.host.tolist()
        for number in np.unique(self.tied[lost]).tolist():
            devices = self.together[number]
            np.subtract.at(size, old.member[devices], 1)
            new_host = max(host) + 1
            kept = np.setdiff1d(devices, lost)
            for group in np.unique(old.member[kept]).tolist():
                mine = kept[old.member[kept] == group]
                member[mine] = len(source)
                source.append(group)
                host.append(new_host)
                size = np.append(size, len(mine))
        member[lost] = len(source)
        count = np.concatenate([old.count[:, source], np.zeros((len(old.count), 1), np.int64)], axis=1)
        return Groups(
            member=member,
            size=np.append(size, len(lost)),
            type=(*(old.type[group] for group in source), old.type[0]),
            host=np.array([*host, max(host) + 1], np.int64),
            host_member=np.array([*host, max(host) + 1], np.int64)[member],
            count=np.where(np.append(size, 0) > 0, count, 0),
        )

    def _gone(self, groups: Groups) -> tuple[int, ...]:
        """Tiers without a home; where every host has to hold all, none if one still does."""
        count = complete(self.problem, groups.count, groups.host)
        if not count.any():
            count = complete(replace(self.problem, closure="pool"), groups.count, groups.host)
        there = {unit.tier for unit, row in zip(self.problem.units, count, strict=True) if row.any()}
        return tuple(i for i in range(len(self.problem.tiers)) if i not in there)

    def _reach(self, gone: tuple[int, ...], reach_without: ReachWithout | None) -> tuple[float, ...] | None:
        present = tuple(tier.reach for tier in self.problem.tiers)
        if not any(present[i] > 0.0 for i in gone):
            return present
        found = None if reach_without is None else reach_without(gone)
        return None if found is None else tuple(float(share) for share in found)

    def _load(self, groups: Groups, reach: tuple[float, ...]) -> tuple[float, float, FloatArray]:
        """Highest rate, rate of the load, and the load."""
        tiers = tuple(
            replace(tier, reach=share) for tier, share in zip(self.problem.tiers, reach, strict=True)
        )
        problem = replace(self.problem, tiers=tiers)
        rate, busy = balance_groups(problem, groups)
        if rate > self.planned_rps:
            at = balance_groups_at(problem, groups, self.planned_rps)
            return (rate, rate, busy) if at is None else (rate, self.planned_rps, at)
        return rate, rate, busy
