"""What is left without a device or a host, against balancing what is left directly."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cascade_tools.planning.placement.balance import balance
from cascade_tools.planning.placement.baselines.blocks import complete
from cascade_tools.planning.placement.losses import losses
from cascade_tools.planning.placement.problem import (
    Device,
    Goal,
    IntArray,
    Problem,
    Solution,
    TierLoad,
    Variant,
)
from tests.placements import random_problem, vit, whole


def answer(problem: Problem, count: IntArray) -> Solution:
    rate, busy = balance(problem, count)
    return Solution(count, busy, rate, rate, rate, "optimal", "direct")


@pytest.mark.parametrize("closure", ["pool", "host"])
@pytest.mark.parametrize("seed", range(3))
def test_every_loss_is_what_balancing_the_rest_gives(seed, closure):
    problem = replace(random_problem(seed, 3, 6, split=True, per_host=2), closure=closure)
    count = np.random.default_rng(seed).integers(0, 2, (len(problem.units), 6))
    count[:, :2] = 1
    count = complete(problem, count, [device.host for device in problem.devices])
    solution = answer(problem, count)
    found = losses(problem, solution)
    assert sorted(g for left in found if left.what == "device" for g in left.which) == list(range(6))
    assert sorted(h for left in found if left.what == "host" for h in left.which) == [0, 1, 2]
    for left in found:
        for number in left.which:
            lost = [number] if left.what == "device" else [2 * number, 2 * number + 1]
            rest = count.copy()
            rest[:, lost] = 0
            assert left.rate_rps == pytest.approx(balance(problem, rest)[0], rel=1e-7, abs=1e-9)
            assert left.serves == (not left.gone)
        busy = left.busy()
        first = [left.which[0]] if left.what == "device" else [2 * left.which[0], 2 * left.which[0] + 1]
        assert not busy[:, first].any()
        assert (busy <= count + 1e-9).all()


def test_the_last_home_of_a_tier():
    """Device 0 holds the only large model: a policy that does without it may serve the rest."""
    tiers = (TierLoad("small", 1.0, (whole(10.0, 1.0, 1),)), TierLoad("large", 0.5, (whole(20.0, 1.0, 1),)))
    problem = Problem(tiers, (Device("gpu", 9), Device("gpu", 9, 1), Device("gpu", 9, 1)))
    solution = answer(problem, np.array([[0, 1, 1], [1, 0, 0]]))
    large, small = (left for left in losses(problem, solution) if left.what == "device")
    assert (large.which, large.gone, large.tiers, large.reach) == ((0,), (1,), (0,), None)
    assert not large.serves
    assert (small.which, small.gone) == ((1, 2), ())
    assert small.rate_rps == pytest.approx(100.0)

    asked = []

    def without(gone: tuple[int, ...]) -> tuple[float, ...] | None:
        asked.append(gone)
        return (1.0, 0.0) if gone == (1,) else None

    found = losses(problem, solution, without)
    assert found[0].serves
    assert found[0].reach == (1.0, 0.0)
    assert found[0].rate_rps == pytest.approx(200.0)
    assert found[0].load_rps == pytest.approx(solution.rate_rps)
    both = next(left for left in found if left.what == "host" and left.which == (1,))
    assert (both.gone, both.serves) == ((0,), False)
    assert set(asked) == {(0,), (1,)}


def test_a_chain_goes_with_any_of_its_stages():
    half = Variant(2, 1, {"gpu": 0.01}, {"gpu": 1.0}, 1, 1)
    problem = Problem((TierLoad("cut", 1.0, (half,)),), tuple(Device("gpu", 9, g // 2) for g in range(4)))
    solution = answer(problem, np.array([[1, 0, 1, 0], [0, 1, 0, 1]]))
    assert solution.rate_rps == pytest.approx(200.0)
    assert [left.rate_rps for left in losses(problem, solution)] == pytest.approx([100.0] * 3)


def test_a_goal_that_is_still_met_is_the_load():
    problem = replace(vit(8), goal=Goal(4000.0, "gpus"))
    count = np.ones((4, 8), np.int64)
    _, busy = balance(problem, count)
    solution = Solution(count, busy, 4000.0, 8.0, 1.0, "optimal", "direct")
    one, everything = losses(problem, solution)
    assert one.which == tuple(range(8))
    assert one.rate_rps == pytest.approx(7 / 8 * 7620.1786)
    assert one.load_rps == 4000.0
    assert one.busiest_share <= 1.0
    assert one.busy()[:, 0].tolist() == [0.0] * 4
    assert (everything.what, everything.which, everything.serves) == ("host", (0,), False)


def test_ten_thousand_devices_are_a_few_cases():
    problem = replace(vit(10_000), devices=tuple(Device("gpu", 24_000, g // 4) for g in range(10_000)))
    found = losses(problem, answer(problem, np.ones((4, 10_000), np.int64)))
    assert [(left.what, len(left.which)) for left in found] == [("device", 10_000), ("host", 2_500)]
    assert found[1].rate_rps == pytest.approx(9996 / 8 * 7620.1786 / 1.0, rel=1e-6)
