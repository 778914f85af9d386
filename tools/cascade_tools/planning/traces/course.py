"""A run over time: what became of the requests that arrived in each window."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cascade_tools.planning.outcomes import Outcomes

MOST_WINDOWS = 600


@dataclass(frozen=True)
class Moment:
    """One window; None where nothing arrived, was answered, or is known.

    Attributes:
        second: at which it begins.
        arrived: requests per second that arrived in it.
        answered: how many of them got an answer, per second.
        goodput: share of them that was answered within the SLO.
        accuracy: share of right answers among the answers.
        gear: that served the most of them.
    """

    second: float
    arrived: float
    answered: float
    goodput: float | None
    accuracy: float | None
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    gear: int | None


def window_for(seconds: float) -> float:
    """1 s, or for long traces so many whole seconds that there are at most 600 windows."""
    return float(max(1, -(-int(np.ceil(seconds)) // MOST_WINDOWS)))


def course(outcomes: Outcomes, slo_ms: float, window_s: float = 1.0) -> list[Moment]:
    """The run, window by window from second 0; latencies are of the answered requests."""
    if not outcomes.arrival_s.size:
        return []
    last = int(outcomes.arrival_s[-1] // window_s)
    edges = np.searchsorted(outcomes.arrival_s, np.arange(last + 2) * window_s, side="left")
    return [
        _moment(
            outcomes, slice(int(edges[number]), int(edges[number + 1])), number * window_s, slo_ms, window_s
        )
        for number in range(last + 1)
    ]


def _moment(outcomes: Outcomes, mine: slice, second: float, slo_ms: float, window_s: float) -> Moment:
    count = mine.stop - mine.start
    if not count:
        return Moment(second, 0.0, 0.0, None, None, None, None, None, None)
    answered = outcomes.answered[mine]
    latency_ms = outcomes.latency_ms[mine][answered]
    known = outcomes.gear[mine][outcomes.gear[mine] >= 0]
    p50, p95, p99 = np.quantile(latency_ms, (0.5, 0.95, 0.99)).tolist() if latency_ms.size else (None,) * 3
    return Moment(
        second=second,
        arrived=count / window_s,
        answered=latency_ms.size / window_s,
        goodput=float((latency_ms <= slo_ms).sum()) / count,
        accuracy=float(outcomes.correct[mine][answered].mean()) if latency_ms.size else None,
        p50_ms=p50,
        p95_ms=p95,
        p99_ms=p99,
        gear=int(np.bincount(known).argmax()) if known.size else None,
    )
