"""Every kind of tampering with an answer is named."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cascade_tools.planning.placement.balance import balance
from cascade_tools.planning.placement.problem import (
    Device,
    Goal,
    IntArray,
    Problem,
    Solution,
    TierLoad,
    Variant,
)
from cascade_tools.planning.placement.verify import verify

PAIR = {"gpu": 0.002}


def problem(**changes: object) -> Problem:
    """Two hosts of two devices; a small model, and a large one whole or in two stages."""
    small = Variant(1, 1, {"gpu": 0.001, "cpu": 0.1}, {"gpu": 0.4, "cpu": 1.0}, 100, 30, {"gpu": 1.0})
    large = Variant(1, 1, {"gpu": 0.004}, {"gpu": 0.6}, 500, 500, {"gpu": 5.0})
    half = Variant(2, 1, PAIR, {"gpu": 0.6}, 270, 270, {"gpu": 3.0})
    tiers = (TierLoad("small", 1.0, (small,)), TierLoad("large", 0.4, (large, half)))
    devices = tuple(Device("gpu", 600, host, 50.0) for host in (0, 0, 1, 1))
    return replace(Problem(tiers, devices, "strict"), **changes)  # type: ignore[arg-type]


COUNT = np.array([[1, 1, 1, 1], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])


def answer(asked: Problem, count: IntArray = COUNT) -> Solution:
    rate, busy = balance(asked, count)
    return Solution(count, busy, rate, rate, rate * 1.01, "optimal", "direct")


def test_a_right_answer_has_no_faults():
    assert verify(problem(), answer(problem())) == []


def one_more(unit: int, device: int) -> IntArray:
    count = COUNT.copy()
    count[unit, device] += 1
    return count


@pytest.mark.parametrize(
    ("asked", "count", "named"),
    [
        (problem(rule="loose"), one_more(1, 1), "device 1: 1100 MiB placed on 600 MiB"),
        (
            problem(),
            one_more(0, 0) + one_more(0, 0) - COUNT,
            "device 0: kernel utilization of its instances 1.2",
        ),
        (problem(), np.array([[1, 1, 1, 1], [0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]]), "tier large: has no"),
        (problem(), np.array([[0, 0, 0, 0], *COUNT[1:]]), "tier small: has no complete chain"),
        (
            problem(),
            np.array([COUNT[0], COUNT[1], COUNT[2], COUNT[2]]),
            "device 3: 1.000000 busy instances of large",
        ),
    ],
)
def test_instances_that_break_a_rule_are_named(asked, count, named):
    solution = answer(problem(rule="loose"))
    found = verify(asked, replace(solution, count=count))
    assert any(named in text for text in found), found


def test_shared_weights_count_once():
    twice = one_more(0, 2)
    roomy = problem(rule="loose", devices=tuple(Device("gpu", 400, d.host) for d in problem().devices))
    sparse = twice * np.array([[1], [0], [1], [1]])
    solution = answer(roomy, sparse)
    assert verify(roomy, solution) == []  # 100 + 30 + 270 MiB are 400
    tight = replace(roomy, devices=tuple(Device("gpu", 399, d.host) for d in roomy.devices))
    assert any("400 MiB placed on 399" in text for text in verify(tight, solution))


def test_given_limits_and_types_that_cannot_run_are_named():
    one = problem()
    limited = replace(one, tiers=(replace(one.tiers[0], instances=0), one.tiers[1]))
    assert any("at most 0 are allowed" in text for text in verify(limited, answer(one)))
    other = replace(one, devices=(*one.devices[:1], Device("cpu", 600, 0), *one.devices[2:]))
    assert any("device 1: type cpu cannot run large" in text for text in verify(other, answer(one)))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"rate_rps": 1.001}, "serves"),
        ({"value": 1.001}, "the value is said to be"),
        ({"bound": 0.9}, "beats the bound"),
    ],
)
def test_false_figures_are_named(change, named):
    solution = answer(problem())
    false = replace(solution, **{name: getattr(solution, name) * by for name, by in change.items()})
    found = verify(problem(), false)
    assert any(named in text for text in found), found


def test_a_whole_load_scaled_down_is_less_than_the_placement_sustains():
    solution = answer(problem())
    less = replace(solution, busy=0.9 * solution.busy, rate_rps=0.9 * solution.rate_rps)
    assert any(text.startswith("only ") for text in verify(problem(), less))


def test_a_whole_load_scaled_up_is_more_than_there_is():
    solution = answer(problem(rule="loose"))
    more = replace(solution, busy=1.5 * solution.busy, rate_rps=1.5 * solution.rate_rps)
    found = verify(problem(rule="loose"), more)
    assert any("busy share" in text or "busy instances" in text for text in found), found


def test_stages_that_disagree_are_named():
    solution = answer(problem())
    busy = solution.busy.copy()
    assert busy[2, 2] > 0.01
    busy[2, 2] -= 0.01
    found = verify(problem(), replace(solution, busy=busy))
    assert any("its stages in host 1 serve" in text for text in found), found


def test_the_closure_host_wants_every_tier_in_each_host_in_use():
    asked = problem(closure="host")
    assert verify(asked, answer(asked)) == []
    only_small = np.array([[1, 1, 1, 1], [0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    found = verify(asked, answer(asked, only_small))
    assert any("tier large: host 1 is in use and does not hold it" in text for text in found), found


def test_the_closure_host_wants_rows_to_stay_in_their_host():
    asked = problem(closure="host")
    solution = answer(asked)
    busy = solution.busy.copy()
    busy[0, 0], busy[0, 2] = busy[0, 0] - 0.05, busy[0, 2] + 0.05
    moved = replace(solution, busy=busy)
    assert verify(problem(), replace(moved, rate_rps=solution.rate_rps)) == []
    found = verify(asked, moved)
    assert any("its tiers serve different shares" in text for text in found), found


@pytest.mark.parametrize("minimise", ["gpus", "energy"])
def test_goals_are_counted_again(minimise):
    base = answer(problem())
    rate = 0.5 * base.rate_rps
    asked = problem(goal=Goal(rate, minimise))
    busy = 0.5 * base.busy
    seconds = np.array([[0.001], [0.004], [0.002], [0.002]])
    joule = np.array([[1.0], [5.0], [3.0], [3.0]])
    value = 4.0 if minimise == "gpus" else 4 * 50.0 + float((busy / seconds * joule).sum())
    right = Solution(COUNT, busy, rate, value, value * 0.9, "time limit", "direct")
    assert verify(asked, right) == []
    assert any("the value is said" in text for text in verify(asked, replace(right, value=value - 1.0)))
    assert any("beats the bound" in text for text in verify(asked, replace(right, bound=value * 1.1)))
    late = replace(right, busy=0.4 * base.busy, rate_rps=0.4 * base.rate_rps)
    assert any("the goal" in text for text in verify(asked, late))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"count": COUNT[:3]}, "are not (4, 4)"),
        ({"count": -COUNT}, "not whole numbers"),
        ({"count": COUNT + 0.5}, "not whole numbers"),
        ({"busy": np.full((4, 4), np.nan)}, "not finite"),
        ({"rate_rps": 0.0}, "is no answer"),
        ({"rate_rps": float("nan")}, "is no answer"),
    ],
)
def test_what_is_no_answer_at_all_is_said(change, named):
    found = verify(problem(), replace(answer(problem()), **change))
    assert any(named in text for text in found), found
