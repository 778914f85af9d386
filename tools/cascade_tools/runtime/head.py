"""From logits to an answer and its confidence, in numpy.

The exported graphs hold the same head; `calibrate` scores the held-out rows with this one, and `export`
checks the graphs against it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

SMALLEST_PROBABILITY = 1e-12
NO_LABEL = -1  # of a token that does not count


class Scores(NamedTuple):
    """label int64 [rows], confidence float32 [rows], probabilities float32 [rows, classes].

    Of tokens: label [rows, tokens] and probabilities [rows, tokens, classes].
    """

    label: npt.NDArray[np.int64]
    confidence: npt.NDArray[np.float32]
    probabilities: npt.NDArray[np.float32]


def log_softmax(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Stable log-softmax over the last axis."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    result: npt.NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


class Curve(NamedTuple):
    """From a raw signal to a confidence, linear between knots and flat outside; `at` ascends strictly."""

    at: tuple[float, ...]
    confidence: tuple[float, ...]

    def __call__(self, signal: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Confidence of every value."""
        return np.interp(signal, self.at, self.confidence)


def apply_head(
    logits: npt.NDArray[np.floating[Any]],
    temperature: float = 1.0,
    signal: str = "max_probability",
    curve: Curve | None = None,
    mask: npt.NDArray[np.bool_] | None = None,
) -> Scores:
    """Divide by the temperature, take the softmax, and read label and confidence off.

    A row of tokens is as sure as the least sure of its tokens (HybridServe, section 3.1); without any token
    that counts it is sure.

    Args:
        logits: [rows, classes], or [rows, tokens, classes].
        temperature: above 0; 1 leaves the model as it is.
        signal: `max_probability`, `margin` (top-1 minus top-2, as in CascadeServe), or `entropy` (1 for one
            certain class, 0 for all alike).
        curve: fitted on the signal, by Platt's sigmoid or isotonic regression.
        mask: bool [rows, tokens], which tokens count; None for all. The others are labelled -1.
    """
    probabilities = np.exp(log_softmax(np.asarray(logits, np.float64) / temperature))
    # Of the logits, as in the graphs: a softmax can make close ones equal.
    label = np.asarray(logits).argmax(axis=-1).astype(np.int64)
    confidence = probabilities.max(axis=-1)
    if signal == "margin" and probabilities.shape[-1] > 1:
        confidence = confidence - np.partition(probabilities, -2, axis=-1)[..., -2]
    if signal == "entropy" and probabilities.shape[-1] > 1:
        surprise = -np.log(np.maximum(probabilities, SMALLEST_PROBABILITY))
        confidence = 1.0 - (probabilities * surprise).sum(axis=-1) / np.log(probabilities.shape[-1])
    if logits.ndim == 3:
        if mask is not None:
            label = np.where(mask, label, NO_LABEL)
            confidence = np.where(mask, confidence, 1.0)
        confidence = confidence.min(axis=1)
    if curve is not None:
        confidence = curve(confidence)
    return Scores(label, confidence.astype(np.float32), probabilities.astype(np.float32))
