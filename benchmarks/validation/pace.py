"""How fast the cores were during a run, and what the simulator says of a machine that is as fast.

All of this cascade is work of CPUs. So a run on cores whose speed changes is simulated in seconds of work at
full speed: arrivals are moved to what the cores could have done until then, and answers back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from cascade_tools.machine.core_speed import CoreSpeed
from cascade_tools.planning.outcomes import FloatArray, Outcomes

STEP_S = 0.25


@dataclass(frozen=True)
class Pace:
    """One run.

    Attributes:
        work_s: at full speed that a core could do until second 0, `STEP_S`, ... of the trace.
    """

    work_s: tuple[float, ...]

    @property
    def slowness(self) -> float:
        """How many times longer all work took on the average than at full speed."""
        return STEP_S * (len(self.work_s) - 1) / self.work_s[-1]

    def work_at(self, at_s: FloatArray) -> FloatArray:
        """Seconds of work until then; after the last known second as in the last step."""
        done = np.array(self.work_s)
        known_s = STEP_S * np.arange(len(done))
        after = np.maximum(0.0, at_s - known_s[-1]) * (done[-1] - done[-2]) / STEP_S
        found: FloatArray = np.interp(at_s, known_s, done) + after
        return found

    def time_at(self, work_s: FloatArray) -> FloatArray:
        """When so many seconds of work are done."""
        done = np.array(self.work_s)
        known_s = STEP_S * np.arange(len(done))
        after = np.maximum(0.0, work_s - done[-1]) * STEP_S / (done[-1] - done[-2])
        found: FloatArray = np.interp(work_s, done, known_s) + after
        return found


def pace_of(speed: CoreSpeed, begin_s: float, seconds: float) -> Pace:
    """Of a run whose trace began at `begin_s` (`time.perf_counter`) and lasted so long.

    The mean of all cores in each step; of a step without a sample what lies between the next ones. Full speed
    where nothing was seen.
    """
    steps = np.arange(int(np.ceil(seconds / STEP_S)))
    seen = np.floor((np.array(speed.at_s) - begin_s) / STEP_S).astype(np.int64)
    known, found = np.unique(seen), speed.speed()
    mean = [float(found[seen == step].mean()) for step in known]
    rate = np.interp(steps, known, mean) if len(known) else np.ones(len(steps))
    return Pace((0.0, *np.round(np.cumsum(STEP_S * rate), 4).tolist()))


def at_pace(simulate: Callable[[FloatArray], Outcomes], arrival_s: FloatArray, pace: Pace) -> Outcomes:
    """A run simulated on cores of that speed.

    Args:
        simulate: at full speed, requests at given times.
        arrival_s: of the requests.
        pace: of the cores.
    """
    moved_s = pace.work_at(arrival_s)
    found = simulate(moved_s)
    done_s = pace.time_at(moved_s + found.latency_ms / 1000.0)
    return replace(found, arrival_s=arrival_s, latency_ms=1000.0 * (done_s - arrival_s))
