"""What became of the requests of a trace, simulated or measured: the same figures from both.

Arrays are [requests], in order of arrival; a request is one row.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Outcomes:
    """One run.

    Attributes:
        arrival_s: when each request came (its planned time), from the beginning of the trace; ascending.
        latency_ms: from that time to the answer; NaN where there was none (refused, failed).
        tier: position in the full ladder of the tier that answered, -1 without an answer.
        correct: whether the answer was right; false without one.
        gear: number of the gear that served it, -1 where it is not known.
    """

    arrival_s: FloatArray
    latency_ms: FloatArray
    tier: IntArray
    correct: npt.NDArray[np.bool_]
    gear: IntArray

    @property
    def answered(self) -> npt.NDArray[np.bool_]:
        """Which requests got an answer."""
        return self.tier >= 0

    def goodput(self, slo_ms: float) -> float:
        """Share of all requests that were answered within the SLO, 0..1."""
        return float(np.mean(self.answered & (self.latency_ms <= slo_ms)))

    def throughput_rps(self) -> float:
        """Answers over the time from the first arrival to the last answer."""
        done_s = self.arrival_s + self.latency_ms / 1000.0
        end_s = float(np.nanmax(done_s)) if self.answered.any() else float(self.arrival_s[-1])
        return float(self.answered.sum()) / max(end_s - float(self.arrival_s[0]), 1e-9)

    def latency_quantile_ms(self, share: float) -> float:
        """Latency that a share of the answered requests keeps; NaN without answers."""
        known = self.latency_ms[self.answered]
        return float(np.quantile(known, share)) if known.size else float("nan")

    def accuracy(self) -> float:
        """Share of right answers among the answers."""
        return float(self.correct[self.answered].mean()) if self.answered.any() else float("nan")

    def shares(self, tiers: int) -> FloatArray:
        """Share of the answers that each tier of the ladder gave, float64 [tiers]."""
        count = np.bincount(self.tier[self.answered], minlength=tiers).astype(np.float64)
        return count / max(1.0, float(count.sum()))

    def per_second_quantile_ms(self, share: float, window_s: float = 1.0) -> FloatArray:
        """The quantile of the requests that arrived in each window, float64 [windows].

        NaN where none arrived; infinite where the share was not answered.
        """
        window = (self.arrival_s // window_s).astype(np.int64)
        found = np.full(int(window[-1]) + 1 if window.size else 0, np.nan)
        times = np.where(self.answered, self.latency_ms, np.inf)
        for number in np.unique(window).tolist():
            found[number] = np.quantile(times[window == number], share, method="higher")
        return found
