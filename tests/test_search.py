"""The policy search against sending every row through every policy."""

from __future__ import annotations

import math
from itertools import combinations, pairwise, product

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from cascade_tools.artifacts import PolicyTable, PredictedPolicy, Route, ScoreTable
from cascade_tools.planning.search import (
    FRONTIER_SIZE,
    Answer,
    Question,
    _tabulate,
    evaluate,
    search,
    threshold_policy,
)
from tests.helpers import Array

NAMES = ("tiny", "base", "giant")


def table_of(
    confidence: npt.ArrayLike,
    label: npt.ArrayLike,
    target: npt.ArrayLike,
    group: npt.ArrayLike | None = None,
) -> ScoreTable:
    rows, tiers = np.shape(label)
    return ScoreTable(
        tiers=NAMES[-tiers:] if tiers < 3 else NAMES,
        confidence=np.asarray(confidence, np.float32).reshape(rows, tiers),
        label=np.asarray(label, np.int64),
        target=np.asarray(target, np.int64),
        group=np.arange(rows) if group is None else np.asarray(group, np.int64),
        split=np.full(rows, "search"),
    )


def question_of(*cost: float, drop: float = 1.0, confidence: float = 0.95) -> Question:
    return Question(cost, tuple(10.0 * c for c in cost), drop, confidence)


def random_table(seed: int, rows: int, tiers: int = 3, copies: int = 1) -> ScoreTable:
    """Tiers of rising accuracy whose confidence tells something; `copies` rows per group."""
    rng = np.random.default_rng(seed)
    groups = rows // copies
    hardness = np.repeat(rng.random(groups), copies)
    rows = groups * copies
    skill = np.linspace(0.6, 0.97, tiers)
    right = hardness[:, None] + rng.normal(0.0, 0.15, (rows, tiers)) < skill
    noise = rng.normal(0.0, 0.15, (rows, tiers))
    confidence = np.clip(1.1 - hardness[:, None] * 0.6 / skill + noise, 0.01, 1.0)
    label = np.where(right, 0, 1)
    return table_of(confidence, label, np.zeros(rows), np.repeat(np.arange(groups), copies))


# Few distinct values, so that ties, constants and NaN are common.
values = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0, math.nan])


@st.composite
def tables(draw: st.DrawFn, most_rows: int = 12, grouped: bool = False) -> ScoreTable:
    rows, tiers = draw(st.integers(1, most_rows)), draw(st.integers(1, 3))
    classes = draw(st.integers(1, 3))
    cells = rows * tiers
    confidence = draw(
        st.one_of(
            st.lists(values, min_size=cells, max_size=cells),
            st.lists(st.floats(0.0, 1.0, width=32), min_size=cells, max_size=cells),
            values.map(lambda value: [value] * cells),
        )
    )
    label = draw(st.lists(st.integers(0, classes - 1), min_size=cells, max_size=cells))
    target = draw(st.lists(st.integers(0, classes - 1), min_size=rows, max_size=rows))
    group = draw(st.lists(st.integers(0, 3), min_size=rows, max_size=rows)) if grouped else None
    shape = (rows, tiers)
    return table_of(
        np.array(confidence).reshape(shape),
        np.array(label).reshape(shape),
        np.array(target),
        None if group is None else np.array(group),
    )


@st.composite
def questions(draw: st.DrawFn, tiers: int) -> Question:
    cost = draw(st.lists(st.floats(0.01, 10.0), min_size=tiers, max_size=tiers))
    drop, confidence = draw(st.floats(0.0, 100.0)), draw(st.sampled_from([0.55, 0.8, 0.95]))
    return question_of(*cost, drop=drop, confidence=confidence)


def known(table: ScoreTable) -> Array:
    return np.where(np.isnan(table.confidence), np.float32(0.0), table.confidence)


def subsets(table: ScoreTable) -> list[tuple[int, ...]]:
    ladder = range(len(table.tiers))
    return [s for size in range(1, len(ladder) + 1) for s in combinations(ladder, size)]


