"""The digits that the demo cascade reads: scikit-learn's bundled handwritten digits, hardened.

The 1,797 images of 8 x 8 pixels are enlarged to 16 x 16 and disturbed (rotation, scale, shear, shift,
cut-out, noise), so that a small net fails where a large one does not. The base images are split once;
every disturbed copy of one image stays in the split of that image and carries its index as `group`.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch.nn import functional

PIXELS = 16
SPLIT_SEED = 1
TRAIN_IMAGES = 997
VALIDATION_IMAGES = 400
COPIES = {"validation": 16, "test": 10}  # the promise is checked on most of the validation rows
CUT_OUT = 4

Rows = dict[str, np.ndarray]


def base_images(split: str) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    """Undisturbed images of one split: pixels [n, 1, 16, 16] in 0..1, labels [n], indices [n]."""
    digits = load_digits()
    order = np.random.default_rng(SPLIT_SEED).permutation(len(digits.target))
    edges = (TRAIN_IMAGES, TRAIN_IMAGES + VALIDATION_IMAGES)
    train, validation, test = np.split(order, edges)
    index = {"train": train, "validation": validation, "test": test}[split]
    small = torch.from_numpy(digits.images[index].astype(np.float32) / 16.0)[:, None]
    pixels = functional.interpolate(small, size=PIXELS, mode="bilinear", align_corners=False)
    return pixels, torch.from_numpy(digits.target[index]).long(), index


def harden(pixels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Disturb every image [n, 1, 16, 16] on its own; the same generator gives the same result."""
    rows = len(pixels)

    def uniform(low: float, high: float) -> torch.Tensor:
        return low + (high - low) * torch.rand(rows, generator=generator)

    angle = uniform(-25.0, 25.0) * math.pi / 180.0
    scale = uniform(0.8, 1.2)
    shear = uniform(-0.2, 0.2)
    shift_x, shift_y = uniform(-0.25, 0.25), uniform(-0.25, 0.25)
    cos, sin = torch.cos(angle) / scale, torch.sin(angle) / scale
    affine = torch.stack(
        [
            torch.stack([cos, shear * cos - sin, shift_x], dim=1),
            torch.stack([sin, shear * sin + cos, shift_y], dim=1),
        ],
        dim=1,
    )
    grid = functional.affine_grid(affine, list(pixels.shape), align_corners=False)
    moved = functional.grid_sample(pixels, grid, align_corners=False)

    corner = torch.randint(0, PIXELS - CUT_OUT + 1, (2, rows), generator=generator)
    cut = torch.rand(rows, generator=generator) < 0.5
    line = torch.arange(PIXELS)
    inside_y = (line >= corner[0][:, None]) & (line < corner[0][:, None] + CUT_OUT)
    inside_x = (line >= corner[1][:, None]) & (line < corner[1][:, None] + CUT_OUT)
    hole = inside_y[:, :, None] & inside_x[:, None, :] & cut[:, None, None]
    moved = moved.masked_fill(hole[:, None], 0.0)

    sigma = uniform(0.0, 0.3)[:, None, None, None]
    return moved + sigma * torch.randn(moved.shape, generator=generator)


def _hardened_split(split: str, seed: int) -> Rows:
    pixels, labels, index = base_images(split)
    generator = torch.Generator().manual_seed(seed)
    copies = [harden(pixels, generator) for _ in range(COPIES[split])]
    return {
        "PIXELS": torch.cat(copies).numpy(),
        "target": labels.repeat(COPIES[split]).numpy(),
        "group": np.tile(index, COPIES[split]).astype(np.int64),
    }


def validation() -> Rows:
    """6,400 rows: 400 base images, 16 disturbed copies each. Calibration and search read these."""
    return _hardened_split("validation", seed=101)


def test() -> Rows:
    """4,000 rows of 400 other base images. Read only to report."""
    return _hardened_split("test", seed=202)
