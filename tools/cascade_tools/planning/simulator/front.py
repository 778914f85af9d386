"""How requests come in, and what client and front end take of the device that they share with the router.

Their CPU time is no work that waits for its turn: a client that sends on time, and a front end that many
threads serve, take it as requests come. So it is a background of the device, averaged over windows.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from cascade_tools.planning.simulator.clock import Clock
from cascade_tools.planning.simulator.device import Device

WINDOW_S = 0.02
MOST_WINDOWS = 20_000


class Front:
    """Requests by arrival.

    Args:
        clock: of the simulation.
        arrival_s: of every request, ascending.
        wake: is called when something has come that nobody took.
    """

    __slots__ = ("_arrival_s", "_clock", "_planned", "_wake", "count")

    def __init__(self, clock: Clock, arrival_s: list[float], wake: Callable[[], None]) -> None:
        self._clock = clock
        self._arrival_s = arrival_s
        self._wake = wake
        self._planned = -1
        self.count = len(arrival_s)

    def come(self, first: int, most: int) -> int:
        """Requests from `first` up to this number have come, `most` at most; if none, `wake` will tell."""
        arrival_s, now = self._arrival_s, self._clock.now
        if first >= self.count:
            return first
        if arrival_s[first] > now:
            if self._planned < first:
                self._planned = first
                self._clock.at(arrival_s[first], self._arrive, None)
            return first
        return bisect_right(arrival_s, now, first + 1, min(self.count, first + most))

    def _arrive(self, _: Any) -> None:
        self._wake()


def take_background(
    clock: Clock, device: Device, arrival_s: npt.NDArray[np.float64], cpu_s: float, core: float
) -> None:
    """Plan what client and front end take of the router's device, and count it as its work.

    Args:
        clock: of the simulation.
        device: of the router.
        arrival_s: of every request.
        cpu_s: CPU time of one request.
        core: share of the device that one core is.
    """
    if not len(arrival_s) or cpu_s <= 0.0:
        return
    window_s = max(WINDOW_S, float(arrival_s[-1]) / MOST_WINDOWS)
    count = np.bincount((arrival_s / window_s).astype(np.int64))
    share = np.append(count * (cpu_s * core / window_s), 0.0)
    changed = np.flatnonzero(np.diff(share, prepend=0.0))
    for window, value in zip(changed.tolist(), share[changed].tolist(), strict=True):
        clock.at(window * window_s, device.set_background, value)
    device.work_s += float(np.minimum(share, 1.0).sum()) * window_s
