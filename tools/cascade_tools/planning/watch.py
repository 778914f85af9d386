"""Does a served cascade still do what was planned? Readings of its server in, findings out.

    reading  reading  reading ...      what Triton has counted so far
        window   window   ...          rows, executions and compute time between two readings
            findings                   rates against the plan's rates; compute time and utilization

Rates are tested (`rate_test`). Compute time and utilization have fixed bounds: a tier that takes 1.5 times
the planned time for its batches, a device that is busy for 1.5 times what the plan says of the batches that
were executed, and one whose kernels ask for more than the whole of it are an alarm: the models thrash. The
median of the last windows has to show it, so that no single stutter does.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from cascade_tools.planning.rate_test import AboveMaximum, Array, OffShares, RatePlan

THRASHING = 1.5  # times the plan
WHOLE = 1.0  # of a device
LEAST_EXCESS = 0.1  # of a device: what is so near to the plan is no alarm, whatever the ratio
JUDGED_WINDOWS = 60  # compute time and utilization are of this moment
FEWEST_WINDOWS = 5


@dataclass(frozen=True)
class Work:
    """What the instances of one tier have done: rows, executions (batches), seconds of compute."""

    rows: float = 0.0
    executions: float = 0.0
    compute_s: float = 0.0


@dataclass(frozen=True)
class Reading:
    """What a server has counted since its start.

    Attributes:
        at_s: of a clock that never goes back.
        rows: that came to the router, refused ones and those that still wait for it included.
        requests: that they came in.
        ended: requests that were answered or refused. What comes is this and an estimate of what waits, which
            may fall a little; this counter never does.
        asked: rows that each tier was asked for, those included that the router ran by itself.
        work: of the tiers that have models of their own, by tier.
        gpu_utilization: 0..1 now, by GPU; empty where the server shows none.
        gear: in use now, -1 while a fallback serves; None where it is not shown yet.
    """

    at_s: float
    rows: float
    requests: float
    ended: float
    asked: Mapping[str, float] = field(default_factory=dict)
    work: Mapping[str, Work] = field(default_factory=dict)
    gpu_utilization: Mapping[str, float] = field(default_factory=dict)
    gear: int | None = None

    def after(self, before: Reading) -> Reading:
        """The same, but what has come stays: rows in execution wait no more, and are counted later."""
        return replace(self, rows=max(self.rows, before.rows), requests=max(self.requests, before.requests))


@dataclass(frozen=True)
class Window:
    """What happened between two readings; fields as there."""

    seconds: float
    rows: float
    requests: float
    asked: Mapping[str, float]
    work: Mapping[str, Work]
    gpu_utilization: Mapping[str, float]
    gear: int | None

    @property
    def rate_rps(self) -> float:
        """Rows per second that came in."""
        return self.rows / self.seconds


def window_between(before: Reading, after: Reading) -> Window | None:
    """The window of two readings; None where the server was started again between them.

    Only counters tell that. A window after a burst, in which less waits than was thought, has no new rows.
    """
    seconds = after.at_s - before.at_s
    asked = {tier: rows - before.asked.get(tier, 0.0) for tier, rows in after.asked.items()}
    work = {}
    for tier, now in after.work.items():
        was = before.work.get(tier, Work())
        work[tier] = Work(now.rows - was.rows, now.executions - was.executions, now.compute_s - was.compute_s)
    counted = [after.ended - before.ended, *asked.values(), *(done.executions for done in work.values())]
    if seconds <= 0.0 or min(counted) < 0.0:
        return None
    rows, requests = max(0.0, after.rows - before.rows), max(0.0, after.requests - before.requests)
    return Window(seconds, rows, requests, asked, work, after.gpu_utilization, after.gear)


@dataclass(frozen=True)
class PlannedTier:
    """What the plan says of one tier; mappings are by position of the device.

    Attributes:
        batch_ms: of one instance, float64 [max_batch]; position b - 1 holds a batch of b rows.
        seconds_per_row: of one instance, at the planned batch.
        device_share: part of the tier's busy instances that the device has; sums to 1.
        utilization: kernel utilization of one busy instance there, (0, 1].
    """

    batch_ms: Array
    seconds_per_row: float
    device_share: Mapping[int, float]
    utilization: Mapping[int, float]

    def time_ms(self, batch: Array | float) -> Array:
        """Planned time of batches; a mean batch lies between two sizes."""
        return np.asarray(np.interp(batch, np.arange(1, len(self.batch_ms) + 1), self.batch_ms), np.float64)


@dataclass(frozen=True)
class PlannedDevice:
    """One device: its name for people, and its GPU's id on the metrics page, "" where that is not known."""

    name: str
    gpu: str = ""


