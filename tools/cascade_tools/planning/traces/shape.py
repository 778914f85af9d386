"""Changes to arrival times: cutting a window, scaling to a peak rate."""

from __future__ import annotations

import numpy as np

from cascade_tools.planning.traces.counts import FloatArray, IntArray, scaled_counts

PEAK_WINDOW_S = 1.0


def counts_per_window(arrival_s: FloatArray, window_s: float = PEAK_WINDOW_S) -> IntArray:
    """Requests in each window from second 0 to the last request, int64 [windows]."""
    if not arrival_s.size:
        return np.zeros(0, np.int64)
    return np.bincount((arrival_s // window_s).astype(np.int64)).astype(np.int64)


def peak_rps(arrival_s: FloatArray, window_s: float = PEAK_WINDOW_S) -> float:
    """The highest number of requests in one window, as a rate; windows begin at second 0."""
    count = counts_per_window(arrival_s, window_s)
    return float(count.max()) / window_s if count.size else 0.0


def cut(arrival_s: FloatArray, from_s: float, to_s: float) -> FloatArray:
    """What arrives in [from_s, to_s), counted from `from_s`."""
    first, last = np.searchsorted(arrival_s, (from_s, to_s), side="left")
    return arrival_s[first:last] - from_s


def scale_to_peak(
    arrival_s: FloatArray, peak: float, seed: int, window_s: float = PEAK_WINDOW_S
) -> FloatArray:
    """The same course over time with another highest rate; the length stays.

    The count of each window is multiplied. Where it falls, requests are left out at random; where it grows,
    the new ones come between those that are there, each at a random place between one and the next, so that
    bursts within a window stay bursts.

    Args:
        arrival_s: ascending.
        peak: wanted requests per second in the fullest window, above 0; exact where peak x window_s is whole.
        seed: of what is drawn.
        window_s: over which the peak is counted.
    """
    count = counts_per_window(arrival_s, window_s)
    if not count.size:
        return arrival_s
    rng = np.random.default_rng(seed)
    wanted = scaled_counts(count, peak * window_s / float(count.max()), rng)
    ends = np.cumsum(count)
    starts = ends - count
    kept = [
        _resized(arrival_s[first:last], int(new), (number + 1) * window_s, rng)
        for number, (first, last, new) in enumerate(
            zip(starts.tolist(), ends.tolist(), wanted.tolist(), strict=True)
        )
        if new and last > first
    ]
    return np.concatenate(kept) if kept else np.zeros(0)


def _resized(inside: FloatArray, new: int, end_s: float, rng: np.random.Generator) -> FloatArray:
    """So many arrivals with the course of those inside one window."""
    copies, more = divmod(new, len(inside))
    number = np.full(len(inside), copies)
    number[rng.choice(len(inside), more, replace=False)] += 1
    until = np.append(inside[1:], end_s)
    offset = rng.random(int(number.sum()))
    # The first of each stays where it is, its further ones come before the next.
    first = np.cumsum(number) - number
    offset[first[number > 0]] = 0.0
    begin, gap = np.repeat(inside, number), np.repeat(until - inside, number)
    return np.sort(np.minimum(begin + offset * gap, np.nextafter(end_s, 0.0)))
