"""Fits confidence heads and measures what a confidence is worth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit

from cascade_tools.artifacts import IntArray, Reliability, ReliabilityBin
from cascade_tools.runtime.head import NO_LABEL, Curve, Scores, apply_head, log_softmax

Logits = npt.NDArray[np.floating[Any]]
LOG_INVERSE_TEMPERATURE_BOUNDS = (-10.0, 10.0)
ECE_BINS = 15
DIAGRAM_BINS = 10
FOLDS = 5
PLATT_KNOTS = 256
KNOTS_PER_UNIT = 4096
SMALLEST_CHANCE = 1e-6
Method = Literal["temperature", "platt", "isotonic", "none"]
Signal = Literal["max_probability", "margin", "entropy"]
METHODS: tuple[Method, ...] = ("temperature", "platt", "isotonic", "none")


def fit_temperature(logits: Logits, target: IntArray) -> float:
    """The temperature that minimises the negative log-likelihood (HybridServe, section 3.1).

    A bounded one-dimensional search over the logarithm of the inverse temperature. Where every row is
    right there is nothing to learn from (the likelihood rises for ever as the temperature falls): 1.

    Args:
        logits: [rows, classes], all finite; or [rows, tokens, classes].
        target: int [rows]; or [rows, tokens], -1 for a token that does not count.
    """
    wide, target = _counted(logits, target)
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


@dataclass(frozen=True)
class Head:
    """A fitted confidence head; see `apply_head` for the fields."""

    method: Method
    signal: Signal
    temperature: float = 1.0
    curve: Curve | None = None

    def __call__(self, logits: Logits, mask: npt.NDArray[np.bool_] | None = None) -> Scores:
        """Label and confidence of rows; `mask` as `apply_head` takes it."""
        return apply_head(logits, self.temperature, self.signal, self.curve, mask)


def mask_of(target: IntArray) -> npt.NDArray[np.bool_] | None:
    """Which tokens count, [rows, tokens]; None for targets without tokens."""
    return target != NO_LABEL if target.ndim == 2 else None


def is_right(label: IntArray, target: IntArray) -> npt.NDArray[np.bool_]:
    """Per row, [rows]: the label is the target; of tokens, all are."""
    if label.shape != target.shape:
        raise ValueError(f"labels {list(label.shape)} and targets {list(target.shape)} do not fit")
    right: npt.NDArray[np.bool_] = label == target
    return right if right.ndim == 1 else right.all(axis=1)


def _counted(logits: Logits, target: IntArray) -> tuple[npt.NDArray[np.float64], IntArray]:
    """Logits [n, classes] and targets [n] of what counts: rows, or their tokens one by one."""
    wide, mask = np.asarray(logits, np.float64), mask_of(target)
    return (wide, target) if mask is None else (wide[mask], target[mask])


def fit_head(logits: Logits, target: IntArray, method: Method, signal: Signal) -> Head:
    """Fit one head.

    Platt's sigmoid and the isotonic curve are fitted on the raw signal for "is the label right?".

    Args:
        logits: [rows, classes], all finite; or [rows, tokens, classes].
        target: int [rows]; or [rows, tokens], -1 for a token that does not count.
        method: `temperature`, `platt`, `isotonic` or `none`.
        signal: `max_probability`, `margin` or `entropy`.
    """
    if method == "temperature":
        return Head(method, signal, fit_temperature(logits, target))
    if method == "none":
        return Head(method, signal)
    scores = apply_head(logits, 1.0, signal, mask=mask_of(target))
    right = is_right(scores.label, target)
    if right.all() or not right.any():  # nothing to learn from
        return Head("none", signal)
    curve = _platt(scores.confidence, right) if method == "platt" else _isotonic(scores.confidence, right)
    return Head(method, signal, 1.0, curve)


def best_head(logits: Logits, target: IntArray, group: IntArray, signal: Signal) -> Head:
    """The method with the best cross-validated likelihood of being right, fitted on all rows."""
    from sklearn.model_selection import GroupKFold

    folds = GroupKFold(n_splits=max(2, min(FOLDS, len(np.unique(group)))))
    parts = list(folds.split(group, groups=group)) if len(np.unique(group)) > 1 else []
    losses = {
        method: float(
            np.mean([_held_out_loss(logits, target, fit, held, method, signal) for fit, held in parts])
        )
        for method in METHODS
        if parts
    }
    return fit_head(logits, target, min(losses, key=lambda m: losses[m], default="temperature"), signal)


def _held_out_loss(
    logits: Logits, target: IntArray, fit: IntArray, held: IntArray, method: Method, signal: Signal
) -> float:
    scores = fit_head(logits[fit], target[fit], method, signal)(logits[held], mask_of(target[held]))
    return _binary_nll(scores.confidence, is_right(scores.label, target[held]))


def _binary_nll(confidence: npt.NDArray[np.float32], right: npt.NDArray[np.bool_]) -> float:
    known = np.clip(confidence.astype(np.float64), SMALLEST_CHANCE, 1.0 - SMALLEST_CHANCE)
    return float(-np.where(right, np.log(known), np.log1p(-known)).mean())


def _platt(signal: npt.NDArray[np.float32], right: npt.NDArray[np.bool_]) -> Curve:
    """A rising sigmoid of the signal's log-odds, as knots."""
    from sklearn.linear_model import LogisticRegression

    feature = logit(np.clip(signal.astype(np.float64), SMALLEST_CHANCE, 1.0 - SMALLEST_CHANCE))
    fitted = LogisticRegression(C=np.inf, max_iter=1000).fit(feature[:, None], right)
    slope, offset = float(fitted.coef_[0, 0]), float(fitted.intercept_[0])
    if slope <= 0.0:  # more of the signal must not mean less
        slope, offset = 0.0, float(logit(right.mean()))
    # Close together in the log-odds, where the sigmoid bends.
    odds = np.linspace(logit(SMALLEST_CHANCE), logit(1.0 - SMALLEST_CHANCE), PLATT_KNOTS)
    at = expit(odds)
    keep = np.concatenate([[True], np.diff(at.astype(np.float32)) > 0])
    confidence = expit(slope * odds + offset)
    return Curve(tuple(at[keep].tolist()), tuple(confidence[keep].tolist()))


