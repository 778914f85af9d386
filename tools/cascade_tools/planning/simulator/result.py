"""What a simulation found."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cascade_tools.planning.outcomes import Outcomes

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Simulated:
    """One simulated run.

    Attributes:
        outcomes: what became of every request. Gears of fallbacks are numbered on from the plan's own: those
            of the first fallback come first.
        duration_s: from the beginning of the trace to the last answer.
        refused: requests that the router did not admit.
        failed: admitted ones that no tier answered.
        busy_share: of every device, 0..1, float64 [devices].
        dynamic_j: energy of all batches; None where that of a tier is not known.
        idle_j: what the devices drew anyway; None where that of one is not known.
        gears: since when (s) which gear, in order.
        mean_batch: rows of a batch, by tier of the ladder; NaN for one that was not asked. float64 [tiers].
        batches: int64 [tiers]; `asked` likewise the rows that each saw.
    """

    outcomes: Outcomes
    duration_s: float
    refused: int
    failed: int
    busy_share: FloatArray
    dynamic_j: float | None
    idle_j: float | None
    gears: tuple[tuple[float, int], ...]
    mean_batch: FloatArray
    batches: IntArray
    asked: IntArray

    @property
    def energy_j(self) -> float | None:
        """Dynamic and idle together; None where either is not known."""
        if self.dynamic_j is None or self.idle_j is None:
            return None
        return self.dynamic_j + self.idle_j

    def in_system(self, time_s: FloatArray) -> IntArray:
        """Requests that had come and were not answered at these times; refused and failed ones left out.

        Args:
            time_s: float64 [times].

        Returns:
            int64 [times].
        """
        outcomes = self.outcomes
        come = outcomes.arrival_s[outcomes.answered]
        gone = np.sort(come + outcomes.latency_ms[outcomes.answered] / 1000.0)
        return np.searchsorted(come, time_s, side="right") - np.searchsorted(gone, time_s, side="right")
