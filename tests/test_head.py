"""Label and confidence from logits, against scipy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.special import log_softmax as scipy_log_softmax
from scipy.special import softmax

from cascade_tools.runtime.head import apply_head, log_softmax
from tests.helpers import Array

# Steps of 1/64, so that two logits are equal or clearly apart at every temperature below.
logits = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=6),
    elements=st.integers(-1280, 1280).map(lambda n: n / 64),
)
temperatures = st.floats(0.1, 10.0)


@given(logits, temperatures)
def test_probabilities_are_the_softmax_of_scaled_logits(values: Array, t: float) -> None:
    wanted = softmax(values.astype(np.float64) / t, axis=1)
    scores = apply_head(values, t)
    assert scores.probabilities.dtype == np.float32
    np.testing.assert_allclose(scores.probabilities, wanted, rtol=1e-6, atol=1e-30)


@given(logits, temperatures)
def test_confidence_is_the_largest_probability(values: Array, t: float) -> None:
    wanted = softmax(values.astype(np.float64) / t, axis=1).max(axis=1)
    scores = apply_head(values, t)
    assert scores.confidence.dtype == np.float32
    np.testing.assert_allclose(scores.confidence, wanted, rtol=1e-6)


@given(logits.filter(lambda values: values.shape[1] > 1), temperatures)
def test_margin_is_the_best_probability_minus_the_second(values: Array, t: float) -> None:
    ordered = np.sort(softmax(values.astype(np.float64) / t, axis=1), axis=1)
    scores = apply_head(values, t, "margin")
    np.testing.assert_allclose(scores.confidence, ordered[:, -1] - ordered[:, -2], rtol=1e-5, atol=1e-7)


@given(logits, temperatures, st.sampled_from(["max_probability", "margin"]))
def test_the_label_does_not_depend_on_temperature_or_signal(values: Array, t: float, signal: str) -> None:
    scores = apply_head(values, t, signal)
    assert scores.label.dtype == np.int64
    assert scores.label.tolist() == values.argmax(axis=1).tolist()


@given(logits)
def test_a_higher_temperature_never_raises_the_confidence(values: Array) -> None:
    cool, warm = apply_head(values, 1.0).confidence, apply_head(values, 2.0).confidence
    assert (warm <= cool + 1e-7).all()


def test_of_equal_logits_the_first_class_is_the_label() -> None:
    assert apply_head(np.array([[1.0, 3.0, 3.0]])).label.tolist() == [1]


def test_a_single_class_is_certain() -> None:
    for signal in ("max_probability", "margin"):
        scores = apply_head(np.array([[-3.0], [5.0]]), 1.0, signal)
        assert scores.label.tolist() == [0, 0]
        assert scores.confidence.tolist() == [1.0, 1.0]


def test_huge_logits_do_not_overflow() -> None:
    scores = apply_head(np.array([[1e4, -1e4, 0.0], [-3e38, 0.0, 3e38]], np.float32))
    assert scores.label.tolist() == [0, 2]
    assert scores.confidence.tolist() == [1.0, 1.0]


def test_half_precision_logits_are_widened_first() -> None:
    values = np.array([[10.0, 9.9, -3.0]], np.float16)
    wanted = softmax(values.astype(np.float64), axis=1)
    np.testing.assert_allclose(apply_head(values).probabilities, wanted, rtol=1e-6)


def test_log_softmax_equals_that_of_scipy() -> None:
    values = np.random.default_rng(0).normal(0.0, 30.0, (50, 7))
    np.testing.assert_allclose(log_softmax(values), scipy_log_softmax(values, axis=1), rtol=1e-12)


@pytest.mark.parametrize("signal", ["max_probability", "margin"])
def test_no_rows_give_no_scores(signal: str) -> None:
    scores = apply_head(np.zeros((0, 3)), 1.0, signal)
    assert [len(part) for part in scores] == [0, 0, 0]


def test_the_label_is_that_of_the_logits_where_probabilities_tie() -> None:
    assert apply_head(np.array([[0.0, 1e-30]])).label.tolist() == [1]
