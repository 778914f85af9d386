"""Problems without an answer: which constraint binds, and what would help."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cascade_tools.errors import Infeasible
from cascade_tools.planning.placement import solve as solving
from cascade_tools.planning.placement.causes.infeasible import explain
from cascade_tools.planning.placement.causes.stage_counts import smallest_stage_count
from cascade_tools.planning.placement.direct import Found, direct
from cascade_tools.planning.placement.problem import Device, Goal, Problem, TierLoad, Variant
from cascade_tools.planning.placement.solve import solve
from cascade_tools.planning.placement.verify import verify
from tests.placements import at_rate, random_problem, vit, whole


def tier(name: str, memory_mib: int, utilization: float = 0.5, stages: int = 1) -> TierLoad:
    stage = replace(whole(1.0, utilization, memory_mib), stages=stages)
    return TierLoad(name, 1.0, (stage,))


def gpus(number: int, memory_mib: int, per_host: int = 8) -> tuple[Device, ...]:
    return tuple(Device("gpu", memory_mib, g // per_host) for g in range(number))


def refused(problem: Problem) -> Infeasible:
    with pytest.raises(Infeasible) as caught:
        solve(problem)
    return caught.value


def test_a_stage_larger_than_every_device() -> None:
    halves = replace(whole(1.0, 0.5, 1300), stages=2)
    tiers = (tier("small", 100), TierLoad("huge", 1.0, (whole(1.0, 0.5, 2500), halves)))
    error = refused(Problem(tiers, (*gpus(1, 1000), *gpus(1, 800))))
    assert error.constraint == "memory"
    assert error.details["missing_mib"] == 300
    assert error.details["stages_needed"] == 3  # 2,400 MiB of weights and 100 for each stage
    assert error.details["tiers_without_home"] == ["huge"]
    assert "huge" in error.message
    assert "at least 3 stages" in error.hint


@pytest.mark.parametrize(("room_mib", "stages"), [(2500, 1), (2499, 2), (900, 3), (200, 24), (100, None)])
def test_the_smallest_number_of_stages_that_fits(room_mib: int, stages: int | None) -> None:
    variants = tuple(replace(whole(1.0, 0.5, 2400 // s + 100), stages=s) for s in (1, 2, 4))
    assert smallest_stage_count(TierLoad("t", 1.0, variants), room_mib) == stages


def test_of_one_variant_a_least_number_of_stages_is_known() -> None:
    assert smallest_stage_count(tier("t", 2500), 1000) == 3


def test_all_tiers_together_need_more_than_there_is() -> None:
    error = refused(Problem(tuple(tier(name, 900) for name in "abc"), gpus(2, 1000)))
    assert error.constraint == "memory"
    assert error.details["missing_mib"] == 700
    assert "2700 MiB" in error.message


def test_tiers_that_fit_in_sum_and_cannot_be_packed() -> None:
    # 1,800 of 2,000 MiB, but no device takes two: 200 are missing, and any one of them is in the way.
    error = refused(Problem(tuple(tier(name, 600, 0.1) for name in "abc"), gpus(2, 1000)))
    assert error.constraint == "memory"
    assert error.details["missing_mib"] == 200
    assert len(error.details["tiers_without_home"]) == 1  # type: ignore[arg-type]


def test_what_asks_the_tiers_is_not_counted_among_them() -> None:
    asking = TierLoad("(asking)", 1.0, (whole(1.0, 0.1, 0),), instances=1, overhead=True)
    tiers = (asking, *(tier(name, 600, 0.1) for name in "abc"))
    error = refused(Problem(tiers, gpus(2, 1000)))
    assert error.message.startswith("the 3 tiers do not fit together")
    late = explain(
        Problem((asking, tier("a", 600)), gpus(1, 1000)), [Found(None, float("nan"), "time limit")]
    )
    assert "of 1 tier on 1 devices" in late.message


def test_a_chain_that_fits_into_no_host() -> None:
    error = refused(Problem((tier("giant", 600, stages=4),), gpus(4, 1000, per_host=2)))
    assert error.constraint == "host"
    assert error.details["missing_mib"] == 1200
    assert "giant" in error.message


def test_utilizations_that_add_up_to_more_than_the_devices() -> None:
    problem = Problem(tuple(tier(name, 10, 0.8) for name in "abc"), gpus(2, 1000), rule="strict")
    assert refused(problem).constraint == "strict"
    assert solve(replace(problem, rule="loose")).rate_rps > 0.0


def test_utilizations_that_cannot_be_packed() -> None:
    # Together 1.8 on two devices, and no two of them share one.
    problem = Problem(tuple(tier(name, 10, 0.6) for name in "abc"), gpus(2, 1000), rule="strict")
    error = refused(problem)
    assert error.constraint == "strict"
    assert len(error.details["tiers_without_home"]) == 1  # type: ignore[arg-type]


def test_utilizations_that_cannot_be_packed_in_any_of_many_hosts() -> None:
    tiers = tuple(tier(name, 10, 0.6) for name in "abc")
    error = refused(Problem(tiers, gpus(160, 1000, per_host=2), "strict", closure="host"))
    assert error.constraint == "strict"


@pytest.mark.parametrize("devices", [8, 400])
def test_a_rate_out_of_reach_is_answered_with_the_highest(devices: int) -> None:
    highest = 7620.18 * devices / 8
    error = refused(replace(vit(devices), goal=Goal(2.0 * highest)))
    assert error.constraint == "rate"
    assert error.details["highest_rps"] == pytest.approx(highest, rel=1e-3)
    assert error.details["bound_rps"] == pytest.approx(highest, rel=1e-3)
    assert error.details["missing_mib"] is None


def test_a_rate_out_of_reach_of_many_devices_in_one_host() -> None:
    chain = TierLoad("a", 1.0, (whole(10.0, 1.0, 100), replace(whole(5.0, 1.0, 50), stages=2)))
    error = refused(Problem((chain,), gpus(65, 1000, per_host=65), goal=Goal(1e6)))
    assert error.constraint == "rate"
    assert error.details["highest_rps"] == pytest.approx(6500.0)
    assert "6500 rows/s" in error.hint


def test_tiers_that_need_more_devices_than_are_looked_at_together() -> None:
    # Each of 40 tiers needs one of the 40 large devices for itself: they fit, but not at any rate.
    tiers = tuple(tier(f"t{number}", 900) for number in range(40))
    error = refused(Problem(tiers, (*gpus(60, 100), *gpus(40, 1000)), goal=Goal(1e7)))
    assert error.constraint == "rate"
    assert error.details["highest_rps"] == pytest.approx(1000.0)  # one device each


def test_what_is_missing_in_a_large_cluster_is_said_of_its_own_devices() -> None:
    error = refused(Problem(tuple(tier(name, 600, 0.1) for name in "abc"), (*gpus(70, 100), *gpus(2, 1000))))
    assert error.constraint == "memory"
    assert error.details["missing_mib"] == 200
    assert error.details["device"] in (70, 71)
    assert "72 device(s)" in error.message


@pytest.mark.parametrize("seed", [1, 4])
def test_the_highest_rate_that_is_said_is_answered(seed: int) -> None:
    problem = random_problem(seed, 3, 3)
    highest = refused(at_rate(problem, 1e6, "gpus")).details["highest_rps"]
    assert isinstance(highest, float)
    wanted = at_rate(problem, highest * (1.0 - 1e-6), "gpus")
    assert verify(wanted, solve(wanted)) == []


@pytest.mark.parametrize("minimise", ["gpus", "energy"])
def test_where_the_search_for_a_goal_fails_the_fastest_placement_is_cut_down(
    minimise: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No baseline reaches the rate: they give each tier a device, or every device both.
    tiers = (tier("a", 600, 1.0), tier("b", 600, 1.0), tier("c", 300, 0.5))
    problem = Problem(tiers, (*gpus(2, 1000), *gpus(1, 650)))
    highest = solve(problem).rate_rps

    searched = []

    def nothing_in_time(asked: Problem, limit_s: float) -> Found:
        searched.append(asked.goal)
        return direct(asked, limit_s) if asked.goal == Goal() else Found(None, float("nan"), "time limit")

    monkeypatch.setattr(solving, "direct", nothing_in_time)
    monkeypatch.setattr(solving, "listed", nothing_in_time)
    wanted = at_rate(problem, highest, minimise)
    found = solve(wanted, simple={})
    assert verify(wanted, found) == []
    assert searched[-1] == Goal()


def test_a_tier_that_runs_on_none_of_the_types() -> None:
    other = Variant(1, 1, {"other": 0.001}, {"other": 0.5}, 10, 10)
    error = refused(Problem((TierLoad("a", 1.0, (other,)),), gpus(2, 1000)))
    assert error.constraint == "device type"
    assert "other" in error.message


def test_no_answer_in_time_is_not_called_out_of_memory() -> None:
    random = np.random.default_rng(0)
    tiers = tuple(
        TierLoad(
            str(number),
            1.0,
            (
                whole(
                    float(random.uniform(1, 10)),
                    float(random.uniform(0.5, 1.0)),
                    int(random.integers(50, 300)),
                ),
            ),
        )
        for number in range(4)
    )
    problem = Problem(tiers, gpus(4, 600), rule="strict")
    try:
        assert solve(problem, time_limit_s=1e-9).rate_rps > 0.0
    except Infeasible as error:
        assert error.constraint == "time"
