"""Data, nets and recipe of the small cascade; every net is fitted in closed form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.datasets import load_digits
from torch import nn

CLASSES = 10
PIXELS = 64
EDGES = (700, 1300)
PROTOTYPES = EDGES[0]
RIDGE = 1.0

Rows = dict[str, npt.NDArray[Any]]


def _split(number: int) -> Rows:
    digits = load_digits()
    order = np.random.default_rng(5).permutation(len(digits.target))
    index = np.split(order, EDGES)[number]
    pixels = (digits.data[index] / 16.0).astype(np.float32)
    return {"PIXELS": pixels, "target": digits.target[index].astype(np.int64)}


def validation() -> Rows:
    return _split(1)


def test() -> Rows:
    return _split(2)


def _distance(x: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Squared distances [rows, points]."""
    return (x * x).sum(1, keepdim=True) - 2.0 * (x @ points.T) + (points * points).sum(1)


class Near(nn.Module):
    """Nearest centroid."""

    def __init__(self) -> None:
        super().__init__()
        self.centroids = nn.Parameter(torch.zeros(CLASSES, PIXELS))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return -_distance(x, self.centroids)


class Linear(nn.Module):
    """Ridge regression on indicator targets."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(PIXELS + 1, CLASSES))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 8.0 * (x @ self.weight[1:] + self.weight[:1])


class Kernel(nn.Module):
    """Every training row votes for its class, the nearer the louder."""

    def __init__(self) -> None:
        super().__init__()
        self.points = nn.Parameter(torch.zeros(PROTOTYPES, PIXELS))
        self.votes = nn.Parameter(torch.zeros(PROTOTYPES, CLASSES))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        near = torch.exp(-3.0 * _distance(x, self.points))
        return torch.log(near @ self.votes + 1e-12)


def near() -> nn.Module:
    return Near()


def linear() -> nn.Module:
    return Linear()


def kernel() -> nn.Module:
    return Kernel()


def train(tier: str, seed: int, advance: Callable[[int, int], None]) -> nn.Module:
    rows = _split(0)
    pixels = torch.from_numpy(rows["PIXELS"])
    votes = torch.eye(CLASSES)[torch.from_numpy(rows["target"])]
    with_one = torch.cat([torch.ones(len(pixels), 1), pixels], dim=1)
    weights = {
        "near": {"centroids": (votes.T @ pixels) / votes.sum(0)[:, None]},
        "linear": {
            "weight": torch.linalg.solve(
                with_one.T @ with_one + RIDGE * torch.eye(PIXELS + 1), with_one.T @ votes
            )
        },
        "kernel": {"points": pixels, "votes": votes},
    }[tier]
    net: nn.Module = {"near": Near, "linear": Linear, "kernel": Kernel}[tier]()
    net.load_state_dict(weights)
    advance(1, 1)
    return net
