"""Synthetic ladders whose true accuracy is known: every row carries each tier's chance of being right.

Confidences are calibrated and related across tiers through a common difficulty; costs are joules per
image of a ladder of vision transformers, as the literature gives them in magnitude.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cascade_tools.artifacts import PolicyTable, ScoreTable
from cascade_tools.planning.evaluate import follow

COST = {4: (0.0742, 0.1358, 0.3, 0.8675), 6: (0.02, 0.0742, 0.1358, 0.25, 0.5, 0.8675)}
WEAKEST = {4: -0.2, 6: -0.6}
STRONGEST = 1.9


@dataclass(frozen=True)
class Population:
    """Rows and, per row and tier, the chance [rows, tiers] that the tier is right."""

    table: ScoreTable
    chance: npt.NDArray[np.float64]

    def true_drop(self, policy: PolicyTable) -> float:
        """Points below the last tier, with the chances in place of one draw of them."""
        answered = follow(self.table, policy).answered
        return 100.0 * float((self.chance[:, -1] - (self.chance * answered).sum(axis=1)).mean())


def draw(rows: int, tiers: int, seed: int) -> Population:
    """Draw so many rows."""
    rng = np.random.default_rng(seed)
    difficulty = rng.normal(size=rows)
    skill = np.linspace(WEAKEST[tiers], STRONGEST, tiers)
    margin = skill - 1.2 * difficulty[:, None] + 0.8 * rng.normal(size=(rows, tiers))
    chance = 1.0 / (1.0 + np.exp(-2.2 * margin))
    right = rng.random((rows, tiers)) < chance
    table = ScoreTable(
        tiers=tuple(f"tier{i}" for i in range(tiers)),
        confidence=chance.astype(np.float32),
        label=np.where(right, 0, 1),
        target=np.zeros(rows, np.int64),
        group=np.arange(rows),
        split=np.full(rows, "search"),
    )
    return Population(table, chance)
