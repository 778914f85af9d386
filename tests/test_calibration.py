"""Temperature, reliability and the split, each against another implementation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.optimize import brentq
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score

from cascade_tools.planning.calibration import (
    Head,
    Method,
    Signal,
    auroc,
    best_head,
    expected_calibration_error,
    fit_head,
    fit_temperature,
    reliability,
)
from tests.helpers import Array


class GivenLogits(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A fitted classifier whose decision function is its input."""

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self.classes_ = np.arange(classes)

    def fit(self, X: Array, y: Array) -> GivenLogits:
        return self

    def decision_function(self, X: Array) -> Array:
        return X

    def predict(self, X: Array) -> Array:
        label: Array = X.argmax(axis=1)
        return label


def sklearn_temperature(logits: Array, target: Array) -> float:
    model = CalibratedClassifierCV(FrozenEstimator(GivenLogits(logits.shape[1])), method="temperature")
    model.fit(logits.astype(np.float64), target)
    (fitted,) = model.calibrated_classifiers_
    (scaling,) = fitted.calibrators
    return float(1.0 / scaling.beta_)


def over_confident(seed: int, rows: int, classes: int, sharpness: float) -> tuple[Array, Array]:
    """Logits of a model that is right as often as softmax(logits / sharpness) says."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0.0, 2.0, (rows, classes))
    target = np.array([rng.choice(classes, p=p) for p in softmax(logits, axis=1)])
    target[:classes] = np.arange(classes)
    return (logits * sharpness).astype(np.float32), target


@pytest.mark.parametrize("sharpness", [0.05, 0.5, 1.0, 3.0, 40.0])
@pytest.mark.parametrize(("seed", "rows", "classes"), [(0, 50, 3), (1, 400, 10), (2, 2000, 5)])
def test_the_temperature_equals_that_of_scikit_learn(
    seed: int, rows: int, classes: int, sharpness: float
) -> None:
    logits, target = over_confident(seed, rows, classes, sharpness)
    found = fit_temperature(logits, target)
    assert found == pytest.approx(sklearn_temperature(logits, target), rel=1e-6)


@pytest.mark.parametrize("sharpness", [0.5, 1.0, 3.0])
def test_the_slope_of_the_loss_is_zero_at_the_temperature(sharpness: float) -> None:
    logits, target = over_confident(3, 500, 4, sharpness)
    wide = logits.astype(np.float64)

    def slope(inverse: float) -> float:
        """Derivative of the mean log-likelihood by the inverse temperature."""
        expected = (softmax(wide * inverse, axis=1) * wide).sum(axis=1)
        return float((wide[np.arange(len(target)), target] - expected).mean())

    exact = 1.0 / brentq(slope, 1e-3, 1e3, xtol=1e-14)
    assert fit_temperature(logits, target) == pytest.approx(exact, rel=1e-6)


def test_a_model_that_is_never_wrong_keeps_its_temperature() -> None:
    # Its likelihood rises for ever as the temperature falls, and all confidences would become 1.
    assert fit_temperature(np.eye(3, dtype=np.float32) * 2.0, np.arange(3)) == 1.0


def test_a_model_that_knows_nothing_gets_a_high_finite_temperature() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0.0, 1.0, (300, 3)).astype(np.float32)
    found = fit_temperature(logits, logits.argmin(axis=1))
    assert 1e3 < found < 1e5


def test_a_fitted_temperature_lowers_the_loss() -> None:
    logits, target = over_confident(4, 1000, 5, 4.0)
    before = reliability(logits, target, Head("none", "max_probability"))
    after = reliability(logits, target, fit_head(logits, target, "temperature", "max_probability"))
    assert after.nll < before.nll
    assert after.ece < before.ece


def test_reliability_reports_the_loss_of_scikit_learn() -> None:
    logits, target = over_confident(5, 200, 4, 2.0)
    found = reliability(logits, target, Head("temperature", "max_probability", 1.7))
    probabilities = softmax(logits.astype(np.float64) / 1.7, axis=1)
    assert found.nll == pytest.approx(log_loss(target, probabilities), rel=1e-9)
    right = probabilities.argmax(axis=1) == target
    assert found.auroc == pytest.approx(roc_auc_score(right, probabilities.max(axis=1)), rel=1e-6)


def test_reliability_of_the_margin_ranks_by_the_margin() -> None:
    logits, target = over_confident(6, 200, 4, 2.0)
    ordered = np.sort(softmax(logits.astype(np.float64), axis=1), axis=1)
    right = logits.argmax(axis=1) == target
    wanted = roc_auc_score(right, ordered[:, -1] - ordered[:, -2])
    assert reliability(logits, target, Head("none", "margin")).auroc == pytest.approx(wanted, rel=1e-6)


tables = st.integers(1, 60).flatmap(
    lambda rows: st.tuples(
        hnp.arrays(np.float32, rows, elements=st.integers(0, 16).map(lambda n: n / 16)),
        hnp.arrays(np.bool_, rows),
    )
)


@given(tables, st.integers(1, 20))
def test_ece_is_the_weighted_gap_over_bins_of_equal_mass(table: tuple[Array, Array], bins: int) -> None:
    confidence, right = table
    order = sorted(range(len(confidence)), key=lambda row: confidence[row])
    bins = min(bins, len(order))
    small, larger = divmod(len(order), bins)
    total, start = 0.0, 0
    for number in range(bins):
        size = small + (number < larger)
        part = order[start : start + size]
        start += size
        says = sum(float(confidence[row]) for row in part) / size
        holds = sum(bool(right[row]) for row in part) / size
        total += size / len(order) * abs(says - holds)
    assert expected_calibration_error(confidence, right, bins) == pytest.approx(total, abs=1e-6)


def test_ece_of_a_known_case() -> None:
    confidence = np.array([0.5, 0.5, 0.9, 0.9], np.float32)
    right = np.array([True, False, True, False])
    assert expected_calibration_error(confidence, right, 2) == pytest.approx(0.2)


@given(tables)
def test_auroc_equals_that_of_scikit_learn(table: tuple[Array, Array]) -> None:
    confidence, right = table
    found = auroc(confidence, right)
    if right.all() or not right.any():
        assert found is None
    else:
        assert found == pytest.approx(roc_auc_score(right, confidence), abs=1e-9)


def over_sure_at_the_top(seed: int, rows: int) -> tuple[Array, Array]:
    """Right with a chance that no temperature can tell: a step in the confidence."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0.0, 2.5, (rows, 4)).astype(np.float32)
    sure = softmax(logits.astype(np.float64), axis=1).max(axis=1)
    right = rng.random(rows) < np.where(sure > 0.8, 0.95, 0.3)
    return logits, np.where(right, logits.argmax(axis=1), logits.argmin(axis=1))


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_a_fitted_curve_makes_confidence_honest(method: Method) -> None:
    logits, target = over_sure_at_the_top(0, 4000)
    fresh, wanted = over_sure_at_the_top(1, 4000)
    before = reliability(fresh, wanted, Head("none", "max_probability"))
    after = reliability(fresh, wanted, fit_head(logits, target, method, "max_probability"))
    assert after.ece < 0.7 * before.ece
    assert after.brier < before.brier
    assert after.ece_equal_width < before.ece_equal_width


