"""A timer that wakes an asyncio loop at given times, not to whole ms as its own timers do."""

from __future__ import annotations

import asyncio
import ctypes
import os
import time
from collections.abc import Callable

CLOCK_MONOTONIC = 1  # the clock of time.perf_counter() on Linux
NONBLOCK = 0o4000
ABSOLUTE = 1


class _TimeSpec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Timer(ctypes.Structure):
    _fields_ = (("interval", _TimeSpec), ("value", _TimeSpec))


class Alarm:
    """Linux's timerfd, which Python itself offers from 3.13 on.

    Args:
        loop: that is woken.
        ring: called in the loop after each time that was set.

    Raises:
        OSError: the kernel has no such timer left.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, ring: Callable[[], None]) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._timer = self._libc.timerfd_create(CLOCK_MONOTONIC, NONBLOCK)
        if self._timer < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._loop = loop
        self._ring = ring
        loop.add_reader(self._timer, self._rang)

    def set(self, at_s: float) -> None:
        """Ring at a time of `time.perf_counter()`; at once if it has passed."""
        at_s = max(at_s, time.perf_counter() + 1e-6)  # 0 would turn it off
        whole = int(at_s)
        value = _Timer(_TimeSpec(0, 0), _TimeSpec(whole, int((at_s - whole) * 1e9)))
        if self._libc.timerfd_settime(self._timer, ABSOLUTE, ctypes.byref(value), None) != 0:
            raise OSError(ctypes.get_errno(), "timerfd_settime")

    def close(self) -> None:
        """It never rings again."""
        self._loop.remove_reader(self._timer)
        os.close(self._timer)

    def _rang(self) -> None:
        os.read(self._timer, 8)
        self._ring()
