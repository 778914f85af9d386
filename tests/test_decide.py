"""The promise: what is certified, what is not, and what would be needed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cascade_tools.artifacts import ScoreTable
from cascade_tools.errors import Infeasible, UsageError
from cascade_tools.planning.certify import rows_needed
from cascade_tools.planning.decide import decide, search_and_verify
from cascade_tools.planning.evaluate import Evaluator, evaluate, threshold_policy
from cascade_tools.planning.explain import explain
from tests.tables import question_of, random_table, table_of


@pytest.fixture(scope="module")
def table() -> ScoreTable:
    return random_table(11, 6000)


def test_the_bound_is_that_of_the_chosen_policy_on_rows_that_were_not_searched(table: ScoreTable) -> None:
    question = question_of(1.0, 3.0, 10.0, drop=2.0)
    decision = decide(table, question, guarantee=True)
    _, unseen = search_and_verify(table)
    assert decision.chosen is not None
    assert decision.certified
    assert decision.bound_points == Evaluator(unseen, question).bound_points(decision.chosen.table)
    assert decision.bound_points <= 2.0
    assert decision.verify_rows == len(unseen.target)
    assert decision.search_rows + decision.verify_rows == 6000


def test_figures_beside_the_bound_are_from_all_held_out_rows(table: ScoreTable) -> None:
    question = question_of(1.0, 3.0, 10.0, drop=2.0)
    chosen = decide(table, question, guarantee=True).chosen
    assert chosen is not None
    again = evaluate(table, chosen.table, question)
    assert chosen == again.model_copy(update={"accuracy_drop_bound": chosen.accuracy_drop_bound})


def test_all_alternatives_keep_the_promise_and_get_cheaper(table: ScoreTable) -> None:
    decision = decide(table, question_of(1.0, 3.0, 10.0, drop=2.0), guarantee=True)
    assert all(policy.accuracy_drop_bound <= 2.0 for policy in decision.alternatives)
    assert decision.alternatives[-1] == decision.chosen
    assert decision.chosen.cost < decision.reference.cost


def test_a_promise_has_its_price(table: ScoreTable) -> None:
    question = question_of(1.0, 3.0, 10.0, drop=2.0)
    promised, hoped = (decide(table, question, guarantee=g).chosen for g in (True, False))
    assert promised is not None
    assert hoped is not None
    assert hoped.cost < promised.cost
    assert hoped.accuracy_drop <= 2.0


def test_few_rows_promise_nothing_and_say_how_many_would() -> None:
    decision = decide(random_table(12, 150), question_of(1.0, 3.0, 10.0, drop=1.0), guarantee=True)
    assert decision.chosen is None
    assert not decision.certified
    assert decision.certifiable_drop is not None
    assert decision.certifiable_drop > 1.0
    assert decision.rows_needed is None or decision.rows_needed > 150


def test_rows_needed_is_where_the_bound_meets_the_allowance() -> None:
    table = table_of(np.full((400, 2), 0.5), np.zeros((400, 2)), np.zeros(400))
    sample = Evaluator(table, question_of(1.0, 2.0)).sample(threshold_policy(["base"], []))
    needed = rows_needed(sample, 0.001, 0.95)
    assert needed is not None
    assert sample.upper_bound(0.95, needed / 400) <= 0.001 < sample.upper_bound(0.95, 0.97 * needed / 400)
    assert rows_needed(sample, 0.0, 0.95) is None


def test_without_a_cheaper_policy_the_reference_is_the_certain_answer() -> None:
    decision = decide(random_table(3, 900), question_of(10.0, 10.0, 10.0), guarantee=True)
    assert decision.certified
    assert decision.chosen is not None
    assert decision.chosen.table == threshold_policy(["giant"], [])
    assert decision.bound_points == 0.0


def test_rows_of_the_heads_are_not_used(table: ScoreTable) -> None:
    question = question_of(1.0, 3.0, 10.0, drop=2.0)
    split = np.where(np.arange(6000) < 1000, "fit", "search")
    decision = decide(table.model_copy(update={"split": split}), question, guarantee=False)
    assert decision.search_rows == 5000


def test_a_table_that_says_what_to_verify_is_believed(table: ScoreTable) -> None:
    split = np.where(np.arange(6000) % 3 == 0, "search", "verify")
    decision = decide(
        table.model_copy(update={"split": split}), question_of(1.0, 3.0, 10.0, drop=2.0), guarantee=True
    )
    assert (decision.search_rows, decision.verify_rows) == (2000, 4000)


def test_one_group_cannot_be_searched_and_verified() -> None:
    table = random_table(1, 50).model_copy(update={"group": np.zeros(50, np.int64)})
    with pytest.raises(Infeasible, match="one group"):
        decide(table, question_of(1.0, 3.0, 10.0), guarantee=True)


def test_a_latency_that_no_policy_has_is_named_with_the_fastest(table: ScoreTable) -> None:
    question = replace(question_of(1.0, 3.0, 10.0), max_latency_ms={"p99": 5.0})
    with pytest.raises(Infeasible, match="the fastest has 10 ms") as caught:
        decide(table, question, guarantee=True)
    assert caught.value.constraint == "latency"


def test_a_budget_below_every_policy_is_named_with_the_cheapest(table: ScoreTable) -> None:
    question = replace(question_of(1.0, 3.0, 10.0, drop=None), max_cost=0.5)
    with pytest.raises(Infeasible, match="the cheapest costs 1") as caught:
        decide(table, question, guarantee=False)
    assert caught.value.constraint == "cost"


def test_within_a_budget_the_drop_is_bounded_not_chosen(table: ScoreTable) -> None:
    question = replace(question_of(1.0, 3.0, 10.0, drop=None), max_cost=4.0)
    decision = decide(table, question, guarantee=True)
    assert decision.certified
    assert decision.chosen is not None
    assert decision.bound_points is not None
    assert decision.chosen.cost <= 4.2  # the budget holds on the searched rows
    assert decision.bound_points > decision.chosen.accuracy_drop - 1.0


def test_the_promise_is_kept_on_new_rows() -> None:
    """Small cousin of `make bench-guarantee`: fresh tables, scored on 200,000 other rows."""
    population = random_table(99, 200_000)
    question = question_of(1.0, 3.0, 10.0, drop=2.0)
    kept = []
    for seed in range(20):
        decision = decide(random_table(200 + seed, 2500), question, guarantee=True)
        if decision.chosen is not None:
            kept.append(evaluate(population, decision.chosen.table, question).accuracy_drop <= 2.0)
    assert len(kept) >= 12, "most of these can be certified"
    assert np.mean(kept) >= 0.95 - 2 * np.sqrt(0.95 * 0.05 / len(kept))


def test_a_dominated_tier_is_explained() -> None:
    table = random_table(2, 400)
    question = question_of(1.0, 10.0, 10.0, drop=0.0)
    policy = decide(table, question, guarantee=False).chosen
    assert policy is not None
    why = explain(table, policy.table, question)
    assert why.left_out["base"].startswith("giant is no worse")
    assert why.cost_of_one_more_point <= why.cost
    assert why.cost_without_skips is not None
    assert why.cost_without_skips >= why.cost


def test_a_reference_that_breaks_a_bound_is_no_answer() -> None:
    # The giant alone is cheapest but too slow; the small tier is dearer and fast.
    table = table_of(np.full((3000, 2), 0.5), np.zeros((3000, 2)), np.zeros(3000))
    question = replace(question_of(2.0, 1.0, drop=5.0), latency_ms=(1.0, 10.0), max_latency_ms={"p99": 5.0})
    chosen = decide(table, question, guarantee=True).chosen
    assert chosen is not None
    assert chosen.table == threshold_policy(["base"], [])


def test_the_reference_cannot_promise_to_be_better_than_itself(table: ScoreTable) -> None:
    question = replace(question_of(1.0, 3.0, 10.0, drop=-60.0), reference=0)
    with pytest.raises(Infeasible, match="at least"):
        decide(table, question, guarantee=True)


def test_a_group_in_both_splits_is_refused(table: ScoreTable) -> None:
    split = np.where(np.arange(6000) % 2 == 0, "search", "verify")
    torn = table.model_copy(update={"split": split, "group": np.arange(6000) // 2})
    with pytest.raises(UsageError, match=r"3000 group\(s\)"):
        decide(torn, question_of(1.0, 3.0, 10.0), guarantee=True)


def test_where_the_search_finds_nothing_cheaper_the_reference_is_certain() -> None:
    # base is never right: no number of rows would make it worth asking.
    table = table_of(np.full((300, 2), 0.5), np.tile([1, 0], (300, 1)), np.zeros(300))
    decision = decide(table, question_of(1.0, 10.0, drop=1.0), guarantee=True)
    assert decision.certified
    assert decision.chosen is not None
    assert decision.chosen.table == threshold_policy(["giant"], [])
