"""Arrivals that are drawn instead of read; each from its own seed.

poisson     independent requests
gamma       gaps of a given coefficient of variation: 1 is Poisson, above it bursts
on-off      times with load and times without, of random lengths
diurnal     a rate that goes up and down as a sine
spike       one rate, and for a while another
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from cascade_tools.planning.traces.counts import FloatArray

CHUNK = 1 << 16  # gaps drawn at once
CV = 4.0  # of gamma


def poisson(rate_rps: float, seconds: float, seed: int) -> FloatArray:
    """Independent arrivals over [0, seconds)."""
    return _poisson(rate_rps, seconds, np.random.default_rng(seed))


def _poisson(rate_rps: float, seconds: float, rng: np.random.Generator) -> FloatArray:
    count = int(rng.poisson(rate_rps * seconds))
    return np.sort(rng.random(count) * seconds)


def gamma(rate_rps: float, cv: float, seconds: float, seed: int) -> FloatArray:
    """Arrivals whose gaps follow a gamma distribution.

    Args:
        rate_rps: mean rate.
        cv: standard deviation of the gaps over their mean, above 0.
        seconds: length.
        seed: of the gaps.
    """
    rng = np.random.default_rng(seed)
    shape = 1.0 / cv**2
    parts: list[FloatArray] = []
    reached_s = 0.0
    while reached_s < seconds:
        times = reached_s + np.cumsum(rng.gamma(shape, 1.0 / (rate_rps * shape), CHUNK))
        parts.append(times)
        reached_s = float(times[-1])
    arrival: FloatArray = np.concatenate(parts) if parts else np.zeros(0)
    return arrival[arrival < seconds]


def on_off(
    rate_rps: float, off_rps: float, on_s: float, off_s: float, seconds: float, seed: int
) -> FloatArray:
    """Poisson arrivals whose rate switches between two values; it begins with `rate_rps`.

    Args:
        rate_rps: while on.
        off_rps: while off, may be 0.
        on_s: mean length of the times with load (exponential).
        off_s: the same of those without.
        seconds: length of the whole.
        seed: of lengths and arrivals.
    """
    rng = np.random.default_rng(seed)
    edges = [0.0]
    while edges[-1] < seconds:
        mean_s = on_s if len(edges) % 2 else off_s
        edges.append(edges[-1] + float(rng.exponential(mean_s)))
    bounds = np.asarray(edges[1:])

    def rate(at_s: FloatArray) -> FloatArray:
        on = np.searchsorted(bounds, at_s, side="right") % 2 == 0
        return np.where(on, rate_rps, off_rps)

    return _thinned(rate, max(rate_rps, off_rps), seconds, rng)


def diurnal(rate_rps: float, low_rps: float, period_s: float, seconds: float, seed: int) -> FloatArray:
    """Poisson arrivals whose rate goes from `low_rps` up to `rate_rps` and back once in a period."""

    def rate(at_s: FloatArray) -> FloatArray:
        wave: FloatArray = 0.5 * (1.0 - np.cos(2.0 * np.pi * at_s / period_s))
        return low_rps + (rate_rps - low_rps) * wave

    return _thinned(rate, max(rate_rps, low_rps), seconds, np.random.default_rng(seed))


def spike(
    rate_rps: float, low_rps: float, at_s: float, lasts_s: float, seconds: float, seed: int
) -> FloatArray:
    """Poisson arrivals at `low_rps`, and at `rate_rps` in [at_s, at_s + lasts_s)."""

    def rate(time_s: FloatArray) -> FloatArray:
        high = (time_s >= at_s) & (time_s < at_s + lasts_s)
        return np.where(high, rate_rps, low_rps)

    return _thinned(rate, max(rate_rps, low_rps), seconds, np.random.default_rng(seed))


def _thinned(
    rate: Callable[[FloatArray], FloatArray], highest_rps: float, seconds: float, rng: np.random.Generator
) -> FloatArray:
    """A Poisson process of a changing rate: one of the highest, each arrival kept with its share of it."""
    candidate: FloatArray = _poisson(highest_rps, seconds, rng)
    chance = rng.random(len(candidate)) * highest_rps
    return candidate[chance < rate(candidate)]


KINDS = ("poisson", "gamma", "on-off", "diurnal", "spike")


def generate(
    kind: str,
    rate_rps: float,
    seconds: float,
    seed: int,
    *,
    cv: float | None = None,
    low_rps: float | None = None,
    period_s: float | None = None,
) -> FloatArray:
    """Arrivals of one of `KINDS`, with defaults for what is not given.

    Args:
        kind: its name.
        rate_rps: the mean rate of poisson and gamma, the highest of the others.
        seconds: length.
        seed: of everything that is drawn.
        cv: of gamma; None for 4.
        low_rps: the lowest rate; None for a tenth of `rate_rps`.
        period_s: of diurnal, by default all of it; of on-off the mean length of on and off together, and of
            spike how long it lasts (from a third on), by default a tenth.

    Raises:
        KeyError: no such kind.
    """
    low = rate_rps / 10.0 if low_rps is None else low_rps
    tenth_s = seconds / 10.0 if period_s is None else period_s
    half_s = tenth_s / 2.0
    made: dict[str, Callable[[], FloatArray]] = {
        "poisson": lambda: poisson(rate_rps, seconds, seed),
        "gamma": lambda: gamma(rate_rps, CV if cv is None else cv, seconds, seed),
        "on-off": lambda: on_off(rate_rps, low, half_s, half_s, seconds, seed),
        "diurnal": lambda: diurnal(rate_rps, low, period_s or seconds, seconds, seed),
        "spike": lambda: spike(rate_rps, low, seconds / 3.0, tenth_s, seconds, seed),
    }
    return made[kind]()
