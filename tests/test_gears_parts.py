"""The parts of the planning of gears: rates, candidates, assignment, one placement for several loads."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest

from cascade_tools.errors import Infeasible
from cascade_tools.planning.gears import Trigger, bins_of_counts, bins_of_shares, zipf_bins
from cascade_tools.planning.gears import assign as assignment
from cascade_tools.planning.gears.assign import Side, assign
from cascade_tools.planning.gears.forecast import Forecaster
from cascade_tools.planning.gears.front import MOST_POLICIES, front
from cascade_tools.planning.gears.neighbours import neighbours, with_wanted
from cascade_tools.planning.gears.scenarios import Scenario, common_placement, hardest, margins
from cascade_tools.planning.placement.balance import balance
from cascade_tools.planning.placement.baselines.blocks import complete
from cascade_tools.planning.placement.problem import Device, IntArray, Problem, TierLoad, Variant
from cascade_tools.planning.simulator.system import (
    Recorded,
    ServiceTime,
    SimDevice,
    SimRouter,
    SimTier,
    System,
)
from cascade_tools.spec import Slo
from tests.test_gears_cycle import POLICIES, TIERS, placements, policy, problem, question


def test_zipf_gives_low_rates_the_most_time() -> None:
    bins = zipf_bins(80.0, 4, 1.0)
    assert bins.edges_rps.tolist() == [0.0, 20.0, 40.0, 60.0, 80.0]
    assert bins.shares.tolist() == pytest.approx([12 / 25, 6 / 25, 4 / 25, 3 / 25])
    assert zipf_bins(80.0, 4, 0.0).shares.tolist() == [0.25] * 4


def test_requests_weigh_by_time_and_rate() -> None:
    bins = bins_of_shares((0.0, 10.0, 30.0), (0.9, 0.1))
    assert bins.weights.tolist() == pytest.approx([4.5 / 6.5, 2.0 / 6.5])
    assert bins.top_rps.tolist() == [10.0, 30.0]


def test_a_trace_is_counted_into_equal_bins_and_scaled_to_its_peak() -> None:
    rates = np.array([0.0, 1.0, 5.0, 5.1, 10.0])
    bins = bins_of_counts(rates, 2)
    assert bins.edges_rps.tolist() == [0.0, 5.0, 10.0]
    assert bins.shares.tolist() == pytest.approx([0.6, 0.4])
    scaled = bins_of_counts(rates, 2, peak_rps=300.0)
    assert scaled.edges_rps.tolist() == [0.0, 150.0, 300.0]
    assert scaled.shares.tolist() == bins.shares.tolist()


def test_what_is_beaten_in_everything_is_no_candidate() -> None:
    worse = policy(0.5, 0.5, 0.94)  # less accurate than .95, and more work
    kept = [one.policy for one in front(question(Slo(p95_ms=50.0), policies=(*POLICIES, worse)))]
    assert kept == list(POLICIES)


def test_of_many_candidates_the_most_accurate_and_the_fastest_stay() -> None:
    many = tuple(policy(cut / 100.0, 0.9 - 0.01 * cut, 0.98 - 0.002 * cut) for cut in range(60))
    kept = [one.policy for one in front(question(Slo(p95_ms=50.0), policies=many))]
    assert len(kept) <= MOST_POLICIES
    assert kept[0] is many[0]
    assert kept[-1] is many[-1]


def test_the_assignment_never_gives_a_higher_rate_the_more_accurate_policy() -> None:
    gain = np.array([[1.0, 2.0], [2.0, 1.0]])
    allowed = np.ones((2, 2), bool)
    assert assign(gain, allowed) in ((1, 1), (0, 0))
    allowed[0, 0] = False
    assert assign(gain, allowed) == (1, 1)
    allowed[1, 1] = False
    assert assign(gain, allowed) is None


def test_the_assignment_keeps_a_sum_at_the_least_loss() -> None:
    gain = np.array([[-5.0, -1.0], [-4.0, -1.0]])
    side = Side(np.array([[0.5, 0.4], [0.5, 0.4]]), 0.9)
    everything = np.ones((2, 2), bool)
    assert assign(gain, everything, side) == (0, 1)
    assert assign(gain, everything, side._replace(bound=1.0)) == (0, 0)
    assert assign(gain, everything, side._replace(bound=1.1)) is None
    assert assign(gain, everything, side, forced={1: 0}) == (0, 0)


def test_no_time_for_an_assignment_is_not_that_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assignment, "TIME_LIMIT_S", 0.0)
    draw = np.random.default_rng(0)
    gain, side = draw.random((100, 12)), draw.random((100, 12))
    with pytest.raises(Infeasible, match="was found in 0 s") as caught:
        assign(gain, np.ones((100, 12), bool), Side(side, 0.7 * float(side.max(axis=1).sum())))
    assert caught.value.constraint == "time"


def best_margin(asked: Problem, scenarios: list[Scenario]) -> float:
    return max(float(margins(asked, count, scenarios).min()) for count in placements(asked))


@pytest.mark.parametrize("room", [(100, 60), (80, 80), (60, 45)])
def test_one_placement_for_several_loads_is_the_best_for_the_hardest(room: tuple[int, int]) -> None:
    asked = problem(room)
    scenarios = [Scenario(60.0, (1.0, 0.8)), Scenario(400.0, (1.0, 0.02))]
    found = common_placement(asked, scenarios, 5.0)
    assert found.margins.tolist() == margins(asked, found.count, scenarios).tolist()
    assert float(found.margins.min()) == pytest.approx(best_margin(asked, scenarios), rel=1e-6)


def test_loads_of_different_times_do_not_add_up() -> None:
    asked = problem((120,))  # room for two instances of both tiers
    scenarios = [Scenario(100.0, (0.0, 1.0)), Scenario(1000.0, (1.0, 0.0))]
    found = common_placement(asked, scenarios, 5.0)
    assert found.margins.tolist() == pytest.approx([2.0, 2.0])
    both = Scenario(1000.0, (1.0, 0.1))
    assert margins(asked, found.count, [both]).tolist() == pytest.approx([1.0])


def test_a_load_that_another_one_implies_is_left_out() -> None:
    low, high, other = Scenario(10.0, (1.0, 0.5)), Scenario(20.0, (1.0, 0.5)), Scenario(50.0, (1.0, 0.1))
    assert hardest([low, high, other, high]) == [high, other]


def test_stages_of_a_chain_stay_in_one_host() -> None:
    stage = Variant(2, 1, {"A": 0.01}, {"A": 1.0}, 60, 60)
    small = Variant(1, 1, {"A": 0.001}, {"A": 1.0}, 10, 10)
    tiers = (TierLoad("tiny", 1.0, (small,)), TierLoad("giant", 1.0, (stage,)))
    asked = Problem(tiers, tuple(Device("A", 70, host=g // 2) for g in range(4)))
    scenarios = [Scenario(20.0, (1.0, 0.9)), Scenario(100.0, (1.0, 0.2))]
    found = common_placement(asked, scenarios, 5.0)
    whole = [bool(found.count[1, h : h + 2].sum() and found.count[2, h : h + 2].sum()) for h in (0, 2)]
    assert any(whole)
    assert float(found.margins.min()) > 1.0


def test_neighbours_are_legal_and_differ_by_little() -> None:
    asked = problem((100, 60))
    count = np.array([[1, 1], [1, 0]], np.int64)
    found = list(neighbours(asked, count))
    memory = np.array([20, 40])
    assert {int(np.abs(one - count).sum()) for one in found} <= {1, 2, 4}
    assert all((memory @ one <= [100, 60]).all() and (one.sum(axis=1) > 0).all() for one in found)
    assert any((one == [[1, 1], [0, 1]]).all() for one in found)


@pytest.mark.parametrize("closure", ["pool", "host"])
def test_neighbours_keep_chains_and_hosts_whole(closure: Literal["pool", "host"]) -> None:
    half = Variant(2, 1, {"A": 0.01}, {"A": 1.0}, 30, 30)
    small = Variant(1, 1, {"A": 0.001}, {"A": 1.0}, 10, 10)
    asking = Variant(1, 1, {"A": 0.0001}, {"A": 0.5}, 0, 0)
    tiers = (
        TierLoad("(asking)", 1.0, (asking,)),
        TierLoad("tiny", 1.0, (small,)),
        TierLoad("giant", 1.0, (half,)),
    )
    asked = Problem(tiers, tuple(Device("A", 80, host=g // 2) for g in range(4)), closure=closure)
    count = np.array([[1, 1, 1, 1], [1, 0, 1, 0], [1, 0, 1, 0], [0, 1, 0, 1]], np.int64)
    found = list(neighbours(asked, count))
    assert found
    for one in found:
        assert (one == complete(asked, one, [0, 0, 1, 1])).all()
        assert (one[0] == 1).all(), "what takes no memory stays as it is"


@pytest.mark.parametrize("closure", ["pool", "host"])
def test_one_placement_for_several_loads_keeps_chains_and_hosts_whole(
    closure: Literal["pool", "host"],
) -> None:
    half = Variant(2, 1, {"A": 0.01}, {"A": 1.0}, 30, 30)
    small = Variant(1, 1, {"A": 0.001}, {"A": 1.0}, 10, 10)
    tiers = (TierLoad("tiny", 1.0, (small,)), TierLoad("giant", 1.0, (half,)))
    asked = Problem(tiers, tuple(Device("A", 80, host=g // 2) for g in range(4)), closure=closure)
    for rate in (20.0, 60.0):
        scenarios = [Scenario(rate, (1.0, 0.9)), Scenario(100.0, (1.0, 0.2))]
        found = common_placement(asked, scenarios, 5.0).count
        assert (found == complete(asked, found, [0, 0, 1, 1])).all()


def test_what_is_wanted_anyhow_is_kept_where_it_fits() -> None:
    asked = problem((100, 60))
    wanted = Problem(asked.tiers, asked.devices, at_least=np.array([[0, 0], [2, 1]], np.int64))
    assert with_wanted(wanted, np.array([[1, 1], [0, 1]], np.int64)).tolist() == [[1, 1], [2, 1]]
    assert with_wanted(wanted, np.array([[2, 1], [1, 1]], np.int64)).tolist() == [[2, 1], [1, 1]]
    assert all(one[1].sum() >= 1 for one in neighbours(wanted, np.array([[1, 1], [0, 1]], np.int64)))


def simulated() -> Forecaster:
    """Two tiers on one device: 1 and 10 ms a row; half of the rows are sure at the first."""
    times = {"tiny": 1.0, "giant": 10.0}

    def system_of(count: IntArray) -> System:
        tiers = tuple(
            SimTier(
                name,
                {"A": ServiceTime(np.full(4, times[name]), np.full(4, 0.1), np.full(4, times[name] / 10.0))},
                ((0,) * int(count[i, 0]),),
            )
            for i, name in enumerate(TIERS)
        )
        return System(tiers, (SimDevice("A"),), SimRouter(max_batch_size=4, rows_in_flight=1000), ())

    sure = np.array([[0.9, 0.9], [0.1, 0.9]], np.float32)
    return Forecaster(system_of, Recorded(sure, np.ones((2, 2), bool)), seed=1)


def test_a_forecast_is_the_simulators_at_a_steady_rate() -> None:
    forecast = simulated()
    one = policy(0.5, 0.5, 0.9)
    count = np.array([[1], [1]], np.int64)
    light = forecast(count, one, 10.0, Trigger())
    assert light.throughput_rps == pytest.approx(10.0, rel=0.02)
    assert light.p50_ms < light.p95_ms
    assert light.p95_ms == pytest.approx(11.0, rel=0.2)
    # A batch costs what a row costs: rows that are alone cost the most.
    assert light.energy_j == pytest.approx(0.1 + 0.5 * 1.0, rel=0.1)
    assert forecast(count, one, 10.0, Trigger()) == light
    assert simulated()(count, one, 10.0, Trigger()) == light
    busy = forecast(count, one, 400.0, Trigger())
    assert busy.busy_share > light.busy_share
    assert busy.energy_j is not None
    assert busy.energy_j < 0.6
    flooded = forecast(count, one, 4000.0, Trigger())
    assert flooded.throughput_rps < 0.95 * 4000.0


def test_an_instance_more_makes_a_forecast_faster_and_a_trigger_slower() -> None:
    forecast = simulated()
    one = policy(0.5, 0.5, 0.9)
    few, many = np.array([[1], [1]], np.int64), np.array([[1], [3]], np.int64)
    assert forecast(many, one, 150.0, Trigger()).p95_ms < forecast(few, one, 150.0, Trigger()).p95_ms
    assert forecast(few, one, 10.0, Trigger(4, 50.0)).p50_ms > 20.0


def test_the_capacity_of_a_candidate_bounds_every_placement() -> None:
    asked = question(Slo(p95_ms=50.0))
    for one in front(asked):
        tiers = tuple(
            TierLoad(tier.name, share, tier.variants)
            for tier, share in zip(asked.problem.tiers, one.reach, strict=True)
        )
        of_it = Problem(tiers, asked.problem.devices)
        most = max(balance(of_it, count)[0] for count in list(placements(asked.problem))[::7])
        assert one.capacity_rps >= most * (1.0 - 1e-9)
