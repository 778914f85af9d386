"""Traffic that bursts: a low rate, and now and then a rise to a multiple of it that lasts some seconds."""

from __future__ import annotations

import numpy as np

from cascade_tools.planning.outcomes import FloatArray
from cascade_tools.planning.traces.shape import scale_to_peak

GAP_S = (6.0, 12.0)  # from the end of one burst to the beginning of the next
HOLD_S = (3.0, 8.0)  # at its height
HEIGHT = (0.4, 1.0)  # of the highest
STEP_S = 0.05  # arrivals are Poisson within it


def bursty(peak_rps: float, low_rps: float, rise_s: float, seconds: float, seed: int) -> FloatArray:
    """Arrival times, ascending.

    Args:
        peak_rps: requests in the fullest second; the first burst is one of full height.
        low_rps: the rate between bursts.
        rise_s: how long a burst takes to rise, and to fall, along a half cosine; 0 for steps.
        seconds: length of the whole.
        seed: of bursts and arrivals.
    """
    rng = np.random.default_rng(seed)
    at_s = (np.arange(round(seconds / STEP_S)) + 0.5) * STEP_S
    rate_rps = np.full(len(at_s), low_rps)
    begin_s, height = float(rng.uniform(*GAP_S)), 1.0
    while begin_s < seconds:
        end_s = begin_s + 2.0 * rise_s + float(rng.uniform(*HOLD_S))
        rate_rps += (height * peak_rps - low_rps) * _burst(at_s, begin_s, end_s, rise_s)
        begin_s = end_s + float(rng.uniform(*GAP_S))
        height = float(rng.uniform(*HEIGHT))
    count = rng.poisson(rate_rps * STEP_S)
    step = np.repeat(np.arange(len(at_s)), count)
    arrival_s = np.sort((step + rng.random(len(step))) * STEP_S)
    return scale_to_peak(arrival_s, float(round(peak_rps)), seed)


def _burst(at_s: FloatArray, begin_s: float, end_s: float, rise_s: float) -> FloatArray:
    """Between 0 outside and 1 at its height."""
    if rise_s == 0.0:
        return ((at_s >= begin_s) & (at_s < end_s)).astype(np.float64)
    inside = np.clip(np.minimum(at_s - begin_s, end_s - at_s) / rise_s, 0.0, 1.0)
    return np.asarray(0.5 * (1.0 - np.cos(np.pi * inside)), np.float64)
