"""The four classifiers of the demo ladder, smallest first; input [n, 1, 16, 16], output logits [n, 10].

The small nets shrink the image at once. The giant is deep at full resolution rather than wide, so that it
costs much and still fits into a few megabytes.
"""

from __future__ import annotations

import torch
from torch import nn

CLASSES = 10


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _conv(channels, channels)
        self.second = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        )
        nn.init.zeros_(self.second[1].weight)  # a deep stack starts as the identity and trains faster

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.second(self.first(x)))


def _head(channels: int, hidden: int) -> nn.Sequential:
    """Flatten a 4 x 4 map and classify it."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(16 * channels, hidden),
        nn.ReLU(),
        nn.Dropout(0.1),
        nn.Linear(hidden, CLASSES),
    )


def tiny() -> nn.Module:
    return nn.Sequential(_conv(1, 8, 2), _conv(8, 16, 2), _head(16, 32))


def small() -> nn.Module:
    return nn.Sequential(_conv(1, 12, 2), _conv(12, 32, 2), _head(32, 180))


def base() -> nn.Module:
    return nn.Sequential(_conv(1, 24, 2), _conv(24, 64, 2), _Residual(64), _head(64, 850))


def giant() -> nn.Module:
    return nn.Sequential(
        _conv(1, 64),
        *[_Residual(64) for _ in range(16)],
        _conv(64, 96, 2),
        *[_Residual(96) for _ in range(3)],
        _conv(96, 160, 2),
        _Residual(160),
        _head(160, 192),
    )