@dataclass(frozen=True)
class Planned:
    """All that is compared."""

    rates: RatePlan
    tiers: Mapping[str, PlannedTier]
    devices: tuple[PlannedDevice, ...]


@dataclass(frozen=True)
class RateFinding:
    """Rates against the plan.

    Attributes:
        windows: that were seen.
        mean_rps, largest_rps: of them.
        above: evidence that the planned maximum is exceeded; `off`: that the bins' shares are others, None
            without planned bins. Both are an alarm from `alarm_at` on.
        share: of the windows in each planned bin and above the last, [bins + 1]; empty without bins.
    """

    windows: int
    mean_rps: float
    largest_rps: float
    planned_max_rps: float
    above: float
    off: float | None
    alarm_at: float
    share: tuple[float, ...]

    @property
    def exceeded(self) -> bool:
        """Rates are above the planned maximum."""
        return self.above >= self.alarm_at

    @property
    def left(self) -> bool:
        """The rates have left the plan's."""
        return self.exceeded or (self.off is not None and self.off >= self.alarm_at)


@dataclass(frozen=True)
class TierFinding:
    """Compute time of a tier's executions: medians over windows that had some; the batch is a mean."""

    tier: str
    batch: float
    compute_ms: float
    planned_ms: float
    thrashes: bool


@dataclass(frozen=True)
class DeviceFinding:
    """Utilization of a device; medians over windows.

    Attributes:
        asked: by the server's compute time: busy instances times their kernel utilization, may exceed 1.
        shown: by the server's GPU metric, None where there is none for it.
        planned: for the batches that were executed.
    """

    device: str
    asked: float
    shown: float | None
    planned: float
    thrashes: bool


@dataclass(frozen=True)
class Findings:
    """What one look gave."""

    rates: RateFinding
    tiers: tuple[TierFinding, ...]
    devices: tuple[DeviceFinding, ...]

    @property
    def alarms(self) -> tuple[str, ...]:
        """Names of all that raise one."""
        rates = ("rates",) if self.rates.left else ()
        tiers = tuple(f"compute:{found.tier}" for found in self.tiers if found.thrashes)
        return (*rates, *tiers, *(f"utilization:{d.device}" for d in self.devices if d.thrashes))


