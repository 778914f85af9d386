"""Have the arrival rates left what the gears were planned for? Two bets against the plan.

Both follow a bettor who starts with 1: while the plan holds, the wealth ever exceeds 1 / alpha with a chance
of at most alpha (Ville; Waudby-Smith and Ramdas, 2024), so it may be read after every window. The stake is
spread over the window since when the plan no longer holds (1 / (s (s + 1)) on a change at window s).

- `AboveMaximum`: no window's rate is above the planned maximum, whatever the rates do below it. Arrivals of
  a window are Poisson around its rate, or burstier: counts are divided by their dispersion, which the windows
  before it show (for a divisor d >= 1 the bet stays fair).
- `OffShares`: windows fall into the planned bins as often as planned. Rates that are near in time depend on
  each other, so the windows of one *memory* share one vote: each stakes its power 1 / (windows of a memory),
  which is fair for any dependence within it (Hoelder), and memories count as independent.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from statistics import median

import numpy as np
import numpy.typing as npt
from scipy.stats import poisson

Array = npt.NDArray[np.float64]

GROWTH = np.array([1.05, 1.1, 1.25, 1.5, 2.0, 3.0, 5.0])  # rate over the planned maximum that is bet on
LOG_GROWTH = np.log(GROWTH)
LEAST_SHARE = 0.005  # of the windows, that every bin may have, the one above the maximum included
DISPERSION_WINDOWS = 60
FEWEST_PAIRS = 8  # to tell a dispersion from
UNKNOWN_DISPERSION = 16.0  # until then
MEDIAN_OF_SQUARE = 0.4549364231195724  # of a standard normal variable
DOUBT = 2.3  # relative standard error of that median from one pair of windows
HALF_LIFE_MEMORIES = 30.0  # of what is remembered of the shares
LARGEST_LOG = 600.0  # of a wealth, so that it stays a number
RATES_PER_BIN = 8


@dataclass(frozen=True)
class RatePlan:
    """Arrival rates (rows/s) that the gears were planned for.

    Attributes:
        max_rps: the highest.
        edges_rps: of the bins, float64 [bins + 1], ascending; empty where only the maximum is known.
        share: of the time in each bin, float64 [bins], sums to 1.
    """

    max_rps: float
    edges_rps: Array
    share: Array

    @classmethod
    def below(cls, max_rps: float) -> RatePlan:
        """Nothing but a maximum."""
        return cls(max_rps, np.zeros(0), np.zeros(0))


class _Wealth:
    """Of bets on the same change, spread over the window since when; `gain` has one entry per bet."""

    def __init__(self, bets: int) -> None:
        self._windows = 0
        self._log_staked = np.full(bets, -np.inf)
        self.log = 0.0

    def take(self, log_gain: Array) -> None:
        """The gains of one more window."""
        self._windows += 1
        entry = -np.log(self._windows * (self._windows + 1.0))
        self._log_staked = np.minimum(np.logaddexp(self._log_staked, entry) + log_gain, LARGEST_LOG)
        bets = len(self._log_staked)
        held = np.logaddexp.reduce(self._log_staked) - np.log(bets)
        self.log = float(np.logaddexp(held, -np.log(self._windows + 1.0)))


class AboveMaximum:
    """Bets that rates are above a maximum."""

    def __init__(self, max_rps: float) -> None:
        self._max_rps = max_rps
        self._wealth = _Wealth(len(GROWTH))
        self._dispersion = Dispersion()

    @property
    def log_wealth(self) -> float:
        """After the windows that were added."""
        return self._wealth.log

    def add(self, rows: float, seconds: float, rows_per_request: float = 1.0) -> None:
        """One more window."""
        spread = max(self._dispersion.value(), rows_per_request)
        self._dispersion.add(rows, seconds)
        self._wealth.take((rows * LOG_GROWTH - (GROWTH - 1.0) * self._max_rps * seconds) / spread)


class Dispersion:
    """Variance of a window's rows over their mean, from neighbouring windows, so that rates may wander."""

    def __init__(self) -> None:
        self._before: tuple[float, float] | None = None
        self._pairs: deque[float] = deque(maxlen=DISPERSION_WINDOWS)

    def add(self, rows: float, seconds: float) -> None:
        """One more window."""
        rate_rps = rows / seconds
        if self._before is not None:
            before_rps, before_s = self._before
            # The expected squared difference of the rates of two windows with Poisson arrivals.
            expected = (rate_rps + before_rps) / 2.0 * (1.0 / seconds + 1.0 / before_s)
            if expected > 0.0:
                self._pairs.append((rate_rps - before_rps) ** 2 / expected)
        self._before = (rate_rps, seconds)

    def value(self) -> float:
        """At least 1: the median over the pairs, since rates may jump, and a standard error more."""
        pairs = len(self._pairs)
        if pairs < FEWEST_PAIRS:
            return UNKNOWN_DISPERSION
        return max(1.0, median(self._pairs) / MEDIAN_OF_SQUARE * (1.0 + DOUBT / math.sqrt(pairs)))


class OffShares:
    """Bets that windows fall into bins otherwise than planned.

    Args:
        planned: with bins.
        seconds: length of a window.
        memory_s: rates that are nearer in time than this count as one.
    """

    def __init__(self, planned: RatePlan, seconds: float, memory_s: float) -> None:
        self._edges = planned.edges_rps
        expected = seen_shares(planned, seconds)
        # Not normalized: windows gain at most 1 on average, whether the planned shares are of rates or were
        # counted from windows, which have the noise already.
        self._fair = np.maximum(np.maximum(expected, np.append(planned.share, 0.0)), LEAST_SHARE)
        self._votes = max(1, round(memory_s / seconds))
        self._wealth = _Wealth(1)
        self._seen = np.zeros(len(expected))  # memories, fading
        self._now = np.zeros(len(expected))  # windows of this memory
        self.count = np.zeros(len(expected), np.int64)

    @property
    def log_wealth(self) -> float:
        """After the windows that were added."""
        return self._wealth.log

    def add(self, rows: float, seconds: float) -> None:
        """One more window."""
        number = int(np.searchsorted(self._edges[1:], rows / seconds, side="left"))
        self.count[number] += 1
        guess = (self._seen[number] + 0.5) / (self._seen.sum() + 0.5 * len(self._seen))
        self._wealth.take(np.array([np.log(guess / self._fair[number]) / self._votes]))
        self._now[number] += 1.0
        if self._now.sum() >= self._votes:  # a guess may only rest on earlier memories
            self._seen = self._seen * 0.5 ** (1.0 / HALF_LIFE_MEMORIES) + self._now / self._now.sum()
            self._now[:] = 0.0


def seen_shares(planned: RatePlan, seconds: float) -> Array:
    """Share of windows that show a rate in each bin, and above the last: [bins + 1].

    Modelled: rates are spread evenly inside a bin, and a window's arrivals are Poisson around its rate.
    """
    edges = planned.edges_rps
    inside = (np.arange(RATES_PER_BIN) + 0.5) / RATES_PER_BIN
    rates = edges[:-1, None] + inside * np.diff(edges)[:, None]
    below = poisson.cdf(np.floor(edges[1:, None, None] * seconds), rates * seconds).mean(axis=2)
    cumulative = np.concatenate([below @ planned.share, [1.0]])
    return np.diff(cumulative, prepend=0.0)