def test_platt_is_the_logistic_regression_of_scikit_learn_on_the_log_odds() -> None:
    logits, target = over_confident(7, 800, 4, 3.0)
    head = fit_head(logits, target, "platt", "max_probability")
    sure = softmax(logits.astype(np.float64), axis=1).max(axis=1)
    odds = np.log(np.clip(sure, 1e-6, 1 - 1e-6) / (1 - np.clip(sure, 1e-6, 1 - 1e-6)))[:, None]
    wanted = LogisticRegression(C=np.inf).fit(odds, logits.argmax(axis=1) == target).predict_proba(odds)[:, 1]
    np.testing.assert_allclose(head(logits).confidence, wanted, atol=2e-3)


def test_isotonic_is_that_of_scikit_learn() -> None:
    logits, target = over_confident(8, 600, 4, 3.0)
    head = fit_head(logits, target, "isotonic", "margin")
    signal = Head("none", "margin")(logits).confidence
    right = logits.argmax(axis=1) == target
    wanted = IsotonicRegression(out_of_bounds="clip").fit(signal, right).predict(signal)
    # Ours is fitted on a grid, so a steep step is a little less steep.
    assert np.abs(head(logits).confidence - wanted).mean() < 5e-3


@pytest.mark.parametrize("method", ["temperature", "platt", "isotonic", "none"])
@pytest.mark.parametrize("signal", ["max_probability", "margin", "entropy"])
def test_no_head_changes_a_label_or_leaves_the_unit_interval(method: Method, signal: Signal) -> None:
    logits, target = over_confident(9, 300, 5, 2.0)
    scores = fit_head(logits, target, method, signal)(logits)
    assert scores.label.tolist() == logits.argmax(axis=1).tolist()
    assert ((scores.confidence >= 0.0) & (scores.confidence <= 1.0 + 1e-6)).all()


