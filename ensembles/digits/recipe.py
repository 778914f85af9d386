"""How the shipped weights were made: `cascade-tools train ensembles/digits`.

AdamW with one warm-up and one cosine, on base images that are hardened afresh in every batch. Steps are
fixed (not seconds), every generator is seeded, and the number of threads is fixed, so the same machine
makes the same weights again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

import data
import ladder

BATCH = 64
WARM_UP_SHARE = 0.05
LABEL_SMOOTHING = 0.02
WEIGHT_DECAY = 0.02


@dataclass(frozen=True)
class Schedule:
    """`threads` is fixed because it changes the order of sums; the small nets gain nothing from two."""

    steps: int
    peak_learning_rate: float
    threads: int


SCHEDULES = {
    "tiny": Schedule(steps=3000, peak_learning_rate=4e-3, threads=1),
    "small": Schedule(steps=3000, peak_learning_rate=3e-3, threads=1),
    "base": Schedule(steps=2000, peak_learning_rate=2e-3, threads=2),
    "giant": Schedule(steps=2200, peak_learning_rate=2e-3, threads=2),
}


def train(tier: str, seed: int, advance: Callable[[int, int], None]) -> nn.Module:
    """Train one tier and return it in evaluation mode; `advance(step, steps)` reports progress."""
    torch.manual_seed(seed)
    torch.set_num_threads(SCHEDULES[tier].threads)
    torch.use_deterministic_algorithms(True)
    generator = torch.Generator().manual_seed(seed)
    schedule = SCHEDULES[tier]
    pixels, labels, _ = data.base_images("train")
    net = getattr(ladder, tier)().to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1.0, weight_decay=WEIGHT_DECAY)
    pace = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, schedule))
    for step in range(schedule.steps):
        pick = torch.randint(len(pixels), (BATCH,), generator=generator)
        rows = data.harden(pixels[pick], generator).to(memory_format=torch.channels_last)
        # Half the time where the CPU multiplies bfloat16 in hardware; elsewhere plain float32.
        with torch.autocast("cpu", torch.bfloat16, enabled=torch.cpu._is_amx_tile_supported()):
            logits = net(rows)
        loss = functional.cross_entropy(logits.float(), labels[pick], label_smoothing=LABEL_SMOOTHING)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        pace.step()
        advance(step + 1, schedule.steps)
    return net.to(memory_format=torch.contiguous_format).eval()


def _rate(step: int, schedule: Schedule) -> float:
    warm_up = max(1, round(WARM_UP_SHARE * schedule.steps))
    if step < warm_up:
        return schedule.peak_learning_rate * (step + 1) / warm_up
    done = (step - warm_up) / (schedule.steps - warm_up)
    cosine = torch.cos(torch.tensor(done * torch.pi))
    return schedule.peak_learning_rate * 0.5 * (1.0 + float(cosine))
