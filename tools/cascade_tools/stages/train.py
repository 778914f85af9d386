"""Makes the weights of a cascade by its own recipe (`train:` in `cascade.yaml`)."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from cascade_tools.errors import UsageError
from cascade_tools.models.usercode import blame_user_code, load_callable, load_rows
from cascade_tools.planning.calibration import is_right, mask_of
from cascade_tools.runtime.head import apply_head
from cascade_tools.spec import Cascade, Tier
from cascade_tools.stages.progress import Reporter
from cascade_tools.store import readable_disk_errors, write_atomically

if TYPE_CHECKING:
    import torch


class TrainedTier(BaseModel):
    """What training one tier gave; the accuracy is of the weights as written."""

    model_config = ConfigDict(frozen=True)

    tier: str
    parameters: int
    validation_accuracy: float
    seconds: float
    file: str


def train(
    cascade: Cascade, tiers: list[str], seed: int, out: Path | None, report: Reporter
) -> list[TrainedTier]:
    """Train tiers and write their weights as fp16 safetensors.

    Args:
        cascade: must have `train`.
        tiers: names; empty for all.
        seed: of everything random.
        out: folder for the weights; None writes them where `cascade.yaml` reads them.
        report: progress.

    Raises:
        UsageError: no recipe, an unknown tier, or a tier without a .safetensors path.
    """
    if cascade.train is None:
        raise UsageError(f"{cascade.folder / 'cascade.yaml'}: has no 'train' recipe")
    unknown = sorted(set(tiers) - set(cascade.tier_names))
    if unknown:
        raise UsageError(f"--tier {unknown[0]}: no such tier; there are {', '.join(cascade.tier_names)}")
    recipe = load_callable(cascade.folder, cascade.train, "train")
    rows = load_rows(cascade, "validation")
    results = []
    for tier in cascade.tiers:
        if tiers and tier.name not in tiers:
            continue
        path = _weights_path(cascade, tier, out)
        start = time.perf_counter()
        with (
            report.task(f"  training {tier.name}") as advance,
            blame_user_code(f"train: {cascade.train}"),
        ):
            module = recipe(tier.name, seed, advance)
        _check_module(module, cascade.train)
        results.append(
            TrainedTier(
                tier=tier.name,
                parameters=sum(p.numel() for p in module.parameters()),
                validation_accuracy=_save(module, path, rows.inputs, rows.target),
                seconds=time.perf_counter() - start,
                file=str(path),
            )
        )
    return results


def _check_module(module: object, recipe: str) -> None:
    import torch

    if not isinstance(module, torch.nn.Module):
        raise UsageError(f"train: {recipe} returned {type(module).__name__}, not a torch.nn.Module")


def _weights_path(cascade: Cascade, tier: Tier, out: Path | None) -> Path:
    weights = tier.source.weights
    if weights is None or not weights.endswith(".safetensors"):
        raise UsageError(f"tiers.{tier.name}.source.weights: must be a .safetensors path to train")
    return cascade.folder / weights if out is None else out / Path(weights).name


def _save(
    module: torch.nn.Module,
    path: Path,
    inputs: dict[str, npt.NDArray[np.generic]],
    target: npt.NDArray[np.int64],
) -> float:
    """Write the weights in fp16 and return the accuracy of what was written."""
    import torch
    from safetensors.torch import save

    half = {
        name: value.half() if value.is_floating_point() else value
        for name, value in module.state_dict().items()
    }
    module.load_state_dict(half)
    right = 0
    with torch.inference_mode():
        for start in range(0, len(target), 256):
            part = slice(start, start + 256)
            rows = [torch.from_numpy(values[part]) for values in inputs.values()]
            label = apply_head(module(*rows).float().numpy(), mask=mask_of(target[part])).label
            if label.shape != target[part].shape:
                raise UsageError(
                    f"train: the model labels {list(label.shape[1:])} per row, "
                    f"target in data.validation is {list(target.shape)}"
                )
            right += int(is_right(label, target[part]).sum())
    with readable_disk_errors(path):
        write_atomically(path, save(half))
    return right / len(target)
