"""Rows for the starter cascade: scikit-learn's bundled digits, 8 x 8 pixels scaled to 0..1.

Validation and test data are dictionaries of arrays: one per model input, and `target`. Rows that come from
one source (say, frames of one video) share a number in an optional array `group`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.datasets import load_digits

Array = npt.NDArray[Any]

TRAINING, VALIDATION = 797, 600


def _digits() -> tuple[Array, Array]:
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    return (digits.data[order] / 16.0).astype(np.float32), digits.target[order].astype(np.int64)


def training() -> tuple[torch.Tensor, torch.Tensor]:
    pixels, target = _digits()
    return torch.from_numpy(pixels[:TRAINING]), torch.from_numpy(target[:TRAINING])


def validation() -> dict[str, Array]:
    pixels, target = _digits()
    part = slice(TRAINING, TRAINING + VALIDATION)
    return {"PIXELS": pixels[part], "target": target[part]}


def test() -> dict[str, Array]:
    pixels, target = _digits()
    part = slice(TRAINING + VALIDATION, None)
    return {"PIXELS": pixels[part], "target": target[part]}
