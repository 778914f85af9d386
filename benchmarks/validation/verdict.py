"""When a simulated run agrees with a measured one: the bars, and what a pair's own spread says of it."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from cascade_tools.planning.outcomes import Outcomes

FIGURES = ("throughput_rps", "goodput", "p50_ms", "p95_ms", "shares")
RELATIVE = ("throughput_rps", "p50_ms", "p95_ms")
CALM = 0.85  # share of the capacity up to which latencies are held against each other, too
BARS = {"throughput_rps": 0.05, "goodput": 0.03, "p50_ms": 0.15, "p95_ms": 0.20, "shares": 0.01}
BARS_ABOVE = {"throughput_rps": 0.05, "goodput": 0.05}


@dataclass(frozen=True)
class Figures:
    """What is compared; `shares` is of the answers, by tier of the ladder."""

    throughput_rps: float
    goodput: float
    p50_ms: float
    p95_ms: float
    shares: tuple[float, ...]


def figures_of(outcomes: Outcomes, slo_ms: float, tiers: int) -> Figures:
    """The figures of one run."""
    return Figures(
        throughput_rps=outcomes.throughput_rps(),
        goodput=outcomes.goodput(slo_ms),
        p50_ms=outcomes.latency_quantile_ms(0.5),
        p95_ms=outcomes.latency_quantile_ms(0.95),
        shares=tuple(outcomes.shares(tiers).tolist()),
    )


def middle(runs: Sequence[Figures]) -> Figures:
    """The median of each figure by itself."""
    shares = np.median([run.shares for run in runs], axis=0).tolist()
    plain = {name: statistics.median(getattr(run, name) for run in runs) for name in FIGURES[:-1]}
    return Figures(**plain, shares=tuple(shares))


def distance(name: str, one: Figures, other: Figures) -> float:
    """How far two runs are apart: relative to `other`, or of shares in absolute terms."""
    if name == "shares":
        return float(np.max(np.abs(np.subtract(one.shares, other.shares))))
    apart = abs(float(getattr(one, name)) - float(getattr(other, name)))
    return apart / max(1e-9, float(getattr(other, name))) if name in RELATIVE else apart


@dataclass(frozen=True)
class Verdict:
    """One pair.

    Attributes:
        measured: medians of the runs.
        spread: by figure, the largest less the smallest of the runs, as `distance` counts.
        error: by figure, simulated against measured.
        bars: that hold at this rate.
        unsteady: figures whose spread is beyond their own bar; the pair does not count then.
        lagged: runs whose generator lagged; the pair does not count then either.
        noisy: runs from which the host took more than a tenth of the cores' work; likewise.
        missed: figures whose error is beyond the bar.
    """

    measured: Figures
    spread: Mapping[str, float]
    error: Mapping[str, float]
    bars: Mapping[str, float]
    unsteady: tuple[str, ...]
    lagged: int
    noisy: int
    missed: tuple[str, ...] = field(default=())

    @property
    def valid(self) -> bool:
        """It counts."""
        return not self.unsteady and not self.lagged and not self.noisy


def bars_of(rate_share: float) -> Mapping[str, float]:
    """Those that hold at this share of the capacity."""
    return BARS if rate_share <= CALM else BARS_ABOVE


def judge(
    simulated: Figures, runs: Sequence[Figures], rate_share: float, lagged: int = 0, noisy: int = 0
) -> Verdict:
    """Hold one simulated run against the measured ones.

    Args:
        simulated: the same requests at the same times.
        runs: at least one.
        rate_share: of the capacity.
        lagged: how many of the runs had a generator that lagged.
        noisy: of how many the host took too much.
    """
    bars = bars_of(rate_share)
    measured = middle(runs)
    spread = {name: max(distance(name, a, b) for a in runs for b in runs) for name in FIGURES}
    error = {name: distance(name, simulated, measured) for name in FIGURES}
    return Verdict(
        measured=measured,
        spread=spread,
        error=error,
        bars=bars,
        unsteady=tuple(name for name, bar in bars.items() if not spread[name] <= bar),
        lagged=lagged,
        noisy=noisy,
        missed=tuple(name for name, bar in bars.items() if not error[name] <= bar),
    )
