"""Rates that leave the plan are noticed, and rates that keep it are rarely said to leave it."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest

from cascade_tools.planning.rate_test import AboveMaximum, Dispersion, OffShares, RatePlan, seen_shares

RATE = 0.05
EDGES = np.array([0.0, 50.0, 100.0, 200.0, 400.0])
SHARE = np.array([0.5, 0.25, 0.2, 0.05])
PLANNED = RatePlan(400.0, EDGES, SHARE)
Counts = npt.NDArray[np.int64]


def rarely(alarms: list[bool]) -> bool:
    return bool(np.mean(alarms) <= RATE + 3.0 * math.sqrt(RATE * (1.0 - RATE) / len(alarms)))


def above(rows: npt.ArrayLike, max_rps: float, seconds: float = 1.0, per_request: float = 1.0) -> int | None:
    """The first window after which the maximum counts as exceeded."""
    bet = AboveMaximum(max_rps)
    for number, count in enumerate(np.asarray(rows, np.float64).tolist()):
        bet.add(count, seconds, per_request)
        if bet.log_wealth >= math.log(1.0 / RATE):
            return number
    return None


def off(rows: npt.ArrayLike, planned: RatePlan = PLANNED, memory_s: float = 1.0) -> int | None:
    bet = OffShares(planned, 1.0, memory_s)
    for number, count in enumerate(np.asarray(rows, np.float64).tolist()):
        bet.add(count, 1.0)
        if bet.log_wealth >= math.log(1.0 / RATE):
            return number
    return None


def drawn(rng: np.random.Generator, windows: int, repeat: int = 1) -> npt.NDArray[np.float64]:
    """Rates of the planned distribution; each holds for `repeat` windows."""
    number = rng.choice(len(SHARE), -(-windows // repeat), p=SHARE)
    rates = rng.uniform(EDGES[number], EDGES[number + 1])
    return np.repeat(rates, repeat)[:windows]


# Above the maximum


def test_at_the_maximum_an_alarm_is_rare_at_any_time() -> None:
    rng = np.random.default_rng(0)
    assert rarely([above(rng.poisson(100.0, 150), 100.0) is not None for _ in range(60)])


def test_bursty_arrivals_at_the_maximum_are_no_alarm_either() -> None:
    """Gamma-distributed gaps with four times the variance of Poisson's."""
    rng = np.random.default_rng(1)

    def counts() -> Counts:
        times = np.cumsum(rng.gamma(0.25, 1.0 / (100.0 * 0.25), 14_000))
        return np.bincount(times.astype(np.int64), minlength=121)[:120]

    assert rarely([above(counts(), 100.0) is not None for _ in range(60)])


def test_requests_of_many_rows_are_no_alarm() -> None:
    rng = np.random.default_rng(2)
    assert rarely([above(32 * rng.poisson(4.0, 100), 128.0, 1.0, 32.0) is not None for _ in range(60)])


@pytest.mark.parametrize(("rate", "within"), [(800.0, 1), (200.0, 3), (130.0, 20)])
def test_a_rate_above_the_maximum_is_noticed(rate: float, within: int) -> None:
    rng = np.random.default_rng(3)
    quiet = rng.poisson(60.0, 100)
    noticed = above(np.concatenate([quiet, rng.poisson(rate, 40)]), 100.0)
    assert noticed is not None
    assert 100 <= noticed < 100 + within


def test_long_windows_tell_smaller_excess() -> None:
    rng = np.random.default_rng(4)
    assert above(rng.poisson(120.0 * 10.0, 20), 100.0, seconds=10.0) is not None


def test_no_traffic_and_endless_traffic_are_numbers() -> None:
    for rows in (0.0, 1e12):
        bet = AboveMaximum(100.0)
        for _ in range(1000):
            bet.add(rows, 1.0)
        assert math.isfinite(math.exp(bet.log_wealth))


def test_dispersion_is_that_of_the_arrivals_not_of_the_rate() -> None:
    rng = np.random.default_rng(5)
    for rows, seconds in ((1, 1.0), (8, 2.0)):
        found = Dispersion()
        for rate_rps in 300.0 + 200.0 * np.sin(np.arange(61) / 10.0):
            found.add(rows * rng.poisson(rate_rps * seconds / rows), seconds)
        assert 0.6 * rows <= found.value() <= 2.2 * rows


# The shares


def test_the_planned_shares_rarely_give_an_alarm() -> None:
    rng = np.random.default_rng(6)
    assert rarely([off(rng.poisson(drawn(rng, 150))) is not None for _ in range(60)])


def test_rates_that_last_are_one_observation_of_the_shares() -> None:
    """Each rate holds for 20 windows: without the memory that is called a change, with it rarely."""
    rng = np.random.default_rng(7)
    traces = [rng.poisson(drawn(rng, 400, repeat=20)) for _ in range(60)]
    assert not rarely([off(rows) is not None for rows in traces])
    assert rarely([off(rows, memory_s=20.0) is not None for rows in traces])


def test_shares_that_were_counted_from_windows_have_their_noise_already() -> None:
    rng = np.random.default_rng(8)
    edges = np.array([80.0, 90.0, 100.0, 110.0, 120.0])
    counted = np.histogram(rng.poisson(100.0, 20_000), edges)[0]
    planned = RatePlan(120.0, edges, counted / counted.sum())
    assert rarely([off(np.clip(rng.poisson(100.0, 300), 81, 120), planned) is not None for _ in range(60)])


def test_other_shares_are_noticed_whether_higher_or_lower() -> None:
    rng = np.random.default_rng(11)
    for rate in (380.0, 150.0, 20.0, 1000.0):
        noticed = off(np.concatenate([rng.poisson(drawn(rng, 100)), rng.poisson(rate, 60)]))
        assert noticed is not None
        assert noticed >= 100


def test_windows_are_seen_in_the_bins_around_their_rate() -> None:
    narrow = RatePlan(110.0, np.array([0.0, 90.0, 100.0, 110.0]), np.array([0.0, 1.0, 0.0]))
    rng = np.random.default_rng(10)
    counts = rng.poisson(rng.uniform(90.0, 100.0, 40_000))
    found = np.bincount(np.searchsorted(narrow.edges_rps[1:], counts, side="left"), minlength=4) / len(counts)
    np.testing.assert_allclose(seen_shares(narrow, 1.0), found, atol=0.01)
