"""Which gear the router used, sampled from Triton's metrics page while something else runs."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from cascade_tools.errors import CascadeError
from cascade_tools.planning.outcomes import FloatArray, IntArray
from cascade_tools.serving.metrics_page import read_page, samples

PERIOD_S = 0.5  # the router writes its gear out every 0.25 s; reading the page costs the server some ms
METRIC = "cascade_gear"


@dataclass
class GearSamples:
    """Gears by the time they were seen at; `time_s` is of `time.perf_counter()`, or from a given moment.

    Those of a fallback are -1: they are none of the plan's gears.
    """

    time_s: list[float] = field(default_factory=list)
    gear: list[int] = field(default_factory=list)

    def at(self, time_s: FloatArray) -> IntArray:
        """The gear last seen at each of some times, -1 where none had been or it was a fallback's."""
        seen = np.searchsorted(self.time_s, time_s, side="right") - 1
        known = np.asarray([*self.gear, -1], np.int64)
        gear: IntArray = known[seen]  # before the first it is -1, the last element
        return gear

    def since(self, begin_s: float) -> GearSamples:
        """The same, counted from a moment."""
        return GearSamples([time_s - begin_s for time_s in self.time_s], list(self.gear))


@contextmanager
def watch_gears(metrics_url: str, model: str) -> Iterator[GearSamples]:
    """Sample the gear of a cascade until the block ends; a page that cannot be read leaves a gap."""
    found = GearSamples()
    ended = threading.Event()

    def watch() -> None:
        while True:
            try:
                seen = [
                    int(value)
                    for labels, value in samples(read_page(metrics_url), METRIC)
                    if labels.get("model") == model
                ]
            except CascadeError:
                seen = []
            if seen:
                found.gear.append(max(seen))
                found.time_s.append(time.perf_counter())
            if ended.wait(PERIOD_S):
                return

    thread = threading.Thread(target=watch, name="gears", daemon=True)
    thread.start()
    try:
        yield found
    finally:
        ended.set()
        thread.join()
