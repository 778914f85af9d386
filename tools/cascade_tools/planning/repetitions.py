"""When has a time been measured often enough? The medians of the last repetitions agree."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

COMPARED = 3
LARGEST_SPREAD = 0.05


def spread(medians: Sequence[float]) -> float:
    """(largest - smallest) / median of the medians of the last repetitions, at most `COMPARED` of them."""
    last = np.asarray(medians[-COMPARED:], np.float64)
    return float((last.max() - last.min()) / np.median(last))


def stable(medians: Sequence[float]) -> bool:
    """The last `COMPARED` medians lie within `LARGEST_SPREAD` of each other."""
    return len(medians) >= COMPARED and spread(medians) < LARGEST_SPREAD
