"""A bet that a tier differs from the giant more often than the plan tolerates.

The wealth of a bettor who starts with 1 (Waudby-Smith and Ramdas, 2024): while the plan holds, it ever
exceeds 1 / alpha with probability at most alpha, so it may be read after every row. The stake is spread over
how much the share has grown, and over the row since when (1 / (s (s + 1)) on a change at row s), so that a
late change is noticed, too.
"""

from __future__ import annotations

import numpy as np

# What is bet on: the share of disagreements has become so many times the tolerated one.
GROWTH = np.array([1.25, 1.5, 2.0, 3.0, 5.0, 10.0])
LARGEST_SHARE = 0.95
FALSE_ALARM_RATE = 0.01  # of the router's alarm: half is in what the plan tolerates, half in the bet
LARGEST_WEALTH = 1e300  # what follows can multiply it by 10


class Bet:
    """The wealth after the rows that were added, in their order.

    Args:
        share: of disagreements that is tolerated, in (0, 1).
    """

    def __init__(self, share: float) -> None:
        self.share = share
        self.wealth = 1.0
        self._rows = 0
        grown = np.minimum(share * GROWTH, LARGEST_SHARE)
        grown = grown[grown > share]
        self._bets = (grown - share) / (share * (1.0 - share))
        self._staked = np.zeros(len(grown))

    def add(self, differs: bool, scale: float = 1.0) -> float:
        """Take one more row and return the wealth.

        Args:
            differs: tier and giant gave different labels.
            scale: the smallest probability of being sampled over the row's own, so that the bet is fair for
                the traffic and not for the sample.
        """
        self._rows += 1
        if not len(self._bets):
            return self.wealth
        gain = 1.0 + scale * (float(differs) - self.share) * self._bets
        staked = (self._staked + 1.0 / (self._rows * (self._rows + 1))) * gain
        self._staked = np.minimum(staked, LARGEST_WEALTH)
        self.wealth = float(self._staked.mean()) + 1.0 / (self._rows + 1)
        return self.wealth
