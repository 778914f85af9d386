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
from sklearn.metrics import log_loss, roc_auc_score

from cascade_tools.planning.calibration import (
    auroc,
    expected_calibration_error,
    fit_temperature,
    reliability,
    split_by_group,
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
    before = reliability(logits, target, 1.0, "max_probability")
    after = reliability(logits, target, fit_temperature(logits, target), "max_probability")
    assert after.nll < before.nll
    assert after.ece < before.ece


def test_reliability_reports_the_loss_of_scikit_learn() -> None:
    logits, target = over_confident(5, 200, 4, 2.0)
    found = reliability(logits, target, 1.7, "max_probability")
    probabilities = softmax(logits.astype(np.float64) / 1.7, axis=1)
    assert found.nll == pytest.approx(log_loss(target, probabilities), rel=1e-9)
    right = probabilities.argmax(axis=1) == target
    assert found.auroc == pytest.approx(roc_auc_score(right, probabilities.max(axis=1)), rel=1e-6)


def test_reliability_of_the_margin_ranks_by_the_margin() -> None:
    logits, target = over_confident(6, 200, 4, 2.0)
    ordered = np.sort(softmax(logits.astype(np.float64), axis=1), axis=1)
    right = logits.argmax(axis=1) == target
    wanted = roc_auc_score(right, ordered[:, -1] - ordered[:, -2])
    assert reliability(logits, target, 1.0, "margin").auroc == pytest.approx(wanted, rel=1e-6)


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


groups = st.lists(st.integers(0, 12), min_size=1, max_size=80).map(lambda g: np.asarray(g, np.int64))


@given(groups, st.floats(0.01, 0.99), st.integers(0, 5))
def test_the_rows_of_a_group_stay_together(group: Array, share: float, seed: int) -> None:
    fit = split_by_group(group, share, seed)
    assert fit.shape == group.shape
    assert not set(group[fit]) & set(group[~fit])


@given(groups.filter(lambda g: len(set(g.tolist())) > 1), st.floats(0.01, 0.99))
def test_both_sides_of_a_split_get_rows(group: Array, share: float) -> None:
    fit = split_by_group(group, share, 0)
    assert fit.any()
    assert not fit.all()


def test_the_share_is_that_of_the_groups_not_of_the_rows() -> None:
    group = np.repeat(np.arange(100), np.where(np.arange(100) < 10, 50, 1))
    fit = split_by_group(group, 0.25, 0)
    assert len(set(group[fit].tolist())) == 25


def test_the_split_depends_on_the_seed_and_on_nothing_else() -> None:
    group = np.arange(200)
    np.random.seed(1)
    first = split_by_group(group, 0.5, 0)
    np.random.seed(2)
    assert (split_by_group(group, 0.5, 0) == first).all()
    assert (split_by_group(group, 0.5, 1) != first).any()
