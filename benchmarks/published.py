"""The published way to find thresholds (HybridServe, Algorithm 1), as the baseline.

100,000 random vectors over a grid of 100 values per tier, all tiers in use, no skips. All are scored on
the first 20,000 rows; the 1,000 cheapest that are accurate there, or miss it by half a point, on all.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from cascade_tools.artifacts import PredictedPolicy, ScoreTable
from cascade_tools.planning.evaluate import Question, evaluate, threshold_policy

Array = npt.NDArray[Any]

GRID = 100
VECTORS = 100_000
SCREEN_ROWS = 20_000
FULLY_SCORED = 1_000
NEARLY = 0.005


def published(table: ScoreTable, question: Question, seed: int = 0) -> PredictedPolicy:
    """The cheapest of the random vectors that keeps the drop; the last tier alone if none does."""
    rng = np.random.default_rng(seed)
    tiers = len(table.tiers)
    values = np.linspace(0.0, 1.0, GRID, dtype=np.float32)
    picks = rng.integers(0, GRID, (VECTORS, tiers - 1))
    right = table.label == table.target[:, None]
    cell = np.searchsorted(values, table.confidence[:, :-1], side="right")
    screen = slice(0, SCREEN_ROWS)
    gain, cost = _score(right[screen], cell[screen], picks, question.cost)
    wanted = -(question.max_accuracy_drop or 0.0) / 100.0
    nearly = np.flatnonzero(gain >= wanted - NEARLY)
    short = nearly[np.argsort(cost[nearly], kind="stable")]
    # Half by cost alone, half of those that are already accurate enough.
    sure = short[gain[short] >= wanted][: FULLY_SCORED // 2]
    chosen = np.unique(np.concatenate([short[: FULLY_SCORED // 2], sure]))
    gain, cost = _score(right, cell, picks[chosen], question.cost)
    held = np.flatnonzero(gain >= wanted - 1e-12)
    if not len(held):
        return evaluate(table, threshold_policy(table.tiers[-1:], []), question)
    best = picks[chosen[held[np.argmin(cost[held])]]]
    return evaluate(table, threshold_policy(table.tiers, [float(values[i]) for i in best]), question)


def _score(right: Array, cell: Array, picks: Array, cost: tuple[float, ...]) -> tuple[Array, Array]:
    """Accuracy above the last tier, and cost, of every vector."""
    rows, tiers = right.shape
    reference = right[:, -1].sum()
    gains, costs = np.empty(len(picks)), np.empty(len(picks))
    for number, vector in enumerate(picks):
        here = np.arange(rows)
        good, spent = 0, 0.0
        for tier in range(tiers):
            spent += cost[tier] * len(here)
            if tier == tiers - 1:
                good += int(np.count_nonzero(right[here, tier]))
                break
            low = cell[here, tier] <= vector[tier]
            good += int(np.count_nonzero(right[here[~low], tier]))
            here = here[low]
        gains[number], costs[number] = (good - reference) / rows, spent / rows
    return gains, costs
