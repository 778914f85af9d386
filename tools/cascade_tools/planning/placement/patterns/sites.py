"""What one pattern fills: a device, or a host where chains or the closure make its devices one thing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cascade_tools.planning.placement.problem import IntArray, Problem
from cascade_tools.planning.placement.programs.groups import numbered
from cascade_tools.planning.placement.programs.numbers import Numbers


@dataclass(frozen=True)
class SiteKind:
    """Equal sites.

    Attributes:
        kind: kind of the device at each place of such a site, ascending, [places].
        devices: device at each place of each of them, [sites, places].
    """

    kind: IntArray
    devices: IntArray

    @property
    def sites(self) -> int:
        """How many there are."""
        return len(self.devices)


def sites_of(problem: Problem, numbers: Numbers) -> tuple[SiteKind, ...]:
    """All devices as sites; hosts if some variant has several stages or each host is on its own."""
    together = numbers.has_chains or numbers.per_host
    host = (
        numbered(device.host for device in problem.devices) if together else np.arange(len(problem.devices))
    )
    order = np.lexsort((np.arange(len(host)), numbers.kind, host))
    starts = np.flatnonzero(np.diff(host[order], prepend=-1))
    alike: dict[tuple[int, ...], list[IntArray]] = {}
    for members in np.split(order, starts[1:]):
        alike.setdefault(tuple(numbers.kind[members].tolist()), []).append(members)
    return tuple(SiteKind(np.array(kind, np.int64), np.stack(all_)) for kind, all_ in alike.items())


def some_of_each(sites: tuple[SiteKind, ...], most_sites: int, most_places: int) -> IntArray:
    """Devices, ascending, of so many sites of each kind, and in each so many devices of each kind."""
    taken = []
    for site in sites:
        kept = [np.flatnonzero(site.kind == kind)[:most_places] for kind in np.unique(site.kind)]
        taken.append(site.devices[:most_sites, np.concatenate(kept)].ravel())
    return np.sort(np.concatenate(taken))
