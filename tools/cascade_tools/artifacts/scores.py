"""What every tier says of every held-out row."""

from __future__ import annotations

from typing import Self

import numpy as np
import numpy.typing as npt
from pydantic import model_validator

from cascade_tools.artifacts.base import Value

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]


class ScoreTable(Value):
    """What every tier says of every held-out row. After this no model runs in the planning chain.

    Attributes:
        tiers: names, smallest first.
        confidence: float32 [rows, tiers]; NaN counts as 0.
        label: int64 [rows, tiers], each tier's answer.
        target: int64 [rows].
        group: int64 [rows]; rows of one source share a number.
        split: str [rows]: `fit` (heads), `search` (policies) or `verify` (the promise).
    """

    tiers: tuple[str, ...]
    confidence: FloatArray
    label: IntArray
    target: IntArray
    group: IntArray
    split: npt.NDArray[np.str_]

    @model_validator(mode="after")
    def _shapes_agree(self) -> Self:
        rows, tiers = len(self.target), len(self.tiers)
        for field, shape in (
            ("target", (rows,)),
            ("confidence", (rows, tiers)),
            ("label", (rows, tiers)),
            ("group", (rows,)),
            ("split", (rows,)),
        ):
            found = getattr(self, field).shape
            if found != shape:
                raise ValueError(f"{field} must have shape {shape}, found {found}")
        if rows == 0:
            raise ValueError("the table has no rows")
        if not tiers or len(set(self.tiers)) < tiers:
            raise ValueError(f"tier: needs at least one name, and none twice; found {list(self.tiers)}")
        if np.isinf(self.confidence).any():
            raise ValueError("confidence must be finite, or NaN for none")
        unknown = sorted(set(np.unique(self.split).tolist()) - {"fit", "search", "verify"})
        if unknown:
            raise ValueError(f"split: {unknown[0]!r} is none of fit, search and verify")
        return self

    def part(self, split: str) -> ScoreTable:
        """The rows of one split."""
        return self.where(self.split == split)

    def where(self, keep: npt.NDArray[np.bool_]) -> ScoreTable:
        """The rows for which `keep` is true."""
        return self.model_copy(
            update={
                name: getattr(self, name)[keep]
                for name in ("confidence", "label", "target", "group", "split")
            }
        )
