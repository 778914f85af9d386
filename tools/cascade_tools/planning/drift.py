"""Has the traffic drifted from what the plan was made on?

Two questions per tier, about the rows that it answered itself and that were also shown to the giant:

- do their confidences still lie where they lay (population stability index)?
- does the tier still agree with the giant as often as planned? A test by betting, which may be looked at
  after every row (`runtime/bet.py`; the router runs the same on its own sample).

Rows of the log count as independent of each other; bursts of almost equal rows are called drift too often.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import chi2

from cascade_tools.planning.bounds import Groups, paired_sample
from cascade_tools.runtime.bet import LARGEST_SHARE, Bet

Array = npt.NDArray[np.float64]

BINS = 10
# What credit scoring, where the index comes from, calls a change that matters.
LARGE_INDEX = 0.1


@dataclass(frozen=True)
class SampledRows:
    """Rows that one tier labelled and the giant, too; each was sampled with a known probability.

    Attributes:
        time: seconds since the epoch, [rows], ascending.
        confidence: the tier's, [rows].
        agrees: the giant gave the same label, [rows].
        weight: one over the probability of being sampled, [rows].
        gear: with which it was served, -1 where the log does not say, [rows].
        largest_weight: that a row can have, whether or not one is in the log.
    """

    time: Array
    confidence: Array
    agrees: npt.NDArray[np.bool_]
    weight: Array
    gear: npt.NDArray[np.int64]
    largest_weight: float

    def __len__(self) -> int:
        return len(self.time)

    def where(self, keep: npt.NDArray[np.bool_]) -> SampledRows:
        """The rows for which `keep` is true."""
        return SampledRows(
            self.time[keep],
            self.confidence[keep],
            self.agrees[keep],
            self.weight[keep],
            self.gear[keep],
            self.largest_weight,
        )

    @property
    def effective(self) -> float:
        """So many rows of equal weight would tell as much (Kish)."""
        return float(self.weight.sum() ** 2 / (self.weight**2).sum()) if len(self) else 0.0

    @property
    def disagreement(self) -> float:
        """Weighted share of rows on which tier and giant differ."""
        return float(self.weight @ ~self.agrees / self.weight.sum()) if len(self) else 0.0


@dataclass(frozen=True)
class ConfidenceSpread:
    """Where confidences lay: `edges` [bins - 1] ascending, `shares` [bins], worth `rows` independent rows."""

    edges: Array
    shares: Array
    rows: float


@dataclass(frozen=True)
class Stability:
    """The population stability index, and the limit above which it counts as a shift.

    The limit is the larger of .1 and the index that samples of this size exceed without any shift with the
    probability that was allowed.
    """

    index: float
    limit: float

    @property
    def shifted(self) -> bool:
        """The confidences do not lie where they lay."""
        return self.index > self.limit


@dataclass(frozen=True)
class Agreement:
    """The sequential test.

    Attributes:
        planned: share of disagreements on the plan's own rows.
        tolerated: upper bound of it; what the test holds for no drift.
        seen: weighted share in the log.
        evidence: the largest wealth; a drift is called from `1 / false_alarm_rate` on.
        noticed_at: rows of this tier in the log when it was called first, or None.
    """

    planned: float
    tolerated: float
    seen: float
    evidence: float
    noticed_at: int | None


def spread_of(confidence: Array, weight: Array, rows: float) -> ConfidenceSpread:
    """Where confidences lie, in bins of about equal mass.

    Args:
        confidence: [rows].
        weight: [rows].
        rows: how many independent ones they are worth.
    """
    order = np.argsort(confidence, kind="stable")
    mass = np.cumsum(weight[order]) / weight.sum()
    cut = np.searchsorted(mass, np.linspace(0.0, 1.0, BINS + 1)[1:-1])
    edges = np.unique(confidence[order][cut])
    return ConfidenceSpread(edges, _shares(edges, confidence, weight), rows)


def population_stability(planned: ConfidenceSpread, rows: SampledRows, false_alarm_rate: float) -> Stability:
    """Compare logged confidences with the planned ones.

    Args:
        planned: of the rows that the tier answered when the plan was made.
        rows: the same from the log; at least one.
        false_alarm_rate: chance that samples of this size exceed the limit without a shift.
    """
    bins = len(planned.shares)
    now = _shares(planned.edges, rows.confidence, rows.weight)
    # Half a row in every bin, so that an empty one does not make the index infinite.
    p = (planned.shares * planned.rows + 0.5) / (planned.rows + 0.5 * bins)
    q = (now * rows.effective + 0.5) / (rows.effective + 0.5 * bins)
    index = float((q - p) @ np.log(q / p))
    noise = 0.0
    if bins > 1:
        noise = float(chi2.isf(false_alarm_rate, bins - 1)) * (1.0 / planned.rows + 1.0 / rows.effective)
    return Stability(index, max(LARGE_INDEX, noise))


def _shares(edges: Array, confidence: Array, weight: Array) -> Array:
    bins = np.searchsorted(edges, confidence, side="right")
    shares: Array = np.bincount(bins, weight, len(edges) + 1) / weight.sum()
    return shares


def agreement(
    planned_agrees: npt.NDArray[np.bool_],
    groups: npt.NDArray[np.int64],
    rows: SampledRows,
    false_alarm_rate: float,
) -> Agreement:
    """Test whether the tier disagrees with the giant more often than planned.

    Half of the rate of false alarms pays for not knowing the planned share exactly, half for the test.

    Args:
        planned_agrees: bool [planned rows], on rows that the tier answered when the plan was made.
        groups: int [planned rows]; rows of one group may depend on each other.
        rows: from the log, in the order of time.
        false_alarm_rate: chance of ever calling a drift where there is none.
    """
    tolerated = tolerated_share(planned_agrees, groups, false_alarm_rate)
    wealth = evidence(rows, tolerated)
    called = np.flatnonzero(wealth >= 2.0 / false_alarm_rate)
    return Agreement(
        planned=float((~planned_agrees).mean()),
        tolerated=tolerated,
        seen=rows.disagreement,
        evidence=float(wealth.max(initial=1.0)) / 2.0,
        noticed_at=int(called[0]) + 1 if len(called) else None,
    )


def tolerated_share(
    planned_agrees: npt.NDArray[np.bool_], groups: npt.NDArray[np.int64], false_alarm_rate: float
) -> float:
    """Upper bound of the planned share of disagreements, at half the false alarms; see `agreement`."""
    sample = paired_sample((~planned_agrees).astype(np.float64), Groups.of(groups))
    return min(sample.upper_bound(1.0 - false_alarm_rate / 2.0), LARGEST_SHARE)


def evidence(rows: SampledRows, share: float) -> Array:
    """Wealth after every row of a bet that more than `share` of all rows disagree, [rows]; see `Bet`."""
    bet = Bet(share)
    scale = rows.weight / rows.largest_weight
    return np.array(
        [bet.add(not agrees, s) for agrees, s in zip(rows.agrees.tolist(), scale.tolist(), strict=True)]
    )
