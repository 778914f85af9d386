"""The whole solve on problems with known answers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cascade_tools.planning.placement.finish import best_bound
from cascade_tools.planning.placement.problem import Device, Goal, Problem, TierLoad, Variant
from cascade_tools.planning.placement.solve import solve
from cascade_tools.planning.placement.transfers import transfers_per_row
from cascade_tools.planning.placement.verify import verify
from tests.placements import vit, whole

KINDS = ("old", "new")


def tier(
    name: str, reach: float = 1.0, ms: float = 1.0, utilization: float = 1.0, memory_mib: int = 100
) -> TierLoad:
    return TierLoad(name, reach, (whole(ms, utilization, memory_mib),))


def gpus(*memory_mib: int) -> tuple[Device, ...]:
    return tuple(Device("gpu", memory) for memory in memory_mib)


def cut(ms: float, memory_mib: int, stages: int, utilization: float = 1.0, batch: int = 1) -> Variant:
    """One stage of a model that is cut: its part of the time and of the memory."""
    part = memory_mib // stages
    return Variant(stages, batch, {"gpu": ms / stages / 1000.0}, {"gpu": utilization}, part, part)


def test_published_vit_tiers_on_eight_gpus() -> None:
    found = solve(vit(8))
    reach, ms = (1.0, 0.403767, 0.354133, 0.172700), (3.06, 4.28, 6.2, 12.5)
    share = (0.153, 0.279, 0.589, 0.906)
    closed_form = 8 / sum(r * t / 4000.0 * u for r, t, u in zip(reach, ms, share, strict=True))
    assert closed_form == pytest.approx(7620.0, rel=1e-4)
    assert found.rate_rps == pytest.approx(closed_form, rel=1e-6)
    assert found.bound == pytest.approx(closed_form, rel=1e-6)
    assert found.status == "optimal"


def test_under_the_strict_rule_large_shares_a_gpu_with_nobody() -> None:
    problem = replace(vit(8), rule="strict")
    found = solve(problem)
    assert verify(problem, found) == []
    with_large = found.count[:, found.count[3] > 0]
    assert with_large.shape[1] > 0
    assert (with_large.sum(axis=0) == 1).all()


def test_instances_run_beside_each_other_until_the_device_is_busy() -> None:
    # 1 ms per row at a quarter of the device: four instances fill it.
    found = solve(Problem((tier("only", utilization=0.25),), gpus(1000)))
    assert found.count.tolist() == [[4]]
    assert found.rate_rps == pytest.approx(4000.0)


def test_memory_limits_the_instances() -> None:
    found = solve(Problem((tier("only", utilization=0.25, memory_mib=400),), gpus(1000)))
    assert found.count.tolist() == [[2]]
    assert found.bound == pytest.approx(2000.0)


def test_shared_weights_leave_room_for_more_instances() -> None:
    shared = replace(whole(1.0, 0.25, 400), further_mib=200)
    found = solve(Problem((TierLoad("only", 1.0, (shared,)),), gpus(1000)))
    assert found.count.tolist() == [[4]]


def test_a_tier_that_no_row_reaches_still_has_a_home() -> None:
    found = solve(Problem((tier("first"), tier("spare", reach=0.0)), gpus(1000)))
    assert found.count.tolist() == [[1], [1]]
    assert found.rate_rps == pytest.approx(1000.0)


def test_a_tier_that_hardly_any_row_reaches_has_a_home_in_a_large_cluster() -> None:
    problem = Problem((tier("first", memory_mib=600), tier("rare", 1e-9, memory_mib=600)), gpus(*[1000] * 80))
    found = solve(problem)
    assert verify(problem, found) == []
    assert found.method == "patterns"
    assert found.rate_rps == pytest.approx(79_000.0, rel=1e-3)


def test_a_tier_goes_where_it_is_fast() -> None:
    figures = {"old": 0.010, "new": 0.001}
    variant = Variant(1, 1, figures, dict.fromkeys(KINDS, 1.0), 100, 100)
    tiers = (TierLoad("a", 1.0, (variant,)), TierLoad("b", 0.001, (variant,)))
    found = solve(Problem(tiers, (Device("old", 100), Device("new", 100))))
    assert found.count.tolist() == [[0, 1], [1, 0]]


def test_a_type_without_figures_is_not_used() -> None:
    only_new = Variant(1, 1, {"new": 0.001}, {"new": 1.0}, 100, 100)
    found = solve(Problem((TierLoad("a", 1.0, (only_new,)),), (Device("old", 100), Device("new", 100))))
    assert found.count.tolist() == [[0, 1]]


def test_of_several_batch_sizes_the_one_that_fits_is_taken() -> None:
    small, large = whole(2.0, 1.0, 100), Variant(1, 8, {"gpu": 0.001}, {"gpu": 1.0}, 300, 300)
    tiers = (TierLoad("a", 1.0, (small, large)),)
    assert solve(Problem(tiers, gpus(200))).rate_rps == pytest.approx(500.0)
    roomy = solve(Problem(tiers, gpus(300)))
    assert roomy.count.tolist() == [[0], [1]]
    assert roomy.rate_rps == pytest.approx(1000.0)


def test_stages_of_one_chain_never_leave_their_host() -> None:
    # A GPU holds one half of 600 MiB, so a host with two of them holds a chain and one with one holds none.
    giant = TierLoad("giant", 1.0, (cut(10.0, 1200, 2),))
    devices = tuple(Device("gpu", 700, host) for host in (0, 0, 1, 2, 2))
    problem = Problem((giant,), devices)
    found = solve(problem)
    assert verify(problem, found) == []
    assert found.rate_rps == pytest.approx(400.0)  # two chains, 5 ms a stage
    assert found.count[:, 2].sum() == 0  # one GPU is alone in its host


def test_closure_host_puts_every_tier_into_every_host_in_use() -> None:
    tiers = (tier("small", utilization=0.5, memory_mib=200), tier("large", 0.5, 4.0, memory_mib=700))
    devices = tuple(Device("gpu", 800, g // 2) for g in range(8))
    problem = Problem(tiers, devices, closure="host")
    found = solve(problem)
    assert verify(problem, found) == []
    for host in range(4):
        there = found.count[:, 2 * host : 2 * host + 2].sum(axis=1)
        assert (there > 0).all() or (there == 0).all()
    assert found.rate_rps <= solve(replace(problem, closure="pool")).rate_rps * (1.0 + 1e-6)


def test_at_a_given_rate_no_more_gpus_than_needed_are_used() -> None:
    problem = replace(vit(8), goal=Goal(3000.0, "gpus"))
    found = solve(problem)
    assert verify(problem, found) == []
    assert found.rate_rps == 3000.0
    assert found.value == 4.0  # 3000 / 7620 of 8 GPUs are 3.15
    assert found.status == "optimal"


def test_least_energy_leaves_hungry_devices_off() -> None:
    joule = {"old": 1.0, "new": 0.2}
    variant = Variant(1, 1, dict.fromkeys(KINDS, 0.001), dict.fromkeys(KINDS, 1.0), 100, 100, energy_j=joule)
    devices = (Device("old", 100, idle_w=10.0), Device("new", 100, idle_w=50.0))
    problem = Problem((TierLoad("a", 1.0, (variant,)),), devices, goal=Goal(40.0, "energy"))
    found = solve(problem)  # 10 + 40 x 1.0 W or 50 + 40 x .2 W
    assert found.count.tolist() == [[1, 0]]
    assert found.value == pytest.approx(50.0)
    faster = solve(replace(problem, goal=Goal(400.0, "energy")))  # 10 + 400 W or 50 + 80 W
    assert faster.count.tolist() == [[0, 1]]
    assert faster.value == pytest.approx(130.0)


@pytest.mark.parametrize("minimise", ["gpus", "energy"])
def test_a_low_rate_takes_as_little_of_a_large_cluster_as_of_a_small_one(minimise: str) -> None:
    tiers = (tier("a", 1.0, 1.0, 0.3), tier("b", 0.2, 8.0, 0.6, 300), tier("c", 0.0005, 120.0, 0.9, 900))
    goal = Goal(100.0, "gpus" if minimise == "gpus" else "energy")
    cluster = tuple(Device("gpu", 1000, g // 8, 50.0) for g in range(1000))
    small, large = (solve(Problem(tiers, cluster[:number], goal=goal)) for number in (8, 1000))
    assert large.value == pytest.approx(small.value, rel=1e-6)
    assert large.status == "optimal"


def test_a_very_low_rate_with_every_tier_in_each_host() -> None:
    tiers = (tier("a", 1.0), tier("b", 0.01, memory_mib=900))
    devices = tuple(Device("gpu", 950, g // 2) for g in range(8))
    problem = Problem(tiers, devices, goal=Goal(1e-5), closure="host")
    found = solve(problem)
    assert verify(problem, found) == []
    assert found.value == 2.0


@pytest.mark.parametrize(("goal", "bound", "kept"), [(Goal(), 0.0, np.inf), (Goal(9.0), 4000.0, 0.0)])
def test_a_bound_that_an_answer_beats_proves_nothing(goal: Goal, bound: float, kept: float) -> None:
    problem = Problem((tier("a"),), gpus(1000), goal=goal)
    assert best_bound(problem, 37.0, bound) == kept
    assert best_bound(problem, 37.0, 37.0) == 37.0


def test_rows_stay_on_their_gpu_where_the_rate_does_not_suffer() -> None:
    # Both halves fit on each GPU; halves on different GPUs would be as fast.
    problem = Problem((TierLoad("giant", 1.0, (cut(10.0, 1200, 2),)),), gpus(1300, 1300))
    found = solve(problem)
    assert found.rate_rps == pytest.approx(200.0)
    assert transfers_per_row(problem, found) == pytest.approx(0.0, abs=1e-6)
    apart = replace(
        found, count=np.array([[1, 0], [0, 1]]), busy=np.array([[0.5, 0.0], [0.0, 0.5]]), rate_rps=100.0
    )
    assert transfers_per_row(problem, apart) == pytest.approx(1.0)


def test_instances_that_are_wanted_anyhow_are_kept_where_they_fit() -> None:
    problem = Problem((tier("first", utilization=0.5), tier("last", 0.01, utilization=0.5)), gpus(1000))
    assert solve(problem).count.tolist() == [[2], [1]]
    wanted = replace(problem, at_least=np.array([[0], [2]]))
    found = solve(wanted)
    assert found.count.tolist() == [[2], [2]]
    assert verify(wanted, found) == []
    tight = replace(wanted, devices=gpus(350))
    assert solve(tight).count.tolist() == [[2], [1]]


def test_instances_of_an_adopted_model_are_those_that_there_are() -> None:
    adopted = replace(tier("adopted", utilization=0.25), instances=3)
    found = solve(Problem((adopted,), gpus(1000), at_least=np.array([[3]])))
    assert found.count.tolist() == [[3]]
    assert found.rate_rps == pytest.approx(3000.0)


def test_a_given_number_of_instances_holds_over_all_batch_sizes() -> None:
    single = whole(1.0, 0.25, 100)
    quicker = replace(single, batch=2, seconds_per_row={"gpu": 0.0005})
    adopted = TierLoad("adopted", 1.0, (single, quicker), instances=3)
    problem = Problem((adopted,), gpus(1000), at_least=np.array([[3], [0]]))
    found = solve(problem)
    assert verify(problem, found) == []
    assert found.count.tolist() == [[0], [3]]


def test_the_same_problem_has_the_same_answer() -> None:
    problem = replace(vit(3), rule="strict")
    first, second = solve(problem), solve(problem)
    assert (first.count == second.count).all()
    assert first.rate_rps == second.rate_rps
