"""Arrivals: what generators draw, scaling to a peak, cutting a window."""

from __future__ import annotations

import numpy as np
import pytest

from cascade_tools.planning.traces.counts import Counts
from cascade_tools.planning.traces.generators import KINDS, diurnal, gamma, generate, on_off, poisson, spike
from cascade_tools.planning.traces.prepare import MOST_ARRIVALS, BadShape, arrivals_of
from cascade_tools.planning.traces.shape import counts_per_window, cut, peak_rps, scale_to_peak


def rate_in(arrival, from_s: float, to_s: float) -> float:
    return float(((arrival >= from_s) & (arrival < to_s)).sum()) / (to_s - from_s)


@pytest.mark.parametrize("kind", KINDS)
def test_arrivals_are_in_order_within_their_time_and_of_their_seed(kind: str) -> None:
    arrival = generate(kind, 200.0, 20.0, seed=5)
    assert (np.diff(arrival) >= 0).all()
    assert arrival[0] >= 0
    assert arrival[-1] < 20
    np.testing.assert_array_equal(arrival, generate(kind, 200.0, 20.0, seed=5))
    assert not np.array_equal(arrival[:10], generate(kind, 200.0, 20.0, seed=6)[:10])


@pytest.mark.parametrize("cv", [0.3, 1.0, 4.0])
def test_gaps_of_gamma_vary_as_said(cv: float) -> None:
    gaps = np.diff(gamma(500.0, cv, 400.0, seed=1))
    assert 1.0 / gaps.mean() == pytest.approx(500.0, rel=0.05)
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.05)


def test_gaps_of_poisson_are_exponential() -> None:
    gaps = np.diff(poisson(500.0, 200.0, seed=1))
    assert 1.0 / gaps.mean() == pytest.approx(500.0, rel=0.02)
    assert gaps.std() / gaps.mean() == pytest.approx(1.0, rel=0.02)


def test_on_off_has_two_rates_and_lengths() -> None:
    arrival = on_off(1000.0, 0.0, 2.0, 6.0, 2000.0, seed=2)
    tenths = counts_per_window(arrival, 0.1)
    busy = tenths > 50
    assert busy.mean() == pytest.approx(0.25, abs=0.04)
    assert tenths[busy].mean() == pytest.approx(100.0, rel=0.05)
    assert counts_per_window(arrival, 0.1)[0] > 50  # it begins with load


def test_diurnal_goes_up_and_down_once_in_a_period() -> None:
    arrival = diurnal(400.0, 40.0, 100.0, 200.0, seed=3)
    for begin_s in (0.0, 100.0):
        assert rate_in(arrival, begin_s + 45, begin_s + 55) == pytest.approx(400.0, rel=0.1)
        assert rate_in(arrival, begin_s, begin_s + 5) < 60
        assert rate_in(arrival, begin_s, begin_s + 100) == pytest.approx(220.0, rel=0.05)


def test_a_spike_begins_and_ends() -> None:
    arrival = spike(900.0, 90.0, 10.0, 5.0, 30.0, seed=4)
    assert rate_in(arrival, 10, 15) == pytest.approx(900.0, rel=0.1)
    assert rate_in(arrival, 0, 10) == pytest.approx(90.0, rel=0.2)
    assert rate_in(arrival, 15, 30) == pytest.approx(90.0, rel=0.2)


@pytest.mark.parametrize("peak", [10.0, 60.0, 500.0])
def test_scaling_makes_the_peak_and_keeps_the_course(peak: float) -> None:
    arrival = diurnal(200.0, 20.0, 60.0, 60.0, seed=1)
    scaled = scale_to_peak(arrival, peak, seed=2)
    assert peak_rps(scaled) == peak
    assert (np.diff(scaled) >= 0).all()
    before, after = counts_per_window(arrival), counts_per_window(scaled)
    factor = peak / before.max()
    assert np.abs(after[: len(before)] - before * factor).max() < 1  # each is rounded, none is shifted
    assert len(scaled) == pytest.approx(len(arrival) * factor, rel=0.1)
    np.testing.assert_array_equal(scaled, scale_to_peak(arrival, peak, seed=2))


def test_scaled_bursts_stay_bursts() -> None:
    """All requests of a second come within a hundredth of it, however many there are."""
    arrival = np.concatenate([second + np.linspace(0.5, 0.505, 20) for second in range(5)])
    thinner = scale_to_peak(arrival, 8.0, seed=0)
    assert set(thinner) <= set(arrival)
    thicker = scale_to_peak(arrival, 60.0, seed=0)
    assert set(arrival) <= set(thicker)
    inside = thicker % 1.0
    assert ((inside >= 0.5) & (inside <= 0.51)).mean() > 0.9


def test_the_peak_may_be_counted_over_another_window() -> None:
    arrival = gamma(300.0, 3.0, 20.0, seed=1)
    scaled = scale_to_peak(arrival, 100.0, seed=1, window_s=5.0)
    assert peak_rps(scaled, 5.0) == 100.0
    assert peak_rps(scaled) > 100.0


def test_a_window_is_counted_from_its_beginning() -> None:
    arrival = np.array([0.5, 1.0, 1.5, 2.0, 9.0])
    assert cut(arrival, 1.0, 2.0).tolist() == [0.0, 0.5]
    assert arrivals_of(arrival, (1.5, np.inf)).tolist() == [0.0, 0.5, 7.5]


def test_a_window_of_counts_may_begin_inside_one_of_theirs() -> None:
    counts = Counts(60.0, np.array([100, 6000, 100]))
    arrival = arrivals_of(counts, (90.0, 130.0), seed=1)
    assert rate_in(arrival, 0.0, 30.0) == pytest.approx(100.0, rel=0.1)
    assert rate_in(arrival, 30.0, 40.0) < 5
    assert arrival[-1] < 40


def test_huge_counts_are_scaled_before_they_are_spread() -> None:
    counts = Counts(60.0, np.array([10**9, 5 * 10**8]))
    arrival = arrivals_of(counts, peak=50.0, seed=1)
    assert peak_rps(arrival) == 50.0
    assert rate_in(arrival, 60.0, 120.0) == pytest.approx(0.5 * rate_in(arrival, 0.0, 60.0), rel=0.1)
    with pytest.raises(BadShape, match=f"more than {MOST_ARRIVALS}"):
        arrivals_of(counts)


def test_counts_are_rounded_so_that_the_mean_is_kept() -> None:
    scaled = Counts(1.0, np.full(20_000, 3)).scaled(0.1, seed=1)
    assert scaled.count.max() == 1
    assert scaled.count.mean() == pytest.approx(0.3, rel=0.05)


def test_a_peak_is_not_looked_for_in_too_many_windows() -> None:
    with pytest.raises(BadShape, match=r"windows of 0\.01 s"):
        arrivals_of(np.array([0.0, 1e6]), peak=5.0, peak_window_s=0.01)


def test_an_empty_window_is_no_trace() -> None:
    with pytest.raises(BadShape, match="nothing arrives between second 20 and second 30"):
        arrivals_of(np.array([1.0, 2.0]), (20.0, 30.0))
    with pytest.raises(BadShape, match="nothing arrives"):
        arrivals_of(Counts(60.0, np.array([5, 5])), (600.0, 660.0))
