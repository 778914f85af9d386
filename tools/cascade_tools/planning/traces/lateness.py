"""Whether a generator of load kept to its times.

Latency counts from the planned time of a request, so lateness is never hidden; but a generator that lags
sends another trace than the one that was planned: gaps are filled up, bursts are smoothed. A run counts if

    p99 of the lateness <= max(2 ms, a tenth of the median latency)

Then 99 of 100 requests were sent so near to their time that the median and the percentiles above it are off
by at most a tenth. 2 ms is a turn of the scheduler, and short beside the 100 ms over which the router counts
arrivals.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cascade_tools.planning.traces.counts import FloatArray

ALLOWED_MS = 2.0
ALLOWED_SHARE = 0.1
JUDGED_AT = 0.99


@dataclass(frozen=True)
class Lateness:
    """How late requests were sent, against their plan.

    Attributes:
        p50_ms: and the other quantiles, over all requests.
        allowed_ms: what the p99 may be.
    """

    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float
    allowed_ms: float

    @property
    def valid(self) -> bool:
        """The generator kept up."""
        return self.p99_ms <= self.allowed_ms


def judge(lateness_ms: FloatArray, latency_ms: FloatArray) -> Lateness:
    """Quantiles and the verdict.

    Args:
        lateness_ms: actual less planned time of sending, [requests], at least one.
        latency_ms: from the planned time to the answer, NaN without one.
    """
    p50, p95, p99 = np.quantile(lateness_ms, (0.5, 0.95, JUDGED_AT)).tolist()
    known = latency_ms[~np.isnan(latency_ms)]
    median_ms = float(np.median(known)) if known.size else 0.0
    allowed_ms = max(ALLOWED_MS, ALLOWED_SHARE * median_ms)
    return Lateness(p50, p95, p99, float(lateness_ms.max()), allowed_ms)