@given(st.data(), tables())
def test_the_grid_says_of_every_policy_what_evaluating_it_says(
    data: st.DataObject, table: ScoreTable
) -> None:
    question = data.draw(questions(len(table.tiers)))
    right = (table.label == table.target[:, None]).astype(np.float64)
    for subset in subsets(table):
        cuts = tuple(np.unique(known(table)[:, tier]) for tier in subset[:-1])
        grid = _tabulate(known(table), right, subset, cuts, question)
        for where in np.ndindex(grid.cost.shape):
            chosen = [float(axis[i]) for axis, i in zip(cuts, where, strict=True)]
            policy = threshold_policy([table.tiers[i] for i in subset], chosen)
            wanted = evaluate(table, policy, question)
            assert grid.accuracy[where] == pytest.approx(wanted.accuracy, abs=1e-12)
            assert grid.cost[where] == pytest.approx(wanted.cost, rel=1e-12)
            assert 100.0 * grid.drop_bound[where] == pytest.approx(wanted.accuracy_drop_bound, abs=1e-6)


def every_policy(table: ScoreTable) -> list[PolicyTable]:
    """All subsets of the tiers with all cuts at values that occur."""
    found = []
    for subset in subsets(table):
        cuts = [np.unique(known(table)[:, tier]).tolist() for tier in subset[:-1]]
        names = [table.tiers[i] for i in subset]
        found += [threshold_policy(names, chosen) for chosen in product(*cuts)]
    return found


def cheapest_by_trying_all(table: ScoreTable, question: Question) -> PredictedPolicy:
    tried = [evaluate(table, policy, question) for policy in every_policy(table)]
    feasible = [p for p in tried if p.accuracy_drop_bound <= question.max_accuracy_drop]
    return min(feasible, key=lambda policy: policy.cost)


@settings(max_examples=50)
@given(st.data(), tables())
def test_without_groups_nothing_that_holds_is_cheaper(data: st.DataObject, table: ScoreTable) -> None:
    question = data.draw(questions(len(table.tiers)))
    chosen = search(table, question).chosen
    assert chosen.accuracy_drop_bound <= question.max_accuracy_drop
    best = cheapest_by_trying_all(table, question)
    assert chosen.cost == pytest.approx(best.cost, rel=1e-9)


@settings(max_examples=50)
@given(st.data(), tables(grouped=True))
def test_with_groups_the_choice_still_holds(data: st.DataObject, table: ScoreTable) -> None:
    question = data.draw(questions(len(table.tiers)))
    chosen = search(table, question).chosen
    assert chosen == evaluate(table, chosen.table, question)
    assert chosen.accuracy_drop_bound <= question.max_accuracy_drop
    assert chosen.cost >= cheapest_by_trying_all(table, question).cost * (1.0 - 1e-9)
    assert chosen.cost <= question.cost[-1] * (1.0 + 1e-9)


def test_rows_that_repeat_each_other_do_not_pass_for_many() -> None:
    single = random_table(0, 300, tiers=2)
    repeated = table_of(
        np.repeat(single.confidence, 10, axis=0),
        np.repeat(single.label, 10, axis=0),
        np.repeat(single.target, 10),
        np.repeat(single.group, 10),
    )
    question = question_of(1.0, 10.0, drop=2.0)
    ungrouped = repeated.model_copy(update={"group": np.arange(3000)})
    hasty = search(ungrouped, question).chosen
    assert evaluate(repeated, hasty.table, question).accuracy_drop_bound > 2.0
    chosen = search(repeated, question).chosen
    assert chosen.accuracy_drop_bound <= 2.0
    assert hasty.cost < chosen.cost < 10.0


def test_nan_counts_as_no_confidence_when_searching() -> None:
    whole = random_table(1, 300, tiers=2)
    confidence = whole.confidence.copy()
    confidence[::3, 0] = math.nan
    table, question = whole.model_copy(update={"confidence": confidence}), question_of(1.0, 10.0, drop=3.0)
    zeroed = whole.model_copy(update={"confidence": np.nan_to_num(confidence, nan=0.0)})
    chosen = search(table, question).chosen
    assert chosen == search(zeroed, question).chosen
    assert chosen.cost < 10.0


