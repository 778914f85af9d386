"""Rows for the starter cascade: scikit-learn's bundled digits, 8 x 8 pixels scaled to 0..1.

Validation and test data are dictionaries of arrays: one per model input, and `target`. Rows that come from
one source share a number in an optional array `group`: here the noisy copies of one image.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.datasets import load_digits

Array = npt.NDArray[Any]

TRAINING, VALIDATION = 797, 600
COPIES, NOISE = 5, 0.2


def _digits() -> tuple[Array, Array]:
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    return (digits.data[order] / 16.0).astype(np.float32), digits.target[order].astype(np.int64)


def training() -> tuple[torch.Tensor, torch.Tensor]:
    pixels, target = _digits()
    return torch.from_numpy(pixels[:TRAINING]), torch.from_numpy(target[:TRAINING])


def _noisy(part: slice, seed: int) -> dict[str, Array]:
    pixels, target = _digits()
    images, labels = np.tile(pixels[part], (COPIES, 1)), np.tile(target[part], COPIES)
    noise = np.random.default_rng(seed).normal(0.0, NOISE, images.shape)
    return {
        "PIXELS": (images + noise).astype(np.float32),
        "target": labels,
        "group": np.tile(np.arange(len(target[part])), COPIES),
    }


def validation() -> dict[str, Array]:
    return _noisy(slice(TRAINING, TRAINING + VALIDATION), seed=1)


def test() -> dict[str, Array]:
    return _noisy(slice(TRAINING + VALIDATION, None), seed=2)
