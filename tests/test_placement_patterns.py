"""Column generation against the program over all devices."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cascade_tools.planning.placement.direct import direct
from cascade_tools.planning.placement.finish import finish
from cascade_tools.planning.placement.patterns.assembly import contents, written_out
from cascade_tools.planning.placement.patterns.enumeration import maximal_patterns, worth
from cascade_tools.planning.placement.patterns.generation import Effort, Pool, generate
from cascade_tools.planning.placement.patterns.listed import listed
from cascade_tools.planning.placement.patterns.patterns import patterns
from cascade_tools.planning.placement.patterns.pricing import pricer
from cascade_tools.planning.placement.patterns.sites import sites_of
from cascade_tools.planning.placement.problem import Device, Goal, Problem, Solution, TierLoad
from cascade_tools.planning.placement.programs.numbers import numbers_of
from cascade_tools.planning.placement.solve import solve
from cascade_tools.planning.placement.verify import verify
from tests.placements import at_rate, full_columns, random_problem, vit, whole


def many(problem: Problem, times: int) -> Problem:
    """The same devices so many times, each time in hosts of their own."""
    hosts = max(device.host for device in problem.devices) + 1
    devices = [replace(d, host=d.host + n * hosts) for n in range(times) for d in problem.devices]
    return replace(problem, devices=tuple(devices))


def by_patterns(problem: Problem) -> Solution:
    found = patterns(problem, 10.0)
    assert found.count is not None
    answer = finish(problem, found.count, found.bound, found.status, "patterns")
    assert answer is not None
    assert verify(problem, answer) == []
    return answer


@pytest.mark.parametrize(("seed", "split"), [(0, False), (5, False), (4, True), (7, True)])
def test_patterns_and_the_direct_program_agree(seed: int, split: bool) -> None:
    problem = random_problem(seed, 2, 4, split, per_host=2)
    exact, found = direct(problem, 10.0), patterns(problem, 10.0)
    assert exact.count is not None
    best = finish(problem, exact.count, exact.bound, exact.status, "direct")
    assert best is not None
    assert found.bound >= best.rate_rps * (1.0 - 1e-6)
    if found.count is not None:
        answer = finish(problem, found.count, found.bound, found.status, "patterns")
        assert answer is not None
        assert verify(problem, answer) == []
        assert answer.rate_rps <= best.rate_rps * (1.0 + 1e-6)


@pytest.mark.parametrize(
    ("seed", "split", "closure"), [(0, False, "pool"), (5, True, "pool"), (16, False, "host")]
)
def test_patterns_come_close_to_the_bound_in_large_clusters(seed: int, split: bool, closure: str) -> None:
    small = random_problem(seed, 3, 4, split, per_host=2)
    problem = replace(many(small, 20), closure="host" if closure == "host" else "pool")
    found = by_patterns(problem)
    assert found.gap <= 0.05
    # Whatever twenty of the small clusters do, one large one does.
    if closure == "pool":
        assert found.rate_rps >= 20.0 * solve(small).rate_rps * (1.0 - 1e-6)


@pytest.mark.parametrize("minimise", ["gpus", "energy"])
def test_goals_in_large_clusters(minimise: str) -> None:
    problem = many(random_problem(4, 3, 4, split=True, per_host=2), 20)
    fastest = by_patterns(problem).rate_rps
    half, much = (by_patterns(at_rate(problem, part * fastest, minimise)) for part in (0.5, 0.9))
    assert half.gap <= 0.08
    assert half.bound < half.value * (1.0 + 1e-6) < much.value


@pytest.mark.parametrize("seed", [0, 1, 5])
def test_all_patterns_put_together_are_exact_without_chains(seed: int) -> None:
    problem = random_problem(seed, 3, 3)
    exact, found = direct(problem, 10.0), listed(problem, 10.0)
    assert found.count is not None
    answer = finish(problem, found.count, found.bound, found.status, "patterns")
    assert answer is not None
    assert verify(problem, answer) == []
    assert answer.rate_rps == pytest.approx(exact.bound, rel=1e-3)
    assert found.bound == pytest.approx(exact.bound, rel=1e-3)


@pytest.mark.parametrize("seed", [1, 3, 4, 7])
def test_all_patterns_bound_a_placement_with_chains(seed: int) -> None:
    problem = random_problem(seed, 2, 4, split=True, per_host=2)
    only_cut = replace(problem.tiers[-1], variants=problem.tiers[-1].variants[1:])
    problem = replace(problem, tiers=(problem.tiers[0], only_cut))
    best = solve(problem)
    assert listed(problem, 10.0).bound >= best.rate_rps * (1.0 - 1e-6)
    wanted = at_rate(problem, 0.6 * best.rate_rps, "energy")
    assert listed(wanted, 10.0).bound <= solve(wanted).value * (1.0 + 1e-6)


def test_whole_chains_are_counted_under_the_strict_rule() -> None:
    # Three devices hold one chain of two stages, and half a chain does nothing.
    half = replace(whole(5.0, 1.0, 100), stages=2)
    devices = tuple(Device("gpu", 1000) for _ in range(3))
    found = listed(Problem((TierLoad("giant", 1.0, (half,)),), devices, "strict"), 1.0)
    assert found.bound == pytest.approx(200.0, rel=1e-6)


def test_without_any_pattern_nothing_is_proven_of_a_goal() -> None:
    problem = replace(vit(8), devices=tuple(Device("gpu", 500) for _ in range(8)))  # too small for large
    found = patterns(at_rate(problem, 1.0, "gpus"), 1.0)
    assert found.count is None
    assert np.isnan(found.bound)


def test_a_thousand_gpus_of_three_types() -> None:
    problem = vit(1002)
    factor = {"gpu": 1.0, "slow": 2.0, "fast": 0.5}
    tiers = tuple(
        replace(
            tier,
            variants=tuple(
                replace(
                    v,
                    seconds_per_row={k: f * v.seconds_per_row["gpu"] for k, f in factor.items()},
                    utilization=dict.fromkeys(factor, v.utilization["gpu"]),
                )
                for v in tier.variants
            ),
        )
        for tier in problem.tiers
    )
    devices = tuple(Device(kind, 2000) for kind in factor for _ in range(334))
    problem = replace(problem, tiers=tiers, devices=devices)
    found = solve(problem)
    # Every device can hold every tier, so the closed form holds with devices counted by their speed.
    assert found.rate_rps == pytest.approx(7620.18 / 8 * 334 * 3.5, rel=1e-3)
    assert found.gap <= 1e-3


@pytest.mark.parametrize("seed", [0, 3, 5])
def test_all_maximal_patterns_are_listed(seed: int) -> None:
    problem = random_problem(seed, 3, 3)
    numbers = numbers_of(problem)
    for kind, device in enumerate(numbers.kinds):
        listed = maximal_patterns(numbers, kind)
        assert listed is not None
        assert sorted(map(tuple, listed.tolist())) == sorted(full_columns(problem, device))


def test_the_worth_of_a_pattern_is_that_of_its_best_load() -> None:
    numbers = numbers_of(replace(vit(1), rule="loose"))
    value = np.array([0.1, 0.4, 0.2, 0.9])
    one_of_each = np.array([[1, 1, 1, 1], [7, 0, 0, 0]])
    # By value per busy share: small, then large until the device is busy. Seven of tiny are too many.
    expected = [0.4 + 0.9 * (1.0 - 0.279) / 0.906, 0.1 / 0.153]
    assert worth(numbers, 0, one_of_each, value) == pytest.approx(expected)


def test_the_bound_holds_at_any_effort() -> None:
    problem = random_problem(5, 3, 4)
    best = solve(problem)
    numbers = numbers_of(problem)
    pricers = [pricer(numbers, Goal(), n, site) for n, site in enumerate(sites_of(problem, numbers))]
    pool = Pool()
    for p in pricers:
        for single in np.eye(3):
            column, _ = p.best(single, 1.0, 0.5)
            assert column is not None
            pool.add(column, p)
    rough = generate(numbers, Goal(), pricers, pool, Effort(1.0, 1.0, gap=0.5))
    assert rough.bound * numbers.scale_rps >= best.rate_rps * (1.0 - 1e-6)


def test_patterns_written_out_are_the_placement() -> None:
    problem = many(random_problem(4, 2, 4, split=True, per_host=2), 3)
    numbers = numbers_of(problem)
    sites = sites_of(problem, numbers)
    found = by_patterns(problem).count
    parts, times, _ = contents(sites, found)
    again = written_out(found.shape, sites, parts, times.astype(np.int64))
    assert sorted(map(tuple, again.T.tolist())) == sorted(map(tuple, found.T.tolist()))
