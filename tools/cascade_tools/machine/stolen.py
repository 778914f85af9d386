"""Time that the host of a virtual machine kept for itself while its cores had work."""

from __future__ import annotations

from collections.abc import Callable

import psutil

IDLE = ("idle", "iowait", "steal", "guest", "guest_nice")  # guests are in user time already


def stretch_since_now() -> Callable[[], float]:
    """A function that says how many times longer all work has taken since, because cores were taken away.

    1 where nothing was, or where the system does not tell.
    """
    before = psutil.cpu_times()

    def stretch() -> float:
        now = psutil.cpu_times()
        spent = {name: getattr(now, name) - getattr(before, name) for name in now._fields}
        worked_s = sum(seconds for name, seconds in spent.items() if name not in IDLE)
        return 1.0 + max(0.0, spent.get("steal", 0.0)) / worked_s if worked_s > 0.0 else 1.0

    return stretch
