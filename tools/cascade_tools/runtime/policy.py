"""The one routing function.

The search scores its policies with it and the router serves with it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

ANSWER = -1


class Bands(NamedTuple):
    """One tier's bands: `cuts` float32 [k], ascending; `to` int64 [k + 1], a destination per band."""

    cuts: npt.NDArray[np.float32]
    to: npt.NDArray[np.int64]


class Policy(NamedTuple):
    """Tiers in use, smallest first, and the bands of each; destinations index `tiers`."""

    tiers: tuple[str, ...]
    bands: tuple[Bands, ...]


def route(bands: Bands, confidence: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """Destination of every row: an index into the policy's tiers, or -1 to answer.

    A confidence equal to a cut belongs to the band above it; NaN counts as 0.

    Args:
        bands: of the tier that made the confidences.
        confidence: float32 [rows].
    """
    known = np.where(np.isnan(confidence), np.float32(0.0), confidence)
    return bands.to[np.searchsorted(bands.cuts, known, side="right")]
