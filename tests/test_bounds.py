"""The bound on a drop in accuracy, against its definition and against simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from cascade_tools.planning.bounds import Groups, PairedSample, paired_sample
from tests.helpers import Array


def sample_of(worse: int, better: int, rows: int, copies: int = 1) -> PairedSample:
    lost = np.concatenate([np.ones(worse), -np.ones(better), np.zeros(rows - worse - better)])
    return paired_sample(lost, Groups.of(np.arange(rows) // copies))


@given(st.integers(0, 40), st.integers(0, 40), st.integers(80, 2000), st.sampled_from([0.8, 0.95, 0.99]))
def test_at_the_bound_the_score_is_z(worse: int, better: int, rows: int, confidence: float) -> None:
    """Tango's statistic, its nuisance share found by maximising the likelihood instead of his formula."""
    found = sample_of(worse, better, rows).upper_bound(confidence)
    share = most_likely_better(worse, better, rows, found)
    score = (worse - better - rows * found) / np.sqrt(rows * (2 * share + found * (1 - found)))
    assert score == pytest.approx(-norm.ppf(confidence), abs=0.02)


def most_likely_better(worse: int, better: int, rows: int, drop: float) -> float:
    """Share of rows where the policy is better, if the drop is `drop`: on a fine grid."""
    top = (1.0 - drop) / 2.0
    share = np.concatenate([np.linspace(0.0, top, 200_001), np.geomspace(1e-9, top, 20_001)])[1:]
    share = share[(share + drop > 0.0) & (1.0 - 2.0 * share - drop > 0.0)]
    likelihood = (
        better * np.log(share)
        + worse * np.log(share + drop)
        + (rows - worse - better) * np.log(1.0 - 2.0 * share - drop)
    )
    return float(share[likelihood.argmax()])


def test_rows_without_any_difference_do_not_promise_certainty() -> None:
    z = norm.ppf(0.95)
    assert sample_of(0, 0, 1000).upper_bound(0.95) == pytest.approx(z**2 / (1000 + z**2), rel=1e-6)


@given(st.integers(0, 30), st.integers(0, 30), st.integers(100, 1000))
def test_the_bound_is_above_what_was_seen_and_falls_with_more_rows(
    worse: int, better: int, rows: int
) -> None:
    sample = sample_of(worse, better, rows)
    bound = sample.upper_bound(0.95)
    assert sample.drop < bound <= 1.0
    assert sample.upper_bound(0.95, scale=4.0) < bound
    assert sample.upper_bound(0.99) > bound


def test_a_policy_that_is_always_wrong_is_bounded_by_one() -> None:
    assert sample_of(50, 0, 50).upper_bound(0.95) == 1.0


def test_independent_rows_have_no_design_effect() -> None:
    assert sample_of(5, 2, 500).design_effect == 1.0


def test_copies_count_as_one_row() -> None:
    lost = np.repeat(np.random.default_rng(0).choice([1.0, -1.0, 0.0], 200, p=[0.1, 0.05, 0.85]), 10)
    found = paired_sample(lost, Groups.of(np.repeat(np.arange(200), 10)))
    assert found.design_effect == pytest.approx(10.0, rel=0.05)


def test_groups_of_independent_rows_cost_little() -> None:
    lost = np.random.default_rng(0).choice([1.0, -1.0, 0.0], 5000, p=[0.03, 0.01, 0.96])
    found = paired_sample(lost, Groups.of(np.arange(5000) // 10))
    assert 1.0 <= found.design_effect < 1.25


def test_without_differences_groups_are_thought_to_be_copies() -> None:
    assert sample_of(0, 0, 1000, copies=10).design_effect == pytest.approx(10.0)


@pytest.mark.parametrize(
    ("worse", "better", "rows"), [(0.02, 0.01, 1000), (0.006, 0.001, 600), (0.1, 0.1, 300)]
)
def test_the_bound_covers_the_truth_as_often_as_it_says(worse: float, better: float, rows: int) -> None:
    rng = np.random.default_rng(1)
    draws = rng.multinomial(rows, [worse, better, 1 - worse - better], 2000)
    covered = [
        PairedSample(rows, w / rows, b / rows, 1.0).upper_bound(0.95) >= worse - better for w, b, _ in draws
    ]
    assert np.mean(covered) >= 0.95 - 2 * np.sqrt(0.95 * 0.05 / 2000)


def test_the_bound_covers_the_truth_where_rows_come_in_groups() -> None:
    rng = np.random.default_rng(2)
    covered = [grouped_draw(rng).upper_bound(0.95) >= 0.03 for _ in range(600)]
    assert np.mean(covered) >= 0.95 - 2 * np.sqrt(0.95 * 0.05 / 600)


def grouped_draw(rng: np.random.Generator) -> PairedSample:
    """150 groups of 8 rows; each group has its own share of rows that are lost, .03 on average."""
    share: Array = rng.beta(0.3, 9.7, 150)
    lost = (rng.random((150, 8)) < share[:, None]).astype(np.float64)
    return paired_sample(lost.ravel(), Groups.of(np.repeat(np.arange(150), 8)))


def test_one_group_says_nothing_about_others() -> None:
    lost = np.zeros(1000)
    assert paired_sample(lost, Groups.of(np.zeros(1000, np.int64))).upper_bound(0.95) == 1.0


@pytest.mark.parametrize("sizes", [[2000, *[1] * 200], [50] * 12])
def test_the_bound_covers_the_truth_where_groups_are_unequal_or_few(sizes: list[int]) -> None:
    rng = np.random.default_rng(3)
    group = np.repeat(np.arange(len(sizes)), sizes)
    covered = []
    for _ in range(300):
        share = rng.beta(0.9, 8.1, len(sizes))[group]
        lost = (rng.random(len(group)) < share).astype(np.float64)
        covered.append(paired_sample(lost, Groups.of(group)).upper_bound(0.95) >= 0.1)
    assert np.mean(covered) >= 0.92
