"""Fits confidence heads and measures what a confidence is worth."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.stats import rankdata

from cascade_tools.artifacts import IntArray, Reliability
from cascade_tools.runtime.head import apply_head, log_softmax

Logits = npt.NDArray[np.floating[Any]]
LOG_INVERSE_TEMPERATURE_BOUNDS = (-10.0, 10.0)
ECE_BINS = 15


def fit_temperature(logits: Logits, target: IntArray) -> float:
    """The temperature that minimises the negative log-likelihood (HybridServe, section 3.1).

    A bounded one-dimensional search over the logarithm of the inverse temperature. Where every row is
    right there is nothing to learn from (the likelihood rises for ever as the temperature falls): 1.

    Args:
        logits: [rows, classes], all finite.
        target: int [rows].
    """
    wide = np.asarray(logits, np.float64)
    if (wide.argmax(axis=1) == target).all():
        return 1.0

    def nll(log_inverse: float) -> float:
        return _nll(wide * np.exp(log_inverse), target)

    best = minimize_scalar(
        nll,
        bounds=LOG_INVERSE_TEMPERATURE_BOUNDS,
        method="bounded",
        options={"xatol": 64 * np.finfo(np.float64).eps},
    )
    return float(np.exp(-best.x))


def reliability(logits: Logits, target: IntArray, temperature: float, signal: str) -> Reliability:
    """ECE, NLL and AUROC of a head on rows that it was not fitted on."""
    scores = apply_head(logits, temperature, signal)
    right = scores.label == target
    return Reliability(
        ece=expected_calibration_error(scores.confidence, right),
        nll=_nll(np.asarray(logits, np.float64) / temperature, target),
        auroc=auroc(scores.confidence, right),
    )


def _nll(logits: npt.NDArray[np.float64], target: IntArray) -> float:
    return float(-log_softmax(logits)[np.arange(len(target)), target].mean())


def expected_calibration_error(
    confidence: npt.NDArray[np.float32], right: npt.NDArray[np.bool_], bins: int = ECE_BINS
) -> float:
    """Mean distance between confidence and accuracy over bins of equal mass, weighted by mass."""
    order = np.argsort(confidence, kind="stable")
    parts = np.array_split(order, min(bins, len(order)))
    gaps = [len(part) * abs(float(confidence[part].mean()) - float(right[part].mean())) for part in parts]
    return float(sum(gaps) / len(order))


def auroc(confidence: npt.NDArray[np.float32], right: npt.NDArray[np.bool_]) -> float | None:
    """Probability that a right answer has the higher confidence, ties half; None if all agree."""
    positives = int(right.sum())
    negatives = len(right) - positives
    if positives == 0 or negatives == 0:
        return None
    ranks = rankdata(confidence)[right].sum()
    return float((ranks - positives * (positives + 1) / 2) / (positives * negatives))
