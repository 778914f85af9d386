"""What `bench-gears` sends, and how it judges what came back."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.bursts import bursty
from benchmarks.gears_picture import draw
from benchmarks.gears_verdict import ACCURATE, CHEAPEST, GEARS, Paired, claims, kept, paired, row_of
from cascade_tools.planning.outcomes import Outcomes
from tests.helpers import replayed


def outcomes(latency_ms: list[list[float]], correct: list[bool] | None = None) -> Outcomes:
    """Requests by the second that they came in; NaN got no answer."""
    second = np.repeat(np.arange(len(latency_ms)), [len(one) for one in latency_ms])
    latency = np.array([value for one in latency_ms for value in one])
    answered = ~np.isnan(latency)
    right = np.ones(len(latency), bool) if correct is None else np.array(correct)
    return Outcomes(
        arrival_s=second.astype(np.float64),
        latency_ms=latency,
        tier=np.where(answered, 0, -1),
        correct=right & answered,
        gear=np.where(answered, 1, -1),
    )


@pytest.mark.parametrize("rise_s", [0.0, 2.0])
def test_the_fullest_second_has_the_peak_and_bursts_are_not_all_of_it(rise_s: float) -> None:
    arrival_s = bursty(600.0, 100.0, rise_s, 60.0, 3)
    count = np.bincount(arrival_s.astype(np.int64), minlength=60)
    assert count.max() == 600
    assert len(count) == 60
    assert (np.diff(arrival_s) >= 0.0).all()
    assert 0.2 < np.mean(count < 200) < 0.9
    np.testing.assert_array_equal(arrival_s, bursty(600.0, 100.0, rise_s, 60.0, 3))


def test_a_burst_that_rises_takes_its_time() -> None:
    slow, steep = (np.bincount(bursty(600.0, 50.0, s, 30.0, 1).astype(int)) for s in (2.0, 0.0))
    assert np.diff(slow).max() < np.diff(steep).max()


def test_a_second_is_kept_if_95_percent_were_in_time() -> None:
    assert kept(outcomes([[1.0] * 96 + [99.0] * 4, [1.0] * 94 + [99.0] * 6]), 10.0) == 0.5
    unanswered = outcomes([[1.0] * 9 + [float("nan")], [], [1.0] * 4])
    assert kept(unanswered, 10.0) == 0.5, "what got no answer is late, and empty seconds do not count"


def test_only_rows_that_differ_tell_two_runs_apart() -> None:
    latency = [[1.0] * 40]
    better = outcomes(latency, [True] * 30 + [False] * 10)
    worse = outcomes(latency, [True] * 20 + [False] * 20)
    assert paired(better, worse).p_value == pytest.approx(0.5**10)
    assert paired(better, worse).better
    assert paired(better, better).p_value == 1.0
    assert paired(worse, better).p_value > 0.99


def test_accuracies_are_of_the_requests_that_both_answered() -> None:
    hard_unanswered = outcomes([[1.0] * 30 + [float("nan")] * 10], [True] * 28 + [False] * 12)
    all_answered = outcomes([[1.0] * 40], [True] * 28 + [False] * 12)
    assert hard_unanswered.accuracy() > all_answered.accuracy()
    found = paired(hard_unanswered, all_answered)
    assert (found.answered, found.accuracy, found.other_accuracy) == (30, 28 / 30, 28 / 30)
    assert not found.better


def row(name: str, latency_ms: float, late_ms: float = 0.0) -> dict[str, object]:
    """A run of ten seconds in which everything took so long, sent so late."""
    found = outcomes([[latency_ms] * 5] * 10)
    return row_of(name, replayed(found, late_ms), 10.0, ("only",), 1.0)


def claimed(accurate: dict[str, object], accuracy: Paired) -> tuple[bool, ...]:
    return tuple(claims([row(GEARS, 1.0), accurate, row(CHEAPEST, 1.0)], accuracy).values())


def test_claims_hold_by_the_server_alone_and_not_by_chance() -> None:
    sure, chance = Paired(50, 0.9, 0.8, 0.001), Paired(50, 0.82, 0.8, 0.3)
    assert claimed(row(ACCURATE, 99.0), sure) == (True, True, True, True)
    assert claimed(row(ACCURATE, 99.0), chance) == (True, True, False, True), "one row more is no claim"
    assert claimed(row(ACCURATE, 99.0, late_ms=95.0), sure)[1] is False, "only the generator was slow"
    assert claimed(row(ACCURATE, 199.0, late_ms=95.0), sure)[1] is True


def test_the_picture_holds_every_run() -> None:
    runs = dict.fromkeys(
        ("gears", "most accurate", "cheapest"), outcomes([[1.0, 2.0], [], [3.0, float("nan")]])
    )
    picture = draw(runs, 40.0, 100.0)
    assert picture.startswith("<svg")
    assert all(name in picture for name in runs)