def test_a_model_that_is_never_wrong_gets_no_curve() -> None:
    assert fit_head(np.eye(3, dtype=np.float32) * 2.0, np.arange(3), "isotonic", "margin").method == "none"


def test_auto_takes_a_curve_where_no_temperature_will_do() -> None:
    logits, target = over_sure_at_the_top(2, 2000)
    assert best_head(logits, target, np.arange(2000), "max_probability").method == "isotonic"


def test_auto_takes_the_temperature_of_logits_that_are_merely_scaled() -> None:
    logits, target = over_confident(10, 1500, 6, 3.0)
    head = best_head(logits, target, np.arange(1500), "max_probability")
    assert head.method in ("temperature", "platt")
    after = reliability(*over_confident(11, 3000, 6, 3.0), head)
    assert after.ece < 0.05


def test_auto_keeps_groups_whole() -> None:
    logits, target = over_confident(12, 40, 3, 2.0)
    repeated = best_head(np.tile(logits, (10, 1)), np.tile(target, 10), np.tile(np.arange(40), 10), "margin")
    # Torn groups would reward the curve that learns 40 rows by heart.
    assert repeated.method != "isotonic"


@given(tables, st.integers(1, 20))
def test_ece_over_bins_of_equal_width(table: tuple[Array, Array], bins: int) -> None:
    confidence, right = table
    total = 0.0
    edges = np.linspace(0.0, 1.0, bins + 1)
    for low, high, first in zip(edges[:-1], edges[1:], [True] + [False] * bins, strict=False):
        part = (confidence > low) & (confidence <= high) if not first else confidence <= high
        if part.any():
            total += part.mean() * abs(float(confidence[part].mean()) - float(right[part].mean()))
    found = expected_calibration_error(confidence, right, bins, equal_width=True)
    assert found == pytest.approx(total, abs=1e-6)


def test_a_signal_that_says_the_opposite_gives_the_base_rate() -> None:
    logits = np.array([[8.0, 0.0]] * 900 + [[0.2, 0.0]] * 100, np.float32)
    target = np.array([0, 1] * 450 + [0] * 100)
    head = fit_head(logits, target, "platt", "max_probability")
    np.testing.assert_allclose(head(logits).confidence, 0.55, atol=1e-6)


def test_the_diagram_s_bins_hold_all_rows_by_rising_confidence() -> None:
    logits, target = over_confident(3, 1000, 4, 2.0)
    found = reliability(logits, target, Head("none", "max_probability"))
    assert len(found.bins) == 10
    confidence = [part.confidence for part in found.bins]
    assert confidence == sorted(confidence)
    right = logits.argmax(axis=1) == target
    assert np.mean([part.right for part in found.bins]) == pytest.approx(right.mean())
    gaps = [abs(part.confidence - part.right) for part in found.bins]
    assert np.mean(gaps) == pytest.approx(found.ece, abs=0.02)