def _isotonic(signal: npt.NDArray[np.float32], right: npt.NDArray[np.bool_]) -> Curve | None:
    """The rising steps that fit best, with lines between them."""
    from sklearn.isotonic import IsotonicRegression

    # On a grid, so that no line is steeper than a graph in float32 can follow.
    rounded = np.round(signal.astype(np.float64) * KNOTS_PER_UNIT) / KNOTS_PER_UNIT
    fitted = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip").fit(rounded, right)
    at, confidence = fitted.X_thresholds_.astype(np.float64), fitted.y_thresholds_.astype(np.float64)
    if len(at) < 2:
        return None
    return Curve(tuple(at.tolist()), tuple(confidence.tolist()))


def reliability(logits: Logits, target: IntArray, head: Head) -> Reliability:
    """What a head is worth on rows that it was not fitted on; the likelihood is that of single tokens."""
    scores = head(logits, mask_of(target))
    right = is_right(scores.label, target)
    wide, counted = _counted(logits, target)
    return Reliability(
        ece=expected_calibration_error(scores.confidence, right),
        ece_equal_width=expected_calibration_error(scores.confidence, right, equal_width=True),
        nll=_nll(wide / head.temperature, counted),
        brier=float(((scores.confidence.astype(np.float64) - right) ** 2).mean()),
        auroc=auroc(scores.confidence, right),
        bins=_diagram(scores.confidence, right),
    )


def _diagram(confidence: npt.NDArray[np.float32], right: npt.NDArray[np.bool_]) -> tuple[ReliabilityBin, ...]:
    order = np.argsort(confidence, kind="stable")
    return tuple(
        ReliabilityBin(confidence=float(confidence[part].mean()), right=float(right[part].mean()))
        for part in np.array_split(order, min(DIAGRAM_BINS, len(order)))
    )


def _nll(logits: npt.NDArray[np.float64], target: IntArray) -> float:
    return float(-log_softmax(logits)[np.arange(len(target)), target].mean())


def expected_calibration_error(
    confidence: npt.NDArray[np.float32],
    right: npt.NDArray[np.bool_],
    bins: int = ECE_BINS,
    *,
    equal_width: bool = False,
) -> float:
    """Mean distance between confidence and accuracy over bins of equal mass (or width), weighted by mass."""
    order = np.argsort(confidence, kind="stable")
    if equal_width:
        edges = np.searchsorted(confidence[order], np.linspace(0.0, 1.0, bins + 1)[1:-1], side="right")
        parts = [part for part in np.split(order, edges) if len(part)]
    else:
        parts = np.array_split(order, min(bins, len(order)))
    gaps = [len(part) * abs(float(confidence[part].mean()) - float(right[part].mean())) for part in parts]
    return float(sum(gaps) / len(order))


def auroc(confidence: npt.NDArray[np.float32], right: npt.NDArray[np.bool_]) -> float | None:
    """Probability that a right answer has the higher confidence, ties half; None if all agree."""
    positives = int(right.sum())
    negatives = len(right) - positives
    if positives == 0 or negatives == 0:
        return None
    from scipy.stats import rankdata  # takes a second to import

    ranks = rankdata(confidence)[right].sum()
    return float((ranks - positives * (positives + 1) / 2) / (positives * negatives))
