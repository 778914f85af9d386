"""Which gear serves the rate of this moment (CascadeServe, online part).

Takes time as an argument and does no I/O, so that it can be replayed.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence


class GearBox:
    """Counts arrivals per window and looks the gear up.

    A faster gear need not wait for the end of the window: rows that came in a part of it are a rate of the
    whole that can only grow. A slower one comes at its end alone.

    Args:
        up_to_rps: highest rate of each gear, ascending; the last is infinite. The first gear is the most
            accurate, the last the fastest.
        alpha: a slower gear does not come back while `rate < alpha * queue`, that is, while a queue drains.
        window_ms: arrivals are counted over windows of at least this length.
    """

    def __init__(self, up_to_rps: Sequence[float], alpha: float, window_ms: float) -> None:
        self._up_to_rps = tuple(up_to_rps)
        self._fastest = len(self._up_to_rps) - 1
        self._alpha = alpha
        self._window_s = window_ms / 1000.0
        self._window_start: float | None = None
        self._arrivals = 0
        self.gear = 0

    def observe(self, now: float, arrivals: int, queue: int) -> int:
        """Take in what arrived and return the gear to use.

        Args:
            now: seconds of a monotonic clock.
            arrivals: rows that arrived since the last call, refused ones included.
            queue: rows admitted and unanswered.
        """
        if not self._fastest:
            return 0  # there is no other
        if self._window_start is None:
            self._window_start = now
        elapsed = now - self._window_start
        if elapsed >= self._window_s:
            rate = self._arrivals / elapsed
            wanted = self._gear_of(rate)
            draining = rate < self._alpha * queue
            if wanted > self.gear or not draining:
                self.gear = wanted
            self._window_start = now
            self._arrivals = 0
        elif self.gear < self._fastest:
            self.gear = max(self.gear, self._gear_of(self._arrivals / self._window_s))
        self._arrivals += arrivals
        return self.gear

    def _gear_of(self, rate_rps: float) -> int:
        return bisect_left(self._up_to_rps, rate_rps)
