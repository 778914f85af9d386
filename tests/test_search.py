"""The policy search against trying every policy, and the answers that must come out."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import combinations_with_replacement, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascade_tools.artifacts import PolicyTable, PredictedPolicy, ScoreTable
from cascade_tools.planning import search as module
from cascade_tools.planning.bands import _best_bands, polish, start_policy, sweep_prices
from cascade_tools.planning.binned import BandPolicy, BinnedRows, bin_rows, policy_table, run_policy
from cascade_tools.planning.evaluate import Question, evaluate, threshold_policy
from cascade_tools.planning.exhaustive import can_try_all
from cascade_tools.planning.search import frontier, search
from cascade_tools.planning.thresholds import tabulate
from tests.tables import every_policy, question_of, questions, random_table, table_of, tables


def best_of(table: ScoreTable, question: Question) -> PredictedPolicy:
    best = search(table, question).best
    assert best is not None
    return evaluate(table, best, question)


def by_trying_all(table: ScoreTable, question: Question) -> PredictedPolicy:
    tried = (evaluate(table, policy, question) for policy in every_policy(table))
    assert question.max_accuracy_drop is not None
    held = [p for p in tried if p.accuracy_drop <= question.max_accuracy_drop + 1e-9]
    return min(held, key=lambda policy: (round(policy.cost, 9), -policy.accuracy))


@settings(max_examples=200, deadline=None)
@given(st.data(), tables(most_rows=5))
def test_on_small_tables_nothing_is_cheaper_or_as_cheap_and_more_accurate(
    data: st.DataObject, table: ScoreTable
) -> None:
    question = data.draw(questions(len(table.tiers)))
    found, best = best_of(table, question), by_trying_all(table, question)
    assert found.cost == pytest.approx(best.cost, rel=1e-9)
    assert found.accuracy == pytest.approx(best.accuracy, abs=1e-12)


def test_four_tiers_are_searched_whole_too() -> None:
    rng = np.random.default_rng(0)
    for _ in range(3):
        table = table_of(rng.random((2, 4)), rng.integers(0, 2, (2, 4)), np.zeros(2))
        question = question_of(1.0, 2.0, 4.0, 9.0, drop=30.0)
        assert best_of(table, question).cost == pytest.approx(by_trying_all(table, question).cost)


@pytest.fixture
def no_enumeration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "can_try_all", lambda rows: False)


@pytest.mark.parametrize("seed", range(6))
def test_what_is_too_large_to_try_comes_close_to_the_best(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    table, question = random_table(seed, 120), question_of(1.0, 3.0, 10.0, drop=1.7)
    assert can_try_all(bin_rows(table, question.cost, -1))
    best = best_of(table, question)
    monkeypatch.setattr(module, "can_try_all", lambda rows: False)
    found = best_of(table, question)
    assert found.accuracy_drop <= 1.7
    assert best.cost * (1 - 1e-9) <= found.cost <= 1.03 * best.cost


@given(st.data(), tables(most_rows=12, most_tiers=4))
def test_solvers_count_what_the_router_would_do(data: st.DataObject, table: ScoreTable) -> None:
    question = question_of(*[float(2**i) for i in range(len(table.tiers))])
    rows = bin_rows(table, question.cost, -1)
    policy = data.draw(band_policies(rows))
    flow = run_policy(rows, policy)
    told = evaluate(table, policy_table(rows, policy, table.tiers), question)
    assert flow.right == pytest.approx(told.accuracy * rows.rows)
    # Tiers that only hand rows on are dropped from the table, so it can be cheaper, never dearer.
    assert told.cost * rows.rows <= flow.cost + 1e-9


@st.composite
def band_policies(draw: st.DrawFn, rows: BinnedRows) -> BandPolicy:
    entry = draw(st.integers(0, rows.tiers - 1))
    chain = tuple(range(entry, rows.tiers))
    starts = []
    for own, tier in enumerate(chain):
        cuts = st.integers(1, len(rows.borders[tier]) + 1)
        count = len(chain) - 1 - own
        starts.append(tuple(sorted(draw(st.lists(cuts, min_size=count, max_size=count)))))
    return BandPolicy(chain, tuple(starts))


@given(tables(most_rows=10))
def test_the_grid_says_of_every_combination_what_running_it_says(table: ScoreTable) -> None:
    rows = bin_rows(table, [float(2**i) for i in range(len(table.tiers))], -1)
    for subset in module.every_subset(rows.tiers):
        cuts = tuple(np.arange(1, len(rows.borders[tier]) + 2) for tier in subset[:-1])
        grid = tabulate(rows, subset, cuts)
        for flat in range(grid.cost.size):
            flow = run_policy(rows, grid.policy(flat))
            assert np.broadcast_to(grid.right, grid.cost.shape).ravel()[flat] == flow.right
            assert grid.cost.ravel()[flat] == pytest.approx(flow.cost)


@given(st.integers(0, 1000), st.integers(2, 4), st.integers(1, 5))
def test_the_bands_of_one_tier_are_the_best_there_are(seed: int, goals: int, bins: int) -> None:
    sums = np.random.default_rng(seed).normal(size=(goals, bins + 1))
    sums[:, 0] = 0.0
    starts = _best_bands(sums)

    def total(edges: tuple[int, ...]) -> float:
        band = np.searchsorted(edges, np.arange(1, bins + 1), side="right")
        return float(sums[band, np.arange(1, bins + 1)].sum())

    every = combinations_with_replacement(range(1, bins + 2), goals - 1)
    assert list(starts) == sorted(starts)
    assert total(starts) == pytest.approx(max(total(edges) for edges in every))


def test_polishing_keeps_the_accuracy_and_never_costs_more() -> None:
    table = random_table(3, 2000, tiers=4)
    rows = bin_rows(table, (1.0, 2.0, 4.0, 12.0), -1)
    wanted = rows.fewest_right(1.0)
    for share in (0.1, 0.4, 0.8):
        start = start_policy(rows, (0, 1, 2, 3), share)
        before = run_policy(rows, start)
        policy, flow = polish(rows, start, wanted)
        assert flow[1:] == run_policy(rows, policy)[1:]
        if before.right >= wanted:
            assert flow.right >= wanted
            assert flow.cost <= before.cost


def test_the_dearer_cost_is_the_less_is_spent() -> None:
    rows = bin_rows(random_table(4, 3000, tiers=4), (1.0, 2.0, 4.0, 12.0), -1)
    start = start_policy(rows, (0, 1, 2, 3), 0.5)
    swept = [flow for _, flow in sweep_prices(rows, start, [0.001, 0.01, 0.05, 0.2, 1.0])]
    assert [flow.cost for flow in swept] == sorted((flow.cost for flow in swept), reverse=True)
    assert swept[-1].cost == 3000.0


def test_a_skip_pays_where_the_middle_cannot_help() -> None:
    # tiny at .1: only the giant is right; at .5: base is right and much cheaper; at .9: tiny is.
    count = 100
    confidence = np.repeat([[0.1, 0.5, 1.0], [0.5, 0.9, 1.0], [0.9, 0.9, 1.0]], count, axis=0)
    label = np.repeat([[1, 1, 0], [1, 0, 0], [0, 0, 0]], count, axis=0)
    table = table_of(confidence, label, np.zeros(3 * count))
    found = best_of(table, question_of(1.0, 3.0, 20.0, drop=0.0))
    assert found.table.routes[0].to == (2, 1, -1)
    assert found.cost == pytest.approx((300 + 100 * 3 + 100 * 20) / 300)


def test_a_tier_that_does_not_pay_is_left_out() -> None:
    table = random_table(2, 400)
    # base costs as much as the giant: whoever asks it could have asked the giant.
    assert "base" not in best_of(table, question_of(1.0, 10.0, 10.0, drop=0.0)).table.tiers


def test_a_tier_that_pays_is_used() -> None:
    table = random_table(2, 400)
    assert "base" in best_of(table, question_of(1.0, 1.5, 30.0, drop=3.0)).table.tiers


def test_a_giant_that_is_worse_than_a_middle_tier_is_left_out() -> None:
    table = random_table(5, 500)
    label = table.label.copy()
    label[::4, 2] = 1
    worse = table.model_copy(update={"label": label})
    found = best_of(worse, question_of(1.0, 3.0, 10.0, drop=0.0))
    assert "giant" not in found.table.tiers
    assert found.accuracy_drop <= 0.0


def test_a_tier_that_never_knows_is_left_out() -> None:
    table = random_table(6, 400)
    confidence = table.confidence.copy()
    confidence[:, 0] = 0.3
    blind = table.model_copy(update={"confidence": confidence})
    assert best_of(blind, question_of(1.0, 3.0, 10.0, drop=3.0)).table.tiers == ("base", "giant")


def test_without_a_cheaper_cascade_the_last_tier_stands_alone() -> None:
    found = best_of(random_table(3, 300), question_of(10.0, 10.0, 10.0, drop=0.0))
    assert found.cost == 10.0


def test_a_small_tier_that_is_always_right_stands_alone() -> None:
    table = table_of(np.full((500, 2), 0.5), np.zeros((500, 2)), np.zeros(500))
    assert best_of(table, question_of(1.0, 10.0, drop=0.0)).table == threshold_policy(["base"], [])


def test_another_reference_is_what_the_drop_is_measured_against() -> None:
    table = random_table(8, 400)
    question = replace(question_of(1.0, 3.0, 10.0, drop=0.0), reference=1)
    found = best_of(table, question)
    assert found.accuracy >= (table.label[:, 1] == table.target).mean()
    assert found.cost < best_of(table, question_of(1.0, 3.0, 10.0, drop=0.0)).cost


def test_nan_counts_as_no_confidence() -> None:
    whole = random_table(1, 300, tiers=2)
    confidence = whole.confidence.copy()
    confidence[::3, 0] = math.nan
    table, question = whole.model_copy(update={"confidence": confidence}), question_of(1.0, 10.0, drop=3.0)
    zeroed = whole.model_copy(update={"confidence": np.nan_to_num(confidence, nan=0.0)})
    assert search(table, question).best == search(zeroed, question).best
    assert best_of(table, question).cost < 10.0


def test_a_budget_buys_the_most_accurate_policy_that_it_can() -> None:
    table = random_table(9, 60)
    question = replace(question_of(1.0, 3.0, 10.0, drop=None), max_cost=4.0)
    found = best_of(table, question)
    assert found.cost <= 4.0
    tried = [evaluate(table, policy, question) for policy in every_policy(random_table(9, 60, tiers=2))]
    assert tried, "the oracle has something to say"
    for drop in np.linspace(-5.0, 40.0, 46):
        cheaper = search(table, question_of(1.0, 3.0, 10.0, drop=float(drop))).best
        if cheaper is not None:
            other = evaluate(table, cheaper, question)
            assert other.cost > 4.0 or other.accuracy <= found.accuracy + 1e-12


def test_a_latency_bound_is_kept_and_has_its_price() -> None:
    table, question = random_table(10, 800), question_of(1.0, 3.0, 10.0, drop=15.5)
    free, held = best_of(table, question), best_of(table, replace(question, max_latency_ms={"p99": 50.0}))
    assert free.latency_p99_ms is not None
    assert held.latency_p99_ms is not None
    assert held.latency_p99_ms <= 50.0 < free.latency_p99_ms
    assert free.cost < held.cost
    assert held.accuracy_drop <= 15.5


def test_bounds_that_nothing_keeps_leave_no_best() -> None:
    question = replace(question_of(1.0, 3.0, 10.0), max_latency_ms={"p50": 5.0})
    assert search(random_table(10, 300), question).best is None


def test_the_search_is_deterministic(no_enumeration: None) -> None:
    table, question = random_table(6, 300), question_of(1.0, 3.0, 10.0, drop=2.0)
    np.random.seed(1)
    first = search(table, question)
    np.random.seed(2)
    assert search(table, question) == first


@pytest.fixture(scope="module")
def front() -> tuple[PredictedPolicy, ...]:
    table, question = random_table(7, 3000), question_of(1.0, 3.0, 10.0, drop=2.0)
    return frontier(table, question, search(table, question).pool)


def test_the_frontier_has_at_least_fifty_policies_cheapest_first(front: tuple[PredictedPolicy, ...]) -> None:
    assert len(front) >= 50
    assert all(low.cost <= high.cost for low, high in pairwise(front))
    assert front[0].cost == 1.0
    assert front[-1].accuracy >= 0.9


def test_nothing_on_the_frontier_is_beaten_in_everything(front: tuple[PredictedPolicy, ...]) -> None:
    for one in front:
        for other in front:
            beaten = (
                other.cost <= one.cost
                and other.accuracy >= one.accuracy
                and (other.latency_p99_ms or 0.0) <= (one.latency_p99_ms or 0.0)
            )
            assert other == one or not beaten


def test_the_policies_of_the_frontier_are_as_they_are_evaluated(front: tuple[PredictedPolicy, ...]) -> None:
    table, question = random_table(7, 3000), question_of(1.0, 3.0, 10.0, drop=2.0)
    for policy in front[::9]:
        assert policy == evaluate(table, policy.table, question)


def test_policies_are_legal_tables(front: tuple[PredictedPolicy, ...]) -> None:
    for policy in front:
        assert PolicyTable.model_validate(policy.table.model_dump()) == policy.table
