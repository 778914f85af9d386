"""What the plan says of a lost device: who takes the rows, and how many."""

from __future__ import annotations

import numpy as np
import pytest

from cascade_tools.planning.placement.balance import balance
from cascade_tools.planning.placement.problem import Device, Problem, Solution, TierLoad, Variant
from cascade_tools.stages.lost import passed_on, what_is_left


@pytest.mark.parametrize(
    ("gone", "left"),
    [
        ((), (1.0, 0.4, 0.1)),
        ((0,), (0.0, 1.0, 0.25)),  # all rows enter one tier later, which passes on a quarter as before
        ((1,), (1.0, 0.0, 0.4)),
        ((2,), (1.0, 0.4, 0.0)),  # the second tier's answer is taken
        ((0, 1), (0.0, 0.0, 1.0)),
        ((0, 2), (0.0, 1.0, 0.0)),
        ((0, 1, 2), None),
    ],
)
def test_rows_of_a_lost_tier_go_to_the_next_larger_one(
    gone: tuple[int, ...], left: tuple[float, ...] | None
) -> None:
    assert passed_on((1.0, 0.4, 0.1), gone, skips=False) == left


def test_rows_that_passed_over_a_lost_tier_are_others() -> None:
    # .25 of all rows reach the last straight from the first, .05 from the second; now it sees all .2 of that.
    assert passed_on((1.0, 0.2, 0.3), (1,), skips=True) == pytest.approx((1.0, 0.0, 0.5))
    assert passed_on((1.0, 0.4, 0.1), (0,), skips=True) == pytest.approx((0.0, 1.0, 0.25))
    assert passed_on((1.0, 0.4, 0.3, 0.2), (1, 2), skips=True) == pytest.approx((1.0, 0.0, 0.0, 0.9))
    assert passed_on((1.0, 0.4, 0.1), (1, 2), skips=True) == pytest.approx((1.0, 0.0, 0.0))


def test_a_tier_passes_on_as_large_a_share_as_before() -> None:
    assert passed_on((1.0, 0.5, 0.4, 0.2), (1,), skips=False) == pytest.approx((1.0, 0.0, 0.5, 0.25))
    # More than all rows nobody sees; what a lost tier would have seen then is passed on, too.
    assert passed_on((1.0, 0.2, 0.3), (0,), skips=True) == pytest.approx((0.0, 1.0, 1.0))
    assert passed_on((1.0, 0.4, 0.2, 0.1), (0, 2), skips=False) == pytest.approx((0.0, 1.0, 0.0, 0.5))


def test_a_tier_that_only_stands_in_passes_nothing_on() -> None:
    assert passed_on((1.0, 0.0, 0.1), (0,), skips=True) == pytest.approx((0.0, 1.0, 0.1))


def variant(ms: float) -> Variant:
    return Variant(1, 1, {"g": ms / 1000.0}, {"g": 1.0}, memory_mib=10, further_mib=10)


def test_what_is_left_names_every_device_and_host() -> None:
    tiers = (TierLoad("small", 1.0, (variant(1.0),)), TierLoad("large", 0.5, (variant(4.0),)))
    # Two hosts of two: small on each first device, large on three of the four.
    problem = Problem(tiers, tuple(Device("g", 100, host) for host in (0, 0, 1, 1)))
    count = np.array([[1, 0, 0, 0], [0, 1, 1, 1]])
    rate, busy = balance(problem, count)
    assert rate == pytest.approx(1000.0)
    found = what_is_left(problem, Solution(count, busy, rate, rate, rate, "optimal", "direct"))
    by = {(lost.what, number): lost for lost in found for number in lost.which}
    assert set(by) == {*(("device", n) for n in range(4)), ("host", 0), ("host", 1)}
    # Without the only home of `small` all rows go to `large`: three instances of 250 rows/s.
    without_small = by["device", 0]
    assert without_small.homeless == ("small",)
    assert without_small.reach == {"small": 0.0, "large": 1.0}
    assert without_small.rate_rps == pytest.approx(750.0)
    assert without_small.busy_share == pytest.approx((0.0, 1.0, 1.0, 1.0))
    # Two of the three homes of `large` are left: 500 rows/s, half of all rows.
    for device in (1, 2, 3):
        lost = by["device", device]
        assert lost.homeless == ()
        assert lost.reach == {"small": 1.0, "large": 0.5}
        assert lost.rate_rps == pytest.approx(1000.0)
        assert lost.busiest_share == pytest.approx(1.0)
    assert by["host", 0].rate_rps == pytest.approx(500.0)
    assert by["host", 0].homeless == ("small",)
    assert by["host", 1].rate_rps == pytest.approx(500.0)
    assert by["host", 1].homeless == ()


def test_other_routes_serve_only_where_they_are_needed_and_do() -> None:
    tiers = (TierLoad("small", 1.0, (variant(1.0),)), TierLoad("mid", 0.0, (variant(1.0),)))
    problem = Problem((*tiers, TierLoad("large", 0.5, (variant(4.0),))), tuple([Device("g", 100)] * 3))
    count = np.eye(3, dtype=np.int64)
    rate, busy = balance(problem, count)
    solution = Solution(count, busy, rate, rate, rate, "optimal", "direct")

    def routes(gone: tuple[int, ...]) -> tuple[float, ...] | None:
        return None if gone == (2,) else (0.0, 0.0, 1.0)

    small, mid, large, _ = what_is_left(problem, solution, without=routes)
    assert (small.by_routes, small.reach["large"]) == (True, 1.0)
    # No row asks for `mid`: the present policy goes on. Without `large` there is no other here.
    assert (mid.homeless, mid.by_routes) == (("mid",), False)
    assert mid.rate_rps == pytest.approx(rate)
    assert (large.rate_rps, large.by_routes) == (None, False)


def test_a_loss_after_which_rows_reach_nothing_is_not_that_of_the_router() -> None:
    tiers = (TierLoad("small", 0.0, (variant(1.0),)), TierLoad("giant", 1.0, (variant(1.0),)))
    problem = Problem(tiers, (Device("g", 100), Device("g", 100)))
    count = np.eye(2, dtype=np.int64)
    rate, busy = balance(problem, count)
    _, giant, _ = what_is_left(problem, Solution(count, busy, rate, rate, rate, "optimal", "direct"))
    assert (giant.homeless, giant.rate_rps, giant.router_gone) == (("giant",), None, False)


def test_what_asks_the_tiers_is_none_of_them() -> None:
    tiers = (
        TierLoad("(asking)", 1.0, (variant(0.1),), overhead=True),
        TierLoad("only", 1.0, (variant(1.0),)),
    )
    problem = Problem(tiers, (Device("g", 100),))
    count = np.array([[1], [1]])
    rate, busy = balance(problem, count)
    found = what_is_left(problem, Solution(count, busy, rate, rate, rate, "optimal", "direct"))
    assert [(lost.what, lost.homeless, lost.rate_rps, lost.reach) for lost in found] == [
        ("device", ("only",), None, {})
    ]
    assert [lost.router_gone for lost in found] == [True]