class Watch:
    """Takes in windows, one after the other, and says what they amount to.

    Args:
        planned: what they are compared with.
        seconds: length of a window.
        memory_s: rates nearer in time than this count as one observation of the planned shares.
        false_alarm_rate: chance of ever calling that the rates have left a plan that they keep.
    """

    def __init__(self, planned: Planned, seconds: float, memory_s: float, false_alarm_rate: float) -> None:
        has_bins = len(planned.rates.share) > 0
        self._planned = planned
        self._above = AboveMaximum(planned.rates.max_rps)
        self._off = OffShares(planned.rates, seconds, memory_s) if has_bins else None
        self._alarm_at = (2.0 if has_bins else 1.0) / false_alarm_rate
        self._rates: list[float] = []
        self._last: deque[Window] = deque(maxlen=JUDGED_WINDOWS)

    @property
    def rates_rps(self) -> npt.NDArray[np.float64]:
        """Of all windows so far, float64 [windows]."""
        return np.array(self._rates, np.float64)

    def add(self, window: Window) -> None:
        """One more window."""
        self._rates.append(window.rate_rps)
        self._above.add(window.rows, window.seconds, window.rows / max(1.0, window.requests))
        if self._off is not None:
            self._off.add(window.rows, window.seconds)
        self._last.append(window)

    def findings(self) -> Findings:
        """Of the windows that were added; at least one."""
        tiers = [self._tier(name) for name in self._planned.tiers]
        enough = len(self._last) >= FEWEST_WINDOWS
        devices = [self._device(number) for number in range(len(self._planned.devices))] if enough else []
        return Findings(self._rate(), tuple(t for t in tiers if t is not None), tuple(devices))

    def _rate(self) -> RateFinding:
        rates = self.rates_rps
        off = self._off
        return RateFinding(
            windows=len(rates),
            mean_rps=float(rates.mean()),
            largest_rps=float(rates.max()),
            planned_max_rps=self._planned.rates.max_rps,
            above=math.exp(self._above.log_wealth),
            off=None if off is None else math.exp(off.log_wealth),
            alarm_at=self._alarm_at,
            share=() if off is None else tuple((off.count / off.count.sum()).tolist()),
        )

    def _tier(self, name: str) -> TierFinding | None:
        """None for too few windows in which the tier's model ran."""
        plan = self._planned.tiers[name]
        done = [window.work[name] for window in self._last if name in window.work]
        done = [work for work in done if work.executions > 0.0]
        if len(done) < FEWEST_WINDOWS:
            return None
        batch = np.array([work.rows / work.executions for work in done])
        compute_ms = np.array([1000.0 * work.compute_s / work.executions for work in done])
        planned_ms = plan.time_ms(batch)
        return TierFinding(
            tier=name,
            batch=float(np.median(batch)),
            compute_ms=float(np.median(compute_ms)),
            planned_ms=float(np.median(planned_ms)),
            thrashes=bool(np.median(compute_ms / planned_ms) > THRASHING),
        )

    def _device(self, number: int) -> DeviceFinding:
        device = self._planned.devices[number]
        asked = np.array([self._asked_of(number, window) for window in self._last])
        planned = np.array([self._planned_of(number, window) for window in self._last])
        shown = [w.gpu_utilization.get(device.gpu) for w in self._last] if device.gpu else [None]
        known = np.array([value for value in shown if value is not None])
        seen = float(np.median(known)) if known.size else None
        used = float(np.median(asked))
        plan = float(np.median(planned))
        excess = max(used, seen or 0.0) - plan
        return DeviceFinding(
            device=device.name,
            asked=used,
            shown=seen,
            planned=plan,
            thrashes=used > WHOLE or (excess >= LEAST_EXCESS and plan + excess > THRASHING * plan),
        )

    def _asked_of(self, number: int, window: Window) -> float:
        """Busy instances times their kernel utilization."""
        return self._sum(number, window, lambda plan, work: work.compute_s)

    def _planned_of(self, number: int, window: Window) -> float:
        """The same, as planned for the batches that were executed."""
        return self._sum(
            number,
            window,
            lambda plan, work: work.executions * float(plan.time_ms(work.rows / work.executions)) / 1000.0,
        )

    def _sum(self, number: int, window: Window, busy_s: Callable[[PlannedTier, Work], float]) -> float:
        found = 0.0
        for name, plan in self._planned.tiers.items():
            work = window.work.get(name, Work())
            if work.executions > 0.0:
                seconds = busy_s(plan, work)
            else:  # the router runs it by itself, and nobody counts its time
                seconds = window.asked.get(name, 0.0) * plan.seconds_per_row
            share = plan.device_share.get(number, 0.0) * plan.utilization.get(number, 0.0)
            found += seconds / window.seconds * share
        return found
