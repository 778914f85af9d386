"""A small legal cascade of two models that label tokens."""

from __future__ import annotations

from pathlib import Path

import yaml

CLASSES = 3
TOKENS = 5
MODULE = f"""
import numpy as np
import torch

CLASSES, TOKENS, ROWS = {CLASSES}, {TOKENS}, 400


def drawn(seed, rows):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(rows, TOKENS, 2 * CLASSES)).astype(np.float32)
    values[..., :CLASSES] *= 3.0
    target = (values[..., :CLASSES] + 0.4 * values[..., CLASSES:]).argmax(-1)
    length = rng.integers(1, TOKENS + 1, rows)
    counts = (np.arange(TOKENS) < length[:, None]).astype(np.int64)
    return {{"X": values, "COUNTS": counts, "target": np.where(counts == 1, target, -1)}}


def rows():
    return drawn(0, ROWS)


def test_rows():
    return drawn(1, 100)


def other_mask():
    found = rows()
    found["COUNTS"] = np.ones_like(found["COUNTS"])
    return found


def flat_target():
    found = rows()
    found["target"] = np.zeros(ROWS, np.int64)
    return found


def high_target():
    found = rows()
    found["target"][0, 0] = 7
    return found


class Rough(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.eye(2 * CLASSES)[:, :CLASSES])

    def forward(self, x, counts):
        return 4.0 * x @ self.weight + 0.0 * counts[..., None]


class Sharp(torch.nn.Module):
    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.wide = torch.nn.Parameter(torch.randn(2 * CLASSES, 4000, generator=generator))
        self.back = torch.nn.Parameter(torch.linalg.pinv(self.wide.detach()))

    def forward(self, x, counts):
        seen = x @ self.wide @ self.back
        return 4.0 * (seen[..., :CLASSES] + 0.4 * seen[..., CLASSES:]) + 0.0 * counts[..., None]
"""
SPEC = {
    "name": "tokens",
    "tiers": [
        {"name": "rough", "source": {"torch": "token_pair:Rough"}},
        {"name": "sharp", "source": {"torch": "token_pair:Sharp"}},
    ],
    "data": {"validation": "token_pair:rows", "test": "token_pair:test_rows"},
    "calibration": {"mask": "COUNTS"},
    "objective": {"max_accuracy_drop": 8.0, "guarantee": False},
    "devices": "here.yaml",
    "serving": {"max_batch_size": 8},
}
DEVICES = {"devices": [{"type": "cores", "kind": "cpu", "cores": 2, "memory_mib": 2048}]}


def write_token_pair(folder: Path) -> Path:
    """The cascade's folder."""
    folder.mkdir(parents=True)
    (folder / "cascade.yaml").write_text(yaml.safe_dump(SPEC))
    (folder / "here.yaml").write_text(yaml.safe_dump(DEVICES))
    (folder / "token_pair.py").write_text(MODULE)
    return folder
