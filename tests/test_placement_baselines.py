"""Baselines against known answers, their rules, and the solver, which is never worse."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascade_tools.errors import Infeasible
from cascade_tools.planning.placement.baselines.baselines import baselines
from cascade_tools.planning.placement.baselines.full_lp import full_lp
from cascade_tools.planning.placement.problem import Device, Goal, Problem, Solution, TierLoad
from cascade_tools.planning.placement.solve import solve
from cascade_tools.planning.placement.verify import verify
from tests.placements import random_problem, vit, whole

FLOORS = ("full_lp", "greedy", "dedicated")


def rates(problem: Problem) -> dict[str, float]:
    return {name: found.rate_rps for name, found in baselines(problem).items() if found is not None}


def check(problem: Problem, found: dict[str, Solution | None]) -> None:
    assert list(found) == ["giant_only", "full_lp", "greedy", "dedicated"]
    for name in FLOORS:
        solution = found[name]
        assert solution is None or verify(problem, solution) == []
        assert solution is None or solution.method == name


def test_published_vision_transformers():
    found = rates(vit(8))
    assert found["full_lp"] == pytest.approx(7620.18, abs=0.01)
    assert found["greedy"] == pytest.approx(7620.18, abs=0.01)  # everything fits: nothing is pruned
    assert found["giant_only"] == pytest.approx(8 * 4000.0 / 12.5 / 0.906)
    assert found["giant_only"] < found["dedicated"] < found["full_lp"]


def test_the_strict_rule_leaves_no_full_replication():
    """Small ones fill a device to .432, and base does not fit beside them, so it has no home."""
    strict = replace(vit(8), rule="strict")
    found = baselines(strict)
    check(strict, found)
    assert found["full_lp"] is None
    assert found["greedy"] is not None
    assert found["giant_only"] is not None
    assert found["giant_only"].rate_rps == pytest.approx(8 * 4000.0 / 12.5)


def test_pruning_frees_the_memory_that_costs_least():
    """Either model fits, not both; the slow one is needed twice as often as the fast one."""
    tiers = (TierLoad("fast", 1.0, (whole(10.0, 1.0, 6),)), TierLoad("slow", 1.0, (whole(20.0, 1.0, 6),)))
    problem = Problem(tiers, tuple(Device("gpu", 10) for _ in range(3)))
    found = baselines(problem)
    check(problem, found)
    greedy = found["greedy"]
    assert greedy is not None
    assert greedy.count.sum(axis=1).tolist() == [1, 2]
    assert greedy.rate_rps == pytest.approx(100.0)
    assert found["full_lp"] is None  # the slow one fits beside nothing


def test_dedicated_devices_hold_one_unit_each():
    found = baselines(vit(8))["dedicated"]
    assert found is not None
    assert ((found.count > 0).sum(axis=0) == 1).all()


def test_stages_are_dealt_round_the_devices_of_a_host():
    problem = random_problem(8, 2, 4, split=True, per_host=2)
    room = problem.tiers[1].variants[1].memory_mib + problem.tiers[0].variants[0].memory_mib
    tight = replace(problem, devices=tuple(replace(d, memory_mib=room) for d in problem.devices))
    found = baselines(tight)
    check(tight, found)
    assert found["full_lp"] is not None
    assert full_lp(tight).tolist() == [[1, 1, 1, 1], [0, 0, 0, 0], [1, 0, 1, 0], [0, 1, 0, 1]]


def test_given_limits_hold_for_baselines():
    problem = vit(2)
    none = replace(problem, tiers=(replace(problem.tiers[0], instances=0), *problem.tiers[1:]))
    found = baselines(none)
    check(none, found)
    assert [name for name in FLOORS if found[name] is not None] == []
    once = replace(problem, tiers=tuple(replace(tier, instances=1) for tier in problem.tiers))
    check(once, baselines(once))


@pytest.mark.parametrize("reach", [0.0, 1e-12, 1e-9, 1e-6])
@pytest.mark.parametrize("closure", ["pool", "host"])
def test_a_tier_that_hardly_anybody_asks_keeps_a_home(reach, closure):
    problem = replace(vit(4), closure=closure, devices=tuple(Device("gpu", 24_000, g // 2) for g in range(4)))
    rare = replace(problem, tiers=(*problem.tiers[:-1], replace(problem.tiers[-1], reach=reach)))
    found = baselines(rare)
    check(rare, found)
    assert found["full_lp"] is not None
    assert verify(rare, solve(rare, time_limit_s=2.0)) == []


def test_at_a_rate_fewer_devices_do():
    problem = replace(vit(8), goal=Goal(3000.0, "gpus"))
    found = baselines(problem)
    check(problem, found)
    assert found["giant_only"] is None
    assert found["full_lp"] is not None
    assert found["full_lp"].value == 4.0  # 7620 / 8 are 953 rows/s each
    beyond = baselines(replace(problem, goal=Goal(8000.0, "gpus")))
    assert beyond == dict.fromkeys(beyond)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10_000),
    tiers=st.integers(2, 3),
    devices=st.integers(2, 6),
    split=st.booleans(),
    closure=st.sampled_from(["pool", "host"]),
    goal=st.sampled_from([None, "gpus", "energy"]),
)
def test_never_worse_than_any_baseline(seed, tiers, devices, split, closure, goal):
    problem = replace(random_problem(seed, tiers, devices, split, per_host=2), closure=closure)
    if goal is not None:
        problem = replace(problem, goal=Goal(50.0, goal))
    found = baselines(problem)
    check(problem, found)
    floors = [found[name].value for name in FLOORS if found[name] is not None]  # type: ignore[union-attr]
    try:
        solution = solve(problem, time_limit_s=2.0)
    except Infeasible:
        assert floors == []
        return
    assert verify(problem, solution) == []
    if goal is None:
        assert solution.value >= max(floors, default=0.0) * (1.0 - 1e-9)
    else:
        assert solution.value <= min(floors, default=np.inf) * (1.0 + 1e-9)
