"""The arrival rates that gears are planned for: shares of time by rate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Source = Literal["histogram", "trace", "zipf"]
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class RateBins:
    """A histogram of arrival rates.

    Attributes:
        edges_rps: float64 [bins + 1], rows/s, ascending.
        shares: float64 [bins], share of time; they sum to 1.
    """

    edges_rps: FloatArray
    shares: FloatArray
    source: Source

    @property
    def top_rps(self) -> FloatArray:
        """The highest rate of every bin, [bins]: what its gear has to hold."""
        return self.edges_rps[1:]

    @property
    def weights(self) -> FloatArray:
        """Share of all requests that arrive in each bin, [bins]."""
        middle = (self.edges_rps[:-1] + self.edges_rps[1:]) / 2.0
        requests = self.shares * middle
        return np.asarray(requests / requests.sum(), np.float64)


def zipf_bins(max_rps: float, bins: int, exponent: float) -> RateBins:
    """Equal bins from 0 to the highest rate; bin k of 1.. has a share in proportion to k ** -exponent."""
    shares = np.arange(1, bins + 1, dtype=np.float64) ** -exponent
    return RateBins(np.linspace(0.0, max_rps, bins + 1), shares / shares.sum(), "zipf")


def bins_of_shares(edges_rps: tuple[float, ...], shares: tuple[float, ...]) -> RateBins:
    """A histogram as it was given; the shares are made to sum to 1 exactly."""
    share = np.asarray(shares, np.float64)
    return RateBins(np.asarray(edges_rps, np.float64), share / share.sum(), "histogram")


def bins_of_counts(rates_rps: FloatArray, bins: int, peak_rps: float | None = None) -> RateBins:
    """A trace's rates in equal bins from 0 to the highest.

    Args:
        rates_rps: rate of every second, at least one above 0.
        bins: how many.
        peak_rps: what the highest rate is scaled to; None leaves it.
    """
    highest = float(rates_rps.max())
    scaled = rates_rps * ((peak_rps or highest) / highest)
    edges = np.linspace(0.0, peak_rps or highest, bins + 1)
    # By position: rounding must not push the highest rate out of the last bin.
    place = np.clip(np.ceil(scaled / edges[-1] * bins - 1e-9).astype(np.int64) - 1, 0, bins - 1)
    return RateBins(edges, np.bincount(place, minlength=bins) / len(scaled), "trace")
