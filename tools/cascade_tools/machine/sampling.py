"""A figure that is read again and again, and the area under it."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable

from cascade_tools.errors import CascadeError


class Trapezoid:
    """Area under samples that are joined by straight lines."""

    def __init__(self) -> None:
        self.area = 0.0
        self.duration_s = 0.0
        self._last: tuple[float, float] | None = None

    def add(self, time_s: float, value: float) -> None:
        """One more sample; one that is not later than the last is left out."""
        if self._last is not None:
            last_s, last_value = self._last
            if time_s <= last_s:
                return
            self.area += (time_s - last_s) * (value + last_value) / 2.0
            self.duration_s += time_s - last_s
        self._last = (time_s, value)


class _Samples:
    """What the thread and its owner share."""

    def __init__(self, read: Callable[[], float]) -> None:
        self.under = Trapezoid()
        self._read = read
        self._lock = threading.Lock()

    def take(self) -> None:
        with self._lock:
            value = self._read()
            self.under.add(time.monotonic(), value)


class Sampler:
    """Reads a figure every `period_s` on a thread of its own, from its making until `close`.

    The thread also ends with the process, and when nobody holds the sampler any more.

    Args:
        read: the figure now; its `CascadeError` ends the sampling and is raised by the next `take`.
        period_s: seconds between two samples.
    """

    def __init__(self, read: Callable[[], float], period_s: float) -> None:
        self._samples = _Samples(read)
        self._failed: list[CascadeError] = []
        self._samples.take()
        stop = threading.Event()
        self._stop = stop
        # The thread knows nothing of this object, so it does not keep it alive.
        self._thread = threading.Thread(
            target=_sample, args=(self._samples, stop, period_s, self._failed), name="sampler", daemon=True
        )
        self._end = weakref.finalize(self, stop.set)
        self._thread.start()

    def take(self) -> Trapezoid:
        """One more sample now, and what lies under all of them.

        Raises:
            CascadeError: the figure could not be read.
        """
        if self._failed:
            raise self._failed[0]
        if not self._stop.is_set():
            self._samples.take()
        return self._samples.under

    def close(self) -> None:
        """End the thread; what was sampled stays."""
        self._stop.set()
        self._thread.join()


def _sample(samples: _Samples, stop: threading.Event, period_s: float, failed: list[CascadeError]) -> None:
    while not stop.wait(period_s):
        try:
            samples.take()
        except CascadeError as error:
            failed.append(error)
            return