def test_more_rows_than_cuts_still_find_a_policy_close_to_the_best() -> None:
    table = random_table(0, 600, tiers=2)
    question = question_of(1.0, 10.0, drop=2.0)
    best = cheapest_by_trying_all(table, question)
    chosen = search(table, question).chosen
    assert chosen.cost == pytest.approx(best.cost, rel=0.01)
    assert chosen.cost < 9.0


def test_the_reference_is_the_last_tier_alone() -> None:
    table = random_table(1, 200)
    reference = search(table, question_of(1.0, 2.0, 9.0)).reference
    assert reference.table == threshold_policy(["giant"], [])
    assert reference.accuracy == (table.label[:, -1] == table.target).mean()
    assert reference.accuracy_drop == reference.accuracy_drop_bound == 0.0
    assert reference.cost == 9.0
    assert reference.latency_mean_ms == 90.0
    assert reference.reach == {"tiny": 0.0, "base": 0.0, "giant": 1.0}


def test_a_tier_that_does_not_pay_is_left_out() -> None:
    table = random_table(2, 400)
    # base costs as much as the giant: whoever asks it could have asked the giant.
    chosen = search(table, question_of(1.0, 10.0, 10.0, drop=3.0)).chosen
    assert chosen.table.tiers == ("tiny", "giant")


def test_a_tier_that_pays_is_used() -> None:
    table = random_table(2, 400)
    assert "base" in search(table, question_of(1.0, 1.5, 30.0, drop=3.0)).chosen.table.tiers


def test_without_a_cheaper_cascade_the_last_tier_stands_alone() -> None:
    answer = search(random_table(3, 300), question_of(10.0, 10.0, 10.0))
    assert answer.chosen == answer.reference


def test_without_an_allowance_the_last_tier_stands_alone() -> None:
    answer = search(random_table(3, 300), question_of(0.1, 1.0, 10.0, drop=0.0))
    assert answer.chosen == answer.reference


def test_a_small_tier_that_is_always_right_stands_alone() -> None:
    table = table_of(np.full((500, 2), 0.5), np.zeros((500, 2)), np.zeros(500))
    chosen = search(table, question_of(1.0, 10.0, drop=2.0)).chosen
    assert chosen.table == threshold_policy(["base"], [])


def test_few_rows_do_not_promise_what_many_do() -> None:
    # No disagreement at all, but 20 rows could hide a drop of more than 2 points.
    table = table_of(np.full((20, 2), 0.5), np.zeros((20, 2)), np.zeros(20))
    answer = search(table, question_of(1.0, 10.0, drop=2.0))
    assert answer.chosen == answer.reference


