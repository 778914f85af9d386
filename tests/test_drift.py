"""Drift is noticed, and rarely called where there is none."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from cascade_tools.planning.drift import (
    ConfidenceSpread,
    SampledRows,
    agreement,
    evidence,
    population_stability,
    spread_of,
)

RATE = 0.05
SHARE = 0.04


def rows_of(
    differs: npt.ArrayLike,
    confidence: npt.ArrayLike | None = None,
    probability: npt.ArrayLike = 1.0,
    smallest: float | None = None,
    gear: int = -1,
) -> SampledRows:
    agrees = ~np.asarray(differs, bool)
    count = len(agrees)
    return SampledRows(
        time=np.arange(count, dtype=np.float64),
        confidence=np.full(count, 0.9) if confidence is None else np.asarray(confidence, np.float64),
        agrees=agrees,
        weight=1.0 / np.broadcast_to(np.asarray(probability, np.float64), count),
        gear=np.full(count, gear),
        largest_weight=1.0 / (smallest or float(np.min(probability))),
    )


def drawn(rng: np.random.Generator, count: int, share: float) -> SampledRows:
    return rows_of(rng.random(count) < share)


# The bet


def test_at_the_tolerated_share_the_wealth_rarely_grows_at_any_time() -> None:
    rng = np.random.default_rng(0)
    alarms = [(evidence(drawn(rng, 400, SHARE), SHARE) >= 1.0 / RATE).any() for _ in range(400)]
    assert np.mean(alarms) <= RATE + 3.0 * np.sqrt(RATE * (1.0 - RATE) / len(alarms))


def test_rows_that_were_sampled_more_often_count_for_less() -> None:
    """Half of the traffic differs on 8 % and is sampled ten times as often: SHARE of all rows differ."""
    rng = np.random.default_rng(1)
    traffic = 3000
    alarms = []
    for _ in range(100):
        often = np.arange(traffic) % 2 == 0
        probability = np.where(often, 1.0, 0.1)
        kept = rng.random(traffic) < probability
        differs = rng.random(traffic) < np.where(often, 2.0 * SHARE, 0.0)
        rows = rows_of(differs[kept], probability=probability[kept])
        assert rows.disagreement == pytest.approx(SHARE, abs=0.03)
        alarms.append((evidence(rows, SHARE) >= 1.0 / RATE).any())
    assert np.mean(alarms) <= RATE + 3.0 * np.sqrt(RATE * (1.0 - RATE) / len(alarms))


def test_before_the_first_rarely_sampled_row_nothing_is_called_either() -> None:
    """Sure rows are sampled once in a thousand and all agree: at first the log holds none of them."""
    rng = np.random.default_rng(7)
    unsure = rows_of(rng.random(200) < 0.5, smallest=0.001)
    assert evidence(unsure, SHARE).max() < 1.0 / RATE
    assert evidence(rows_of(~unsure.agrees), SHARE).max() > 1.0 / RATE


def test_overwhelming_evidence_stays_a_number() -> None:
    wealth = evidence(rows_of(np.ones(5000)), SHARE)
    assert np.isfinite(wealth).all()
    assert wealth[-1] > 1e200


def test_a_share_that_trebled_is_noticed_within_a_few_hundred_rows() -> None:
    rng = np.random.default_rng(2)
    noticed = [(evidence(drawn(rng, 600, 3.0 * SHARE), SHARE) >= 1.0 / RATE).any() for _ in range(50)]
    assert np.mean(noticed) > 0.9


def test_a_late_change_is_noticed_too() -> None:
    rng = np.random.default_rng(3)
    before, after = rng.random(2000) < SHARE, rng.random(400) < 5.0 * SHARE
    wealth = evidence(rows_of(np.append(before, after)), SHARE)
    assert wealth[:2000].max() < 1.0 / RATE
    assert wealth[2000:].max() >= 1.0 / RATE


def test_without_rows_nothing_is_known() -> None:
    assert evidence(rows_of([]), SHARE).shape == (0,)


def test_rows_that_all_agree_never_speak_for_drift() -> None:
    wealth = evidence(rows_of(np.zeros(300)), SHARE)
    assert (wealth <= 1.0).all()
    assert (np.diff(wealth) <= 0.0).all()


def test_the_first_row_s_wealth_is_half_stake_half_reserve() -> None:
    """By hand: bets of growth g pay 1 + (1 - s) (g - s) / (s (1 - s)) = g / s on a row that differs."""
    grown = np.array([1.25, 1.5, 2.0, 3.0, 5.0, 10.0])
    assert evidence(rows_of([True]), SHARE)[0] == pytest.approx(0.5 * grown.mean() + 0.5)


# Agreement against the plan


def test_the_plan_s_own_rows_bound_what_is_tolerated() -> None:
    planned = np.arange(1000) % 50 != 0
    found = agreement(planned, np.arange(1000), rows_of(np.zeros(100)), RATE)
    assert found.planned == pytest.approx(0.02)
    assert 0.02 < found.tolerated < 0.04
    assert found.noticed_at is None
    assert found.evidence < 1.0 / RATE


def test_few_groups_tolerate_more() -> None:
    planned = np.repeat(np.arange(100) % 50 != 0, 10)
    alone = agreement(planned, np.arange(1000), rows_of([True]), RATE)
    grouped = agreement(planned, np.repeat(np.arange(100), 10), rows_of([True]), RATE)
    assert grouped.planned == alone.planned
    assert grouped.tolerated > alone.tolerated


def test_the_row_at_which_it_was_noticed_is_told() -> None:
    planned = np.arange(1000) % 50 != 0
    differs = np.append(np.zeros(50), np.ones(50))
    found = agreement(planned, np.arange(1000), rows_of(differs), RATE)
    assert found.seen == pytest.approx(0.5)
    assert found.noticed_at is not None
    assert 50 < found.noticed_at < 60
    assert found.evidence >= 1.0 / RATE


def test_a_plan_that_never_agreed_tolerates_everything() -> None:
    found = agreement(np.zeros(100, bool), np.arange(100), rows_of(np.ones(200)), RATE)
    assert found.noticed_at is None


# Population stability


def test_the_index_is_that_of_its_definition() -> None:
    planned = ConfidenceSpread(np.array([0.5]), np.array([0.5, 0.5]), 1e9)
    rows = rows_of(np.zeros(400_000), np.tile([0.2, 0.7, 0.8, 0.9], 100_000))
    by_hand = (0.25 - 0.5) * np.log(0.25 / 0.5) + (0.75 - 0.5) * np.log(0.75 / 0.5)
    found = population_stability(planned, rows, RATE)
    assert found.index == pytest.approx(by_hand, rel=1e-3)
    assert found.limit == 0.1
    assert found.shifted


def test_samples_of_one_population_are_rarely_called_shifted() -> None:
    rng = np.random.default_rng(4)
    called = []
    for _ in range(300):
        planned = spread_of(rng.beta(8, 1, 300), np.ones(300), 300.0)
        called.append(
            population_stability(planned, rows_of(np.zeros(200), rng.beta(8, 1, 200)), RATE).shifted
        )
    assert np.mean(called) <= RATE + 3.0 * np.sqrt(RATE * (1.0 - RATE) / len(called))


def test_a_population_that_moved_is_called_shifted() -> None:
    rng = np.random.default_rng(5)
    planned = spread_of(rng.beta(8, 1, 2000), np.ones(2000), 2000.0)
    assert population_stability(planned, rows_of(np.zeros(500), rng.beta(3, 1, 500)), RATE).shifted


def test_weights_undo_uneven_sampling() -> None:
    rng = np.random.default_rng(6)
    confidence = rng.random(20_000)
    planned = spread_of(confidence, np.ones(20_000), 20_000.0)
    probability = np.where(confidence < 0.3, 0.1, 1.0)
    kept = rng.random(20_000) < probability
    rows = rows_of(np.zeros(kept.sum()), confidence[kept], probability[kept])
    assert not population_stability(planned, rows, RATE).shifted
    assert population_stability(planned, rows_of(np.zeros(kept.sum()), confidence[kept]), RATE).shifted


def test_bins_hold_equal_shares() -> None:
    found = spread_of(np.linspace(0.0, 1.0, 1001), np.ones(1001), 1001.0)
    assert len(found.edges) == 9
    assert found.shares == pytest.approx(np.full(10, 0.1), abs=0.002)


def test_one_constant_confidence_is_one_place() -> None:
    planned = spread_of(np.full(50, 0.7), np.ones(50), 50.0)
    found = population_stability(planned, rows_of(np.zeros(80), np.full(80, 0.7)), RATE)
    assert found.index < 0.01
    assert not found.shifted
