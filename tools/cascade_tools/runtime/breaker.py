"""Whether a tier is worth asking: a circuit breaker with a half-open probe.

    closed --3 failures in a row--> open --delay--> half open: one probe --it answers--> closed
                                     ^                        |
                                     '--- it fails, delay doubles ---'

Takes time as an argument and does no I/O. Not safe for threads by itself; `Tiers` holds the lock.
"""

from __future__ import annotations

FAILURES_TO_OPEN = 3
FIRST_DELAY_S = 0.5
LONGEST_DELAY_S = 10.0


class Breaker:
    """State of one tier.

    Attributes:
        closed: requests may ask the tier.
    """

    def __init__(self) -> None:
        self.closed = True
        self._failures = 0
        self._delay_s = FIRST_DELAY_S
        self._probe_at_s = 0.0
        self._probing = False

    @property
    def untroubled(self) -> bool:
        """Closed, and the last call was answered: another answer changes nothing."""
        return self.closed and not self._failures

    def success(self) -> bool:
        """The tier answered; true if that closed an open breaker."""
        was_open = not self.closed
        self.closed, self._failures = True, 0
        self._delay_s, self._probing = FIRST_DELAY_S, False
        return was_open

    def failure(self, now: float) -> bool:
        """The tier failed; true if that opened the breaker."""
        self._failures += 1
        if self.closed:
            if self._failures < FAILURES_TO_OPEN:
                return False
            self.closed = False
            self._probe_at_s = now + self._delay_s
            return True
        if self._probing:
            self._probing = False
            self._delay_s = min(2.0 * self._delay_s, LONGEST_DELAY_S)
            self._probe_at_s = now + self._delay_s
        return False

    def take_probe(self, now: float) -> bool:
        """True once per delay, to the one who then has to report what the probe found."""
        due = not self.closed and not self._probing and now >= self._probe_at_s
        self._probing = self._probing or due
        return due