def test_rows_that_come_in_groups_promise_less() -> None:
    single = random_table(4, 400)
    copies = single.model_copy(update={"group": single.group // 10})
    policy = threshold_policy(NAMES, [0.6, 0.5])
    question = question_of(1.0, 2.0, 3.0)
    repeated = table_of(
        np.repeat(single.confidence[:40], 10, axis=0),
        np.repeat(single.label[:40], 10, axis=0),
        np.repeat(single.target[:40], 10),
        np.repeat(np.arange(40), 10),
    )
    bound = evaluate(repeated, policy, question).accuracy_drop_bound
    ungrouped = repeated.model_copy(update={"group": np.arange(400)})
    assert bound > evaluate(ungrouped, policy, question).accuracy_drop_bound
    assert evaluate(copies, policy, question).accuracy == evaluate(single, policy, question).accuracy


def test_the_bound_is_the_mean_plus_z_standard_errors_of_the_group_sums() -> None:
    table = random_table(5, 300, copies=3)
    policy = threshold_policy(NAMES, [0.6, 0.5])
    found = evaluate(table, policy, question_of(1.0, 2.0, 3.0, confidence=0.9))
    lost = [
        int(table.label[row, 2] == table.target[row]) - int(answer_of(table, policy, row) == 0)
        for row in range(300)
    ]
    mean = sum(lost) / 300
    sums = [sum(value - mean for value in lost[i : i + 3]) for i in range(0, 300, 3)]
    z = norm.ppf(0.9)
    error = math.sqrt(sum(value**2 for value in sums) + z**2) / 300
    assert found.accuracy_drop == pytest.approx(100.0 * mean)
    assert found.accuracy_drop_bound == pytest.approx(100.0 * (mean + z * error))


def answer_of(table: ScoreTable, policy: PolicyTable, row: int) -> int:
    """Label of one row, walked tier by tier."""
    level = 0
    while True:
        tier = table.tiers.index(policy.tiers[level])
        cuts = policy.routes[level].cuts
        if not cuts or table.confidence[row, tier] >= np.float32(cuts[0]):
            return int(table.label[row, tier])
        level += 1


def test_a_policy_that_loses_nothing_in_the_sample_still_has_a_bound_above_zero() -> None:
    table = table_of(np.full((100, 2), 0.5), np.zeros((100, 2)), np.zeros(100))
    found = evaluate(table, threshold_policy(["base"], []), question_of(1.0, 2.0))
    assert found.accuracy_drop == 0.0
    assert found.accuracy_drop_bound == pytest.approx(100.0 * norm.ppf(0.95) ** 2 / 100.0)


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


def test_the_search_is_deterministic() -> None:
    table, question = random_table(6, 300), question_of(1.0, 3.0, 10.0, drop=2.0)
    np.random.seed(1)
    first = search(table, question)
    np.random.seed(2)
    assert search(table, question) == first


@pytest.fixture(scope="module")
def answer() -> Answer:
    return search(random_table(7, 800), question_of(1.0, 3.0, 10.0, drop=2.0))


def test_the_frontier_is_sorted_and_nothing_on_it_is_dominated(answer: Answer) -> None:
    points = [(policy.cost, policy.accuracy) for policy in answer.frontier]
    assert points == sorted(points)
    assert all(a < b for (_, a), (_, b) in pairwise(points))


def test_the_frontier_is_thinned_evenly_from_the_cheapest_to_the_most_accurate(answer: Answer) -> None:
    accuracy = [policy.accuracy for policy in answer.frontier]
    assert answer.frontier[0].cost == 1.0
    assert accuracy[-1] >= answer.reference.accuracy
    assert FRONTIER_SIZE // 2 <= len(accuracy) <= FRONTIER_SIZE + 2
    assert max(np.diff(accuracy)) < 0.03


def test_the_policies_of_the_frontier_are_as_they_are_evaluated(answer: Answer) -> None:
    table, question = random_table(7, 800), question_of(1.0, 3.0, 10.0, drop=2.0)
    for policy in answer.frontier[::7]:
        assert policy == evaluate(table, policy.table, question)


@settings(max_examples=30)
@given(st.data(), tables())
def test_the_frontier_of_a_small_table_is_that_of_all_policies(
    data: st.DataObject, table: ScoreTable
) -> None:
    question = data.draw(questions(len(table.tiers)))
    tried = [evaluate(table, policy, question) for policy in every_policy(table)]
    best: dict[float, float] = {}
    for policy in sorted(tried, key=lambda p: (p.cost, -p.accuracy)):
        if policy.accuracy > max(best.values(), default=-1.0):
            best[policy.cost] = policy.accuracy
    frontier = search(table, question).frontier
    found = {policy.cost: policy.accuracy for policy in frontier}
    assert list(found) == pytest.approx(list(best), rel=1e-9)
    assert list(found.values()) == pytest.approx(list(best.values()), abs=1e-12)


def test_of_equal_cost_the_more_accurate_policy_is_chosen() -> None:
    for seed in range(60):
        random = np.random.default_rng(seed)
        rows = random.integers(3, 9)
        scores = random.choice([0.2, 0.5, 0.8], (rows, 3))
        table = table_of(scores, random.integers(0, 2, (rows, 3)), np.zeros(rows))
        question = question_of(1.0, 1.0, 4.0, drop=100.0 if seed % 2 else 60.0)
        chosen = search(table, question).chosen
        tried = [evaluate(table, policy, question) for policy in every_policy(table)]
        allowed = [p for p in tried if p.accuracy_drop_bound <= question.max_accuracy_drop]
        assert chosen.accuracy == max(p.accuracy for p in allowed if p.cost == chosen.cost)
