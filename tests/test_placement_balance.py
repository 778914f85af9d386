"""Loads of a given placement against closed forms, ungrouped programs, and the other program in `recount`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cascade_tools.planning.placement.balance import balance, balance_at
from cascade_tools.planning.placement.problem import Device, Problem, TierLoad, Variant
from cascade_tools.planning.placement.programs.groups import grouped
from cascade_tools.planning.placement.recount import highest_rate
from tests.placements import VIT, random_problem, vit, whole


def test_published_vision_transformers_saturate_all_devices():
    problem = vit(8)
    rate, busy = balance(problem, np.ones((4, 8), np.int64))
    closed_form = 8 / sum(reach * ms / 4000.0 * share for _, reach, ms, share, _ in VIT)
    assert rate == pytest.approx(closed_form)
    assert rate == pytest.approx(7620.18, abs=0.01)
    shares = np.array([share for _, _, _, share, _ in VIT])
    assert shares @ busy == pytest.approx(np.ones(8))


def test_one_instance_may_be_the_limit_and_not_the_device():
    problem = Problem((TierLoad("only", 1.0, (whole(10.0, 0.25, 1),)),), (Device("gpu", 9),))
    assert balance(problem, np.array([[1]]))[0] == pytest.approx(100.0)
    assert balance(problem, np.array([[4]]))[0] == pytest.approx(400.0)
    assert balance(problem, np.array([[9]]))[0] == pytest.approx(400.0)


def test_a_chain_does_not_leave_its_host():
    half = Variant(2, 1, {"gpu": 0.01}, {"gpu": 1.0}, 1, 1)
    problem = Problem((TierLoad("cut", 1.0, (half,)),), (Device("gpu", 9, 0), Device("gpu", 9, 1)))
    apart, together = np.array([[1, 0], [0, 1]]), np.array([[1, 1], [1, 1]])
    assert balance(problem, apart)[0] == 0.0
    assert balance(problem, together)[0] == pytest.approx(100.0)
    joined = replace(problem, devices=(Device("gpu", 9, 0), Device("gpu", 9, 0)))
    assert balance(joined, apart)[0] == pytest.approx(100.0)


def test_with_the_closure_host_rows_stay_where_they_came_in():
    tiers = tuple(TierLoad(name, 1.0, (whole(10.0, 1.0, 1),)) for name in ("small", "large"))
    devices = tuple(Device("gpu", 9, host) for host in (0, 0, 1))
    problem = Problem(tiers, devices)
    count = np.array([[1, 1, 0], [0, 1, 1]])
    assert balance(problem, count)[0] == pytest.approx(150.0)
    assert balance(replace(problem, closure="host"), count)[0] == pytest.approx(100.0)


def test_a_tier_without_instances_stops_all_rows_unless_nobody_asks_it():
    tiers = (TierLoad("a", 1.0, (whole(10.0, 1.0, 1),)), TierLoad("b", 0.5, (whole(10.0, 1.0, 1),)))
    problem = Problem(tiers, (Device("gpu", 9),))
    assert balance(problem, np.array([[1], [0]]))[0] == 0.0
    unasked = replace(problem, tiers=(tiers[0], replace(tiers[1], reach=0.0)))
    assert balance(unasked, np.array([[1], [0]]))[0] == pytest.approx(100.0)


@pytest.mark.parametrize("closure", ["pool", "host"])
@pytest.mark.parametrize("seed", range(4))
def test_equal_devices_as_one_change_nothing(seed, closure):
    """Three copies of a small cluster in own hosts do three times as much, and `recount` agrees."""
    one = replace(random_problem(seed, 2, 3, split=True), closure=closure)
    rng = np.random.default_rng(seed)
    count = rng.integers(0, 3, (len(one.units), 3))
    count[0, 0] = count[1, 0] = 1
    devices = tuple(replace(d, host=host) for host in range(3) for d in one.devices)
    three = replace(one, devices=devices)
    rate, busy = balance(three, np.tile(count, 3))
    assert rate == pytest.approx(3.0 * balance(one, count)[0], rel=1e-7)
    assert rate == pytest.approx(highest_rate(three, np.tile(count, 3), 100.0), rel=1e-7)
    assert busy[:, :3] == pytest.approx(busy[:, 6:])
    assert len(grouped(three, np.tile(count, 3)).size) <= 3


def test_a_large_cluster_is_small():
    problem = vit(10_000)
    count = np.ones((4, 10_000), np.int64)
    count[3, 5_000:] = 0
    assert len(grouped(problem, count).size) == 2
    assert balance(problem, count)[0] == pytest.approx(1250 * balance(vit(8), count[:, 4_996:5_004])[0])


def test_least_energy_at_a_rate_uses_the_thriftier_type():
    model = Variant(
        1, 1, {"old": 0.01, "new": 0.01}, {"old": 1.0, "new": 1.0}, 1, 1, {"old": 3.0, "new": 1.0}
    )
    problem = Problem((TierLoad("only", 1.0, (model,)),), (Device("old", 9), Device("new", 9)))
    count = np.ones((1, 2), np.int64)
    assert balance_at(problem, count, 80.0) == pytest.approx(np.array([[0.0, 0.8]]))
    assert balance_at(problem, count, 150.0) == pytest.approx(np.array([[0.5, 1.0]]))
    assert balance_at(problem, count, 201.0) is None


def test_least_busy_time_at_a_rate_where_no_energy_is_known():
    model = Variant(1, 1, {"old": 0.01, "new": 0.005}, {"old": 1.0, "new": 1.0}, 1, 1)
    problem = Problem((TierLoad("only", 1.0, (model,)),), (Device("old", 9), Device("new", 9)))
    assert balance_at(problem, np.ones((1, 2), np.int64), 100.0) == pytest.approx(np.array([[0.0, 0.5]]))
