"""What a policy does with rows, walked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cascade_tools.artifacts import PolicyTable, Route
from cascade_tools.planning.evaluate import Question, evaluate, threshold_policy
from tests.tables import NAMES, question_of, table_of


def test_evaluate_counts_who_sees_and_who_answers() -> None:
    table = table_of(
        [[0.9, 0.9, 0.9], [0.1, 0.9, 0.9], [0.1, 0.1, 0.9], [math.nan, 0.1, 0.9]],
        [[0, 1, 1], [1, 0, 1], [1, 1, 0], [1, 1, 1]],
        [0, 0, 0, 0],
    )
    found = evaluate(table, threshold_policy(NAMES, [0.5, 0.5]), question_of(1.0, 10.0, 100.0))
    assert found.accuracy == 0.75
    assert found.reach == {"tiny": 1.0, "base": 0.75, "giant": 0.5}
    assert found.answers == {"tiny": 0.25, "base": 0.25, "giant": 0.5}
    assert found.cost == pytest.approx(1.0 + 7.5 + 50.0)
    assert found.latency_mean_ms == pytest.approx(585.0)


def test_evaluate_follows_skips() -> None:
    table = table_of([[0.1, 0.9, 0.9], [0.4, 0.9, 0.9]], [[1, 1, 0], [1, 0, 1]], [0, 0])
    policy = PolicyTable(
        tiers=NAMES,
        routes=(
            Route(cuts=(0.3, 0.6), to=(2, 1, -1)),
            Route(cuts=(), to=(-1,)),
            Route(cuts=(), to=(-1,)),
        ),
    )
    found = evaluate(table, policy, question_of(1.0, 1.0, 1.0))
    assert found.accuracy == 1.0
    assert found.answers == {"tiny": 0.0, "base": 0.5, "giant": 0.5}


def test_the_reference_alone_loses_nothing_and_needs_no_bound() -> None:
    table = table_of(np.full((20, 2), 0.5), np.zeros((20, 2)), np.zeros(20))
    found = evaluate(table, threshold_policy(["giant"], []), question_of(1.0, 10.0))
    assert found.accuracy_drop == found.accuracy_drop_bound == 0.0
    assert found.cost == 10.0
    assert found.reach == {"base": 0.0, "giant": 1.0}


def test_latency_quantiles_are_those_of_the_paths() -> None:
    # 90 rows stop at base (20 ms), 10 go on to the giant (20 + 100 ms, its slowest 30 ms more).
    confidence = np.array([[0.9, 1.0]] * 90 + [[0.1, 1.0]] * 10)
    table = table_of(confidence, np.zeros((100, 2)), np.zeros(100))
    question = Question((2.0, 10.0), latency_ms=(20.0, 100.0), latency_spread_ms=(5.0, 30.0))
    found = evaluate(table, threshold_policy(("base", "giant"), [0.5]), question)
    assert found.latency_mean_ms == pytest.approx(30.0)
    assert (found.latency_p50_ms, found.latency_p95_ms, found.latency_p99_ms) == (20.0, 120.0, 150.0)


def test_energy_is_summed_over_the_visited_tiers() -> None:
    confidence = np.array([[0.9, 1.0], [0.1, 1.0]])
    table = table_of(confidence, np.zeros((2, 2)), np.zeros(2))
    question = Question((1.0, 1.0), energy_j=(0.5, 4.0))
    assert evaluate(table, threshold_policy(("base", "giant"), [0.5]), question).energy_j == 2.5


def test_who_answers_how_well_is_told_per_tier() -> None:
    table = table_of([[0.9, 1.0], [0.8, 1.0], [0.1, 1.0]], [[0, 0], [1, 0], [1, 0]], np.zeros(3))
    found = evaluate(table, threshold_policy(("base", "giant"), [0.5]), question_of(1.0, 2.0))
    assert found.answer_accuracy == {"base": 0.5, "giant": 1.0}
