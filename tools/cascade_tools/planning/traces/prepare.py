"""From what a file holds to the arrivals that are sent: a window is cut out and scaled to a peak."""

from __future__ import annotations

import math

from cascade_tools.planning.traces.counts import Counts, FloatArray
from cascade_tools.planning.traces.shape import PEAK_WINDOW_S, cut, scale_to_peak

MOST_ARRIVALS = 5_000_000
MOST_WINDOWS = 50_000_000


class BadShape(ValueError):
    """The wanted part of a trace is empty or too large; the message says so."""


def arrivals_of(
    trace: Counts | FloatArray,
    window: tuple[float, float] | None = None,
    peak: float | None = None,
    seed: int = 0,
    peak_window_s: float = PEAK_WINDOW_S,
) -> FloatArray:
    """Arrival times of a part of a trace.

    Args:
        trace: arrival times, or counts, which are spread within their windows.
        window: seconds [from, to) of the trace that are taken; None for all of it.
        peak: requests per second in the fullest `peak_window_s` of the part; None leaves the rate.
        seed: of what is drawn.
        peak_window_s: over which the peak is counted.

    Raises:
        BadShape: nothing arrives in the window, or more than `MOST_ARRIVALS` do; or it is too long for the
            windows in which the peak is looked for.
    """
    from_s, to_s = window or (0.0, math.inf)
    if isinstance(trace, Counts):
        part, begin_s = trace.around(from_s, to_s)
        arrival = _spread(part, peak, seed)
        arrival = cut(arrival, from_s - begin_s, to_s - begin_s)
    else:
        arrival = cut(trace, from_s, to_s) if window else trace
    if not arrival.size:
        raise BadShape(
            f"nothing arrives between second {from_s:g} and second {to_s:g}" if window else "nothing arrives"
        )
    if peak is not None:
        if arrival[-1] > MOST_WINDOWS * peak_window_s:
            raise BadShape(f"{arrival[-1]:.0f} s are more than {MOST_WINDOWS} windows of {peak_window_s:g} s")
        arrival = scale_to_peak(arrival, peak, seed, peak_window_s)
    _check_size(len(arrival))
    if not arrival.size:
        raise BadShape(f"nothing is left at a peak of {peak:g} requests/s")
    return arrival


def _spread(counts: Counts, peak: float | None, seed: int) -> FloatArray:
    """Counts as arrivals; large ones are brought near the wanted peak first, so that they fit."""
    most = int(counts.count.max(initial=0))
    if peak is not None and most:
        # The fullest window has the peak as its mean; its fullest second then lies above.
        counts = counts.scaled(peak * counts.window_s / most, seed)
    _check_size(int(counts.count.sum()))
    return counts.arrivals(seed)


def _check_size(count: int) -> None:
    if count > MOST_ARRIVALS:
        raise BadShape(f"{count} requests arrive, more than {MOST_ARRIVALS}")
