"""Experiment 4: the calibration error on other data than the heads were fitted on."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.drift import noisier, rotated
from benchmarks.paper.finding import Cell, Column, Experiment, Finding, Table
from benchmarks.paper.setting import SEED, Logits, Setting, with_pixels
from cascade_tools.models.usercode import Rows, load_callable
from cascade_tools.planning.calibration import Head, fit_head, reliability
from cascade_tools.stages.calibrate import head_of

UNFITTED = Head("none", "max_probability")
SHIFTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "rotated by 20 degrees": rotated(20.0),
    "rotated by 40 degrees": rotated(40.0),
    "noise, sigma .2": noisier(0.2),
    "noise, sigma .4": noisier(0.4),
}
SAME = "test rows"
PLAIN = "plain digits"
ROWS_PER_EFFORT = 2

Index = npt.NDArray[np.int64]


def run(setting: Setting) -> Finding:
    """Every tier on every data set: without a head, with the planned one, with one fitted there."""
    rows, unshifted = setting.test_part(ROWS_PER_EFFORT * setting.effort.rows)
    pixels = torch.from_numpy(rows.inputs["PIXELS"])
    data = {SAME: rows, PLAIN: _plain(setting)}
    data |= {name: with_pixels(rows, shift(pixels).numpy()) for name, shift in SHIFTS.items()}
    found: list[tuple[Cell, ...]] = []
    sums = {name: np.zeros(2) for name in data}
    worst = (0.0, "", 0.0, 0.0)
    for name, shifted in data.items():
        logits = unshifted if name == SAME else setting.logits(shifted, name)
        for tier in setting.calibration.tiers:
            there, elsewhere = _halves(shifted)
            mine = logits[tier.tier]
            again = fit_head(mine[there], shifted.target[there], "temperature", tier.signal)
            ece = [_ece(mine, shifted, elsewhere, head) for head in (UNFITTED, head_of(tier), again)]
            right = float((mine[elsewhere].argmax(axis=1) == shifted.target[elsewhere]).mean())
            found.append((name, tier.tier, right, *ece, again.temperature))
            sums[name] += ece[:2]
            if ece[1] > worst[0]:
                worst = (ece[1], f"{tier.tier} on {name}", ece[0], ece[2])
    columns = (
        Column("data"),
        Column("tier"),
        Column("accuracy", ".4f"),
        Column("ECE without a fit", ".4f"),
        Column("ECE, fitted on the digits' validation rows", ".4f"),
        Column("ECE, fitted on this data", ".4f"),
        Column("its temperature", ".3f"),
    )
    told = "; ".join(f"{name} {fitted / without:.2f}" for name, (without, fitted) in sums.items())
    return Finding(
        said=(
            f"ECE with the fit as a multiple of the ECE without, mean over the tiers: {told}.",
            f"The worst is {worst[1]}: {worst[0]:.3f} with the fit, {worst[2]:.3f} without, {worst[3]:.3f} "
            "with one made there: a fit is for the data that it was made on.",
        ),
        tables=(Table("Heads on other data", "measured", columns, tuple(found)),),
    )


def _plain(setting: Setting) -> Rows:
    """The images of scikit-learn's digits as they are, those behind the test rows."""
    images, labels, index = load_callable(setting.cascade.folder, "data:base_images", "data")("test")
    return Rows({"PIXELS": images.numpy()}, labels.numpy().astype(np.int64), index.astype(np.int64))


def _halves(rows: Rows) -> tuple[Index, Index]:
    """Rows to fit on and rows to measure on; all rows of one image are in one half."""
    groups = np.random.default_rng(SEED).permutation(np.unique(rows.group))
    fitted = np.isin(rows.group, groups[: len(groups) // 2])
    return np.flatnonzero(fitted), np.flatnonzero(~fitted)


def _ece(logits: Logits, rows: Rows, index: Index, head: Head) -> float:
    return reliability(logits[index], rows.target[index], head).ece


EXPERIMENT = Experiment(
    number=4,
    title="Calibration error on another data set than it was fitted on",
    paper="HybridServe",
    claim=(
        "Confidence drift is one of the failure signatures that the paper names: the calibrator is fitted "
        "on one validation set, and what it is worth on other data is left open."
    ),
    how=(
        "The heads of experiment 1 on the same test images rotated or made noisier, and on scikit-learn's "
        "digits as they are, which are easier than all that the models were trained on. Measured on the "
        "images that the last column's heads were not fitted on."
    ),
    run=run,
)
