"""The batches that a tier is measured with: the user's own validation rows, drawn with a fixed seed."""

from __future__ import annotations

import numpy as np

from cascade_tools.models.usercode import Rows
from cascade_tools.serving.closed_loop import Batch

DIFFERENT = 12  # batches; they are sent in turns
SEED = 0


def draw(rows: Rows, batch: int) -> list[Batch]:
    """Some different batches of one size, the same for every tier and every way of measuring."""
    rng = np.random.default_rng(SEED)
    return [rows.take(rng.integers(len(rows), size=batch)).inputs for _ in range(DIFFERENT)]
