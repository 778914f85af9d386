"""What an assignment is worth, by what is known so far: the figures that the assignment weighs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cascade_tools.errors import UsageError
from cascade_tools.planning.gears.assign import Side
from cascade_tools.planning.gears.front import Candidate
from cascade_tools.planning.gears.question import Forecast, GearQuestion
from cascade_tools.planning.gears.rates import FloatArray

RARE = 1e-6  # weight of a bin in which no time is spent: it gets its best policy, too
ON_MEANS = ("accuracy", "energy_j")


class Worth:
    """Accuracy, latency and energy of every bin and policy.

    Where nothing was simulated yet, latency and energy are the search's: of a row by itself, so never too
    high for long. A forecast takes their place.
    """

    def __init__(self, question: GearQuestion, candidates: Sequence[Candidate]) -> None:
        self.slo = question.slo
        bins = len(question.rates.shares)
        policies = [one.policy for one in candidates]
        weights = np.maximum(question.rates.weights, RARE)
        self.weights: FloatArray = weights / weights.sum()
        self.accuracy = np.tile([policy.accuracy for policy in policies], (bins, 1))
        self._latency_ms = np.tile([policy.latency_p95_ms or 0.0 for policy in policies], (bins, 1))
        self._energy_j = np.tile([policy.energy_j or 0.0 for policy in policies], (bins, 1))

    @property
    def on_a_mean(self) -> bool:
        """The SLO is one on a mean over all bins, not one that every bin keeps by itself."""
        return self.slo.name in ON_MEANS

    def learn(self, number: int, policy: int, found: Forecast) -> None:
        """Take in a forecast.

        Raises:
            UsageError: the SLO is on energy, and the forecast has none.
        """
        self._latency_ms[number, policy] = found.p95_ms
        if found.energy_j is not None:
            self._energy_j[number, policy] = found.energy_j
        elif self.slo.name == "energy_j":
            raise UsageError(
                "gears.slo.energy_j: the energy of the tiers is not known",
                "give `busy_watts` in the device file, or profile where a meter can be read",
            )

    def gain(self) -> FloatArray:
        """What is maximised, [bins, policies]: mean accuracy, or minus the mean p95."""
        value = -self._latency_ms if self.slo.name == "accuracy" else self.accuracy
        return np.asarray(self.weights[:, None] * value, np.float64)

    def side(self) -> Side | None:
        """The SLO on a mean; None where each bin keeps the SLO by itself."""
        if self.slo.name == "accuracy":
            return Side(self.weights[:, None] * self.accuracy, self.slo.bound)
        if self.slo.name == "energy_j":
            return Side(-self.weights[:, None] * self._energy_j, -self.slo.bound)
        return None

    def of(self, assigned: Sequence[int]) -> tuple[float, bool]:
        """The sum of the gains of an assignment, and whether it keeps the SLO on a mean."""
        rows = np.arange(len(assigned))
        side = self.side()
        kept = side is None or float(side.value[rows, assigned].sum()) >= side.bound - 1e-9
        return float(self.gain()[rows, assigned].sum()), kept
