"""Which gear serves which rate, and when a slower one may come back."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascade_tools.runtime.gearbox import GearBox

UP_TO = (100.0, 1000.0, math.inf)
WINDOW_MS = 100.0


def after_rate(box: GearBox, start: float, rows: int, queue: int = 0) -> int:
    """Gear after `rows` arrived within 100 ms from `start`."""
    box.observe(start, rows, queue)
    return box.observe(start + 0.1, 0, queue)


def new_box(alpha: float = 8.0) -> GearBox:
    return GearBox(UP_TO, alpha, WINDOW_MS)


def test_the_first_gear_is_the_most_accurate() -> None:
    assert new_box().observe(0.0, 10_000, 0) == 0


@pytest.mark.parametrize(
    ("rows", "gear"), [(0, 0), (1, 0), (10, 0), (11, 1), (100, 1), (101, 2), (100_000, 2)]
)
def test_the_rate_chooses_the_gear(rows: int, gear: int) -> None:
    # 10 rows in 100 ms are 100 rows/s, which the first gear still serves.
    assert after_rate(new_box(), 0.0, rows) == gear


def test_a_faster_gear_comes_as_soon_as_the_rows_of_the_window_ask_for_it() -> None:
    box = new_box()
    for number in range(11):  # 11 rows in any part of 100 ms are more than 100 rows/s
        assert box.observe(0.001 * number, 1, 0) == 0
    assert box.observe(0.02, 0, 0) == 1
    assert box.observe(0.03, 90, 0) == 1
    assert box.observe(0.031, 0, 0) == 2


def test_a_slower_gear_waits_for_the_end_of_the_window() -> None:
    box = new_box()
    assert after_rate(box, 0.0, 5000) == 2
    assert box.observe(0.199, 0, 0) == 2
    assert box.observe(0.2, 0, 0) == 0


def test_the_rate_counts_the_time_that_really_passed() -> None:
    box = new_box()
    box.observe(0.0, 50, 0)
    # 50 rows in one second, not in 100 ms.
    assert box.observe(1.0, 0, 0) == 0


def test_arrivals_of_the_closing_call_belong_to_the_next_window() -> None:
    box = new_box()
    box.observe(0.0, 1, 0)
    assert box.observe(0.1, 5000, 0) == 0
    assert box.observe(0.2, 0, 0) == 2


def test_a_window_begins_without_the_rows_of_the_last() -> None:
    box = new_box()
    assert after_rate(box, 0.0, 50) == 1
    assert box.observe(0.2, 0, 0) == 0


def test_a_slower_gear_stays_away_while_a_queue_drains() -> None:
    box = new_box(alpha=8.0)
    assert after_rate(box, 0.0, 5000) == 2
    # 50 rows/s asks for the first gear, but 50 < 8 * 7.
    assert after_rate(box, 10.0, 5, queue=7) == 2
    # 50 >= 8 * 6.
    assert after_rate(box, 20.0, 5, queue=6) == 0


def test_a_faster_gear_does_not_wait_for_the_queue() -> None:
    assert after_rate(new_box(), 0.0, 50, queue=100_000) == 1


def test_alpha_zero_has_no_hysteresis() -> None:
    box = new_box(alpha=0.0)
    after_rate(box, 0.0, 5000)
    assert after_rate(box, 10.0, 0, queue=100_000) == 0


steps = st.lists(
    st.tuples(
        st.floats(0.0, 0.5),
        st.integers(0, 500),
        st.one_of(st.just(0), st.integers(0, 300)),
    ),
    min_size=1,
    max_size=40,
)
limits = st.lists(st.floats(0.0, 5000.0), max_size=4, unique=True).map(
    lambda rates: (*sorted(rates), math.inf)
)


@given(limits, st.floats(0.0, 20.0), steps)
def test_every_gear_is_legal_and_a_slower_one_comes_only_after_the_queue(
    up_to: tuple[float, ...], alpha: float, moves: list[tuple[float, int, int]]
) -> None:
    box = GearBox(up_to, alpha, WINDOW_MS)
    now, start, arrived, before = 0.0, None, 0, 0
    for passed, rows, queue in moves:
        now += passed
        gear = box.observe(now, rows, queue)
        assert gear in range(len(up_to))
        start = now if start is None else start
        if now - start >= WINDOW_MS / 1000.0:
            rate = arrived / (now - start)
            if gear < before:
                assert rate >= alpha * queue
            if gear != before:
                assert rate <= up_to[gear]
                assert gear == 0 or rate > up_to[gear - 1]
            start, arrived = now, 0
        else:
            assert gear >= before
            assert gear == before or arrived / (WINDOW_MS / 1000.0) > up_to[gear - 1]
        arrived += rows
        before = gear
