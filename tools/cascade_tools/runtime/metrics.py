"""The router's figures on Triton's own `/metrics`.

Every update of a Triton metric is a message to the server, so counts stay in memory and one thread writes
the changes out. Distributions are counters with an `le` label, as Prometheus histograms are.
"""

from __future__ import annotations

import ctypes
import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable
from itertools import accumulate
from typing import Any, NamedTuple

CONFIDENCE_EDGES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
LATENCY_EDGES_MS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 5000.0)


class Family(NamedTuple):
    """Name, help text and kind (`counter` or `gauge`) of one metric family."""

    name: str
    text: str
    kind: str


ANSWERS = Family("cascade_answers", "Rows answered, by tier.", "counter")
ESCALATIONS = Family("cascade_escalations", "Rows handed on, by tiers.", "counter")
DEGRADED = Family("cascade_degraded", "Rows answered around a broken tier.", "counter")
DEADLINES = Family("cascade_deadline", "Rows answered early to keep a deadline.", "counter")
FALLBACKS = Family("cascade_fallback", "Rows answered by the routes without a broken tier.", "counter")
TIER_ERRORS = Family("cascade_tier_errors", "Calls that a tier did not answer, by tier.", "counter")
TIER_BROKEN = Family("cascade_tier_broken", "1 while a tier is not asked, because it keeps failing.", "gauge")
REJECTED = Family("cascade_rejected", "Rows refused at admission.", "counter")
FAILED = Family("cascade_failed", "Rows that ended in an error.", "counter")
GEAR = Family("cascade_gear", "Gear in use; -1 for one of a fallback.", "gauge")
PLAN_REFUSED = Family("cascade_plan_refused", "Gear plans that were not taken over.", "counter")
SHADOW_ROWS = Family("cascade_shadow_rows", "Answered rows shown to the last tier, too, by tier.", "counter")
SHADOW_AGREES = Family("cascade_shadow_agrees", "Those of them that it answered alike, by tier.", "counter")
DRIFT = Family("cascade_drift", "1 once a tier disagrees more often than the plan tolerates.", "gauge")
SHADOW_DROPPED = Family("cascade_shadow_dropped", "Rows sampled and not shown, by tier.", "counter")
CONFIDENCE = Family("cascade_confidence_bucket", "Confidences, by tier, cumulative.", "counter")
LATENCY = Family("cascade_latency_ms_bucket", "Request latency, cumulative.", "counter")

Labels = tuple[tuple[str, str], ...]


class Metrics:
    """Counts in memory; `flush` writes what changed.

    Args:
        make_family: called once per family, returns an object whose `Metric(labels=...)` has
            `increment` and `set`, as `pb_utils.MetricFamily` does.
        common: labels of every metric.
    """

    def __init__(self, make_family: Callable[[Family], Any], common: dict[str, str]) -> None:
        self._make_family = make_family
        self._common = common
        self._lock = threading.Lock()
        self._pending: dict[tuple[Family, Labels], float] = {}
        self._distributions: dict[tuple[Family, Labels], _Distribution] = {}
        self._families: dict[Family, Any] = {}
        self._metrics: dict[tuple[Family, Labels], Any] = {}

    def add(self, family: Family, amount: float = 1.0, **labels: str) -> None:
        """Raise a counter."""
        key = (family, tuple(sorted(labels.items())))
        with self._lock:
            self._pending[key] = self._pending.get(key, 0.0) + amount

    def set(self, family: Family, value: float, **labels: str) -> None:
        """Set a gauge."""
        with self._lock:
            self._pending[(family, tuple(sorted(labels.items())))] = value

    def observe(
        self, family: Family, values: Iterable[float], edges: tuple[float, ...], **labels: str
    ) -> None:
        """Add values to a distribution: every bucket whose edge is not below the value grows."""
        key = (family, tuple(sorted(labels.items())))
        with self._lock:
            known = self._distributions.get(key)
            if known is None:
                known = _Distribution(edges, [0] * (len(edges) + 1))
                self._distributions[key] = known
            for value in values:
                known.counts[bisect_left(edges, value)] += 1

    def flush(self) -> None:
        """Write all changes since the last call to Triton."""
        with self._lock:
            changes, self._pending = self._pending, {}
            distributions, self._distributions = self._distributions, {}
        for (family, labels), distribution in distributions.items():
            for edge, count in distribution.cumulative():
                if count:
                    changes[(family, (*labels, ("le", edge)))] = count
        for (family, labels), value in changes.items():
            metric = self._metric(family, labels)
            if family.kind == "gauge":
                metric.set(value)
            else:
                metric.increment(value)

    def close(self) -> None:
        """Flush, and keep all metrics for as long as this process lives.

        Triton 2.51 corrupts its memory when a metric is deleted that a newly loaded version of the model has
        got under the same labels; a reference that nobody gives back keeps Python from deleting any.
        """
        self.flush()
        for kept in (*self._metrics.values(), *self._families.values()):
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(kept))

    def _metric(self, family: Family, labels: Labels) -> Any:
        key = (family, labels)
        if key not in self._metrics:
            if family not in self._families:
                self._families[family] = self._make_family(family)
            self._metrics[key] = self._families[family].Metric(labels={**self._common, **dict(labels)})
        return self._metrics[key]


class _Distribution(NamedTuple):
    """Values per bucket since the last flush; the last bucket has no edge."""

    edges: tuple[float, ...]
    counts: list[int]

    def cumulative(self) -> list[tuple[str, int]]:
        names = [*[f"{edge:g}" for edge in self.edges], "+Inf"]
        return list(zip(names, accumulate(self.counts), strict=True))
