"""A bound on how much accuracy a policy loses, from rows that policy and reference both answered.

Per row `lost` is 1 where the reference was right and the policy wrong, -1 where it was the other way
round, else 0. Its mean is the drop in accuracy. The bound is Tango's score bound for a difference of paired
proportions (Statistics in Medicine 17, 1998), which stays honest where few or no rows differ: with no
difference at all in n rows it gives about z^2 / n. Rows of one group are not independent; the sample counts
as n / design effect rows (Rao and Scott, 1981).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.special import ndtri, stdtrit

# So many differing rows, each in a group that differs as a whole, are thought to have been seen before.
PRIOR_ROWS = 1.0


@dataclass(frozen=True)
class PairedSample:
    """What the paired bound needs to know of a sample.

    Attributes:
        rows: how many.
        worse: share of rows that the reference gets right and the policy wrong.
        better: share of rows where it is the other way round.
        design_effect: variance of the mean over that of independent rows, at least 1.
        groups: how many the variance comes from; None for independent rows.
    """

    rows: int
    worse: float
    better: float
    design_effect: float
    groups: int | None = None

    @property
    def drop(self) -> float:
        """Accuracy below the reference, as a fraction; negative where the policy is better."""
        return self.worse - self.better

    def upper_bound(self, confidence: float, scale: float = 1.0) -> float:
        """One-sided upper bound of the drop, as a fraction.

        Args:
            confidence: of the bound, in (.5, 1).
            scale: pretend that the sample was this many times as large with the same shares.
        """
        if self.groups == 1:
            return 1.0  # one group says nothing about others
        independent = scale * self.rows / self.design_effect
        z = float(ndtri(confidence))
        if self.groups is not None:  # a variance from few groups is itself uncertain
            z = float(stdtrit(scale * self.groups - 1.0, confidence))

        def excess(drop: float) -> float:
            return _score(self.worse, self.better, drop, independent) + z

        # The score falls as the drop that is tested rises; at 1 every sample speaks against it.
        top = 1.0 - 1e-12
        if excess(top) >= 0.0:
            return 1.0
        low = min(self.drop, top)
        return float(brentq(excess, low, top, xtol=1e-12)) if excess(low) > 0.0 else low


def _score(worse: float, better: float, drop: float, rows: float) -> float:
    """Tango's statistic for the hypothesis that the drop is `drop`."""
    a = 2.0
    b = (2.0 - worse + better) * drop - worse - better
    c = -better * drop * (1.0 - drop)
    root = np.sqrt(max(b * b - 4.0 * a * c, 0.0))
    better_if_true = max((root - b) / (2.0 * a), 0.0)
    variance = max(2.0 * better_if_true + drop * (1.0 - drop), 1e-200)
    return float((worse - better - drop) * np.sqrt(rows / variance))


@dataclass(frozen=True)
class Groups:
    """Which rows belong together: `member` int [rows] and `size` int [groups]."""

    member: npt.NDArray[np.intp]
    size: npt.NDArray[np.intp]

    @classmethod
    def of(cls, group: npt.NDArray[np.int64]) -> Groups:
        """From any numbers that rows of one group share."""
        _, member, size = np.unique(group, return_inverse=True, return_counts=True)
        return cls(member, size)


def paired_sample(lost: npt.NDArray[np.float64], groups: Groups) -> PairedSample:
    """Summarise a sample.

    The design effect compares the variance of group sums with that of independent rows. It starts from the
    worst case, groups whose rows are all equal, and moves away from it as differing rows are seen.

    Args:
        lost: [rows], each -1, 0 or 1.
        groups: rows of one group may depend on each other.
    """
    rows = len(lost)
    worse, better = float((lost > 0).mean()), float((lost < 0).mean())
    mean = float(lost.mean())
    if len(groups.size) == rows:
        return PairedSample(rows, worse, better, 1.0)
    if len(groups.size) == 1:
        return PairedSample(rows, worse, better, float(rows), 1)
    sums = np.bincount(groups.member, lost - mean, len(groups.size))
    # As the jackknife does: a large group draws the mean to itself.
    sums = sums / (1.0 - groups.size / rows)
    typical_size = float((groups.size.astype(np.float64) ** 2).sum() / rows)
    grouped = float(sums @ sums) + PRIOR_ROWS * typical_size
    independent = float(((lost - mean) ** 2).sum()) + PRIOR_ROWS
    return PairedSample(rows, worse, better, max(1.0, grouped / independent), len(groups.size))
