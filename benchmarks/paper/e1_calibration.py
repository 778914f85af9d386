"""Experiment 1: the calibration error of a tier before and after the fit."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from benchmarks.paper.finding import Column, Experiment, Finding, Table
from benchmarks.paper.setting import SEED, Setting
from cascade_tools.models.usercode import Rows
from cascade_tools.planning.calibration import Head, expected_calibration_error, reliability
from cascade_tools.report.pictures import draw_reliability
from cascade_tools.runtime.head import Scores
from cascade_tools.stages.calibrate import head_of

RESAMPLES = 100
UNFITTED = Head("none", "max_probability")


def run(setting: Setting) -> Finding:
    """All tiers on test rows; their heads were fitted on other rows."""
    rows, logits = setting.test_part(4 * setting.effort.rows)
    found, shown, said = [], [], []
    for tier in setting.calibration.tiers:
        head = head_of(tier)
        before = reliability(logits[tier.tier], rows.target, UNFITTED)
        after = reliability(logits[tier.tier], rows.target, head)
        scores = head(logits[tier.tier])
        right = scores.label == rows.target
        low, high = ece_interval(scores, right, rows)
        found.append(
            (
                tier.tier,
                float(right.mean()),
                tier.temperature,
                before.ece,
                after.ece,
                f"{low:.4f} to {high:.4f}",
                ece_of_calibrated(scores.confidence, SEED),
                before.nll,
                after.nll,
            )
        )
        shown.append(tier.model_copy(update={"before": before, "after": after}))
        said.append(f"{tier.tier} {before.ece:.4f} to {after.ece:.4f}")
    columns = (
        Column("tier"),
        Column("accuracy", ".4f"),
        Column("temperature", ".3f"),
        Column("ECE before", ".4f"),
        Column("after", ".4f"),
        Column("95 % of resamples"),
        Column("ECE if calibrated", ".4f"),
        Column("NLL before", ".4f"),
        Column("after", ".4f"),
    )
    calibration = setting.calibration.model_copy(update={"tiers": tuple(shown)})
    fitted = setting.calibration.rows["fit"]
    return Finding(
        said=(f"ECE on {len(rows):,} test rows, heads fitted on {fitted:,} others: {'; '.join(said)}.",),
        tables=(Table("Before and after the fit", "measured", columns, tuple(found)),),
        pictures={"reliability": draw_reliability(calibration)},
    )


def ece_interval(scores: Scores, right: npt.NDArray[np.bool_], rows: Rows) -> tuple[float, float]:
    """Of the ECE, over resamples of whole groups with replacement (they keep what is related together)."""
    rng = np.random.default_rng(SEED)
    order = np.argsort(rows.group, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(rows.group[order])) + 1)
    found = []
    for _ in range(RESAMPLES):
        index = np.concatenate([parts[i] for i in rng.integers(0, len(parts), len(parts))])
        found.append(expected_calibration_error(scores.confidence[index], right[index]))
    low, high = np.quantile(found, (0.025, 0.975)).tolist()
    return low, high


def ece_of_calibrated(confidence: npt.NDArray[np.float32], seed: int) -> float:
    """What the ECE of these confidences would be, on as many rows, if they were true (mean of draws)."""
    rng = np.random.default_rng(seed)
    draws = [
        expected_calibration_error(confidence, rng.random(len(confidence)) < confidence) for _ in range(20)
    ]
    return float(np.mean(draws))


EXPERIMENT = Experiment(
    number=1,
    title="Calibration error of a tier before and after the fit",
    paper="HybridServe",
    claim=(
        "A calibrator fitted to each model's outputs by the negative log-likelihood (temperature scaling) "
        "makes its confidence tell how often it is right."
    ),
    how=(
        "The four digit classifiers, their fitted temperatures against none, on test rows that neither "
        "training nor fit has seen. ECE over 15 bins of equal mass. *95 % of resamples*: the ECE after "
        "the fit on resamples of whole images. *ECE if calibrated*: what perfectly calibrated confidences "
        "would show on as many rows."
    ),
    run=run,
)
