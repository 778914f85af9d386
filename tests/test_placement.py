"""The placement program against enumeration, closed forms, and its own verification."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from scipy.optimize import linprog

from cascade_tools.errors import Infeasible
from cascade_tools.planning import placement
from cascade_tools.planning.placement.direct import (
    KEEP_RATE,
    Device,
    Solution,
    TierLoad,
    place,
    sustainable_rate,
    verify,
)
from cascade_tools.stages.place import solver_output_on_stderr
from tests.helpers import Array

Tiers = tuple[TierLoad, ...]
Devices = tuple[Device, ...]
Counts = tuple[tuple[int, ...], ...]

KINDS = ("old", "new")


def tier(
    name: str,
    reach: float = 1.0,
    ms: float = 1.0,
    utilization: float = 1.0,
    memory_mib: float = 100.0,
) -> TierLoad:
    return TierLoad(name, reach, {"gpu": ms / 1000.0}, {"gpu": utilization}, memory_mib)


def gpus(*memory_mib: int) -> Devices:
    return tuple(Device("gpu", memory) for memory in memory_mib)


def random_problem(
    seed: int, tiers: int, devices: int, room: tuple[int, int] = (800, 1000)
) -> tuple[Tiers, Devices]:
    """Devices of two types with room for a few instances of 50 to 250 MiB."""
    rng = np.random.default_rng(seed)
    loads = []
    for number in range(tiers):
        seconds = {kind: float(rng.uniform(0.0005, 0.01)) for kind in KINDS}
        share = {kind: float(rng.uniform(0.4, 1.0)) for kind in KINDS}
        reach = 1.0 if number == 0 else float(rng.uniform(0.05, 1.0))
        loads.append(TierLoad(f"tier{number}", reach, seconds, share, float(rng.integers(50, 250))))
    kinds = KINDS[:devices]
    return tuple(loads), tuple(Device(kind, int(rng.integers(*room))) for kind in kinds)


def used(tiers: Tiers, counts: Counts, device: int) -> float:
    return sum(t.memory_mib * row[device] for t, row in zip(tiers, counts, strict=True))


def all_placements(tiers: Tiers, devices: Devices) -> list[Counts]:
    """Every legal number of instances; more than keep a device busy help nobody."""
    cells = [range(int(np.ceil(1.0 / t.utilization[d.type])) + 1) for t in tiers for d in devices]
    found = []
    for flat in product(*cells):
        rows = tuple(flat[i : i + len(devices)] for i in range(0, len(flat), len(devices)))
        if all(any(row) for row in rows) and all(
            used(tiers, rows, g) <= device.memory_mib for g, device in enumerate(devices)
        ):
            found.append(rows)
    return found


def fastest_rate(tiers: Tiers, devices: Devices, counts: Counts) -> float:
    """Rows/s of one placement: a program over the rows/s of every tier on every device."""
    cells = [(i, g) for i in range(len(tiers)) for g in range(len(devices))]
    seconds = [tiers[i].seconds_per_row[devices[g].type] for i, g in cells]
    share = [tiers[i].utilization[devices[g].type] for i, g in cells]
    unit = 1000.0
    device_rows = [
        [unit * s * u if g == own else 0.0 for (_, g), s, u in zip(cells, seconds, share, strict=True)]
        + [0.0]
        for own in range(len(devices))
    ]
    tier_rows = [
        [1.0 if i == own else 0.0 for i, _ in cells] + [-tiers[own].reach] for own in range(len(tiers))
    ]
    most = [counts[i][g] / s / unit for (i, g), s in zip(cells, seconds, strict=True)]
    result = linprog(
        [0.0] * len(cells) + [-1.0],
        A_ub=device_rows,
        b_ub=[1.0] * len(devices),
        A_eq=tier_rows,
        b_eq=[0.0] * len(tiers),
        bounds=[(0.0, limit) for limit in most] + [(0.0, None)],
    )
    assert result.success
    return float(-result.fun * unit)


def best_rate(tiers: Tiers, devices: Devices) -> float:
    """The highest rate over all placements; only those that take no further instance are tried."""
    legal = set(all_placements(tiers, devices))

    def takes_more(counts: Counts) -> bool:
        for i, g in product(range(len(tiers)), range(len(devices))):
            grown = [list(row) for row in counts]
            grown[i][g] += 1
            if tuple(tuple(row) for row in grown) in legal:
                return True
        return False

    return max(fastest_rate(tiers, devices, counts) for counts in legal if not takes_more(counts))


@pytest.mark.parametrize(
    ("seed", "tiers", "devices"),
    [(seed, *size) for size in ((3, 1), (2, 2), (3, 2)) for seed in range(8)],
)
def test_no_placement_is_faster(seed: int, tiers: int, devices: int) -> None:
    problem = random_problem(seed, tiers, devices)
    best = best_rate(*problem)
    found = place(*problem)
    assert found.bound_rps == pytest.approx(best, rel=1e-6)
    # The second solve may give up a thousandth of the rate for memory, and no more.
    assert best * KEEP_RATE * (1.0 - 1e-6) <= found.rate_rps <= best * (1.0 + 1e-6)
    assert found.gap == pytest.approx(1.0 - found.rate_rps / found.bound_rps, abs=1e-12)
    assert verify(*problem, found) == []


@pytest.mark.parametrize("seed", range(30))
def test_a_placement_is_refused_only_if_there_is_none(seed: int) -> None:
    problem = random_problem(seed, 3, 2, room=(150, 400))
    if all_placements(*problem):
        assert verify(*problem, place(*problem)) == []
    else:
        with pytest.raises(Infeasible):
            place(*problem)


@pytest.mark.parametrize("seed", range(8))
def test_the_rate_of_a_given_placement_equals_another_program(seed: int) -> None:
    tiers, devices = random_problem(seed, 3, 2)
    for counts in all_placements(tiers, devices)[::40]:
        rate, busy = sustainable_rate(tiers, devices, np.array(counts))
        assert rate == pytest.approx(fastest_rate(tiers, devices, counts), rel=1e-6)
        assert (busy <= np.array(counts) + 1e-9).all()


def rate_on_one_gpu(tiers: Tiers, counts: tuple[int, ...]) -> float:
    """Closed form: the device is busy all the time, or the instances of one tier are."""
    work = sum(t.reach * t.seconds_per_row["gpu"] * t.utilization["gpu"] for t in tiers)
    alone = [n / (t.reach * t.seconds_per_row["gpu"]) for t, n in zip(tiers, counts, strict=True)]
    return min(1.0 / work, *alone)


def one_gpu_problem(seed: int) -> Tiers:
    rng = np.random.default_rng(seed)
    return tuple(
        tier(
            f"tier{number}",
            reach=float(rng.uniform(0.1, 1.0)),
            ms=float(rng.uniform(0.5, 5.0)),
            utilization=float(rng.uniform(0.15, 1.0)),
            memory_mib=float(rng.integers(50, 300)),
        )
        for number in range(3)
    )


@pytest.mark.parametrize("seed", range(6))
def test_of_equally_fast_placements_the_smallest_is_taken(seed: int) -> None:
    tiers, devices = one_gpu_problem(seed), gpus(2000)
    rates = {
        counts: rate_on_one_gpu(tiers, tuple(row[0] for row in counts))
        for counts in all_placements(tiers, devices)
    }
    fast_enough = KEEP_RATE * max(rates.values()) * (1.0 + 1e-6)
    least = min(used(tiers, counts, 0) for counts, rate in rates.items() if rate >= fast_enough)
    found = place(tiers, devices)
    counts = tuple(tuple(row) for row in found.count.tolist())
    assert used(tiers, counts, 0) <= least
    assert found.rate_rps == pytest.approx(rates[counts], rel=1e-6)


def test_many_small_instances_are_preferred_to_few_large_ones() -> None:
    # `pinned` fits once and allows 1,000 rows/s. Either `large` is on the new device alone and `little`
    # has three instances on the old one, or `little` has one and `large` is on both.
    pinned = TierLoad("pinned", 1.0, dict.fromkeys(KINDS, 0.001), dict.fromkeys(KINDS, 0.01), 1500.0)
    large = TierLoad("large", 1.0, {"old": 0.002, "new": 0.001}, {"old": 0.4, "new": 0.9}, 500.0)
    little = TierLoad("little", 1.0, {"old": 0.003, "new": 0.001}, {"old": 0.3, "new": 0.5}, 10.0)
    devices = (Device("old", 700), Device("new", 2300))
    found = place((pinned, large, little), devices)
    assert found.bound_rps == pytest.approx(1000.0)
    assert found.count.tolist() == [[0, 1], [0, 1], [3, 0]]


def test_published_vit_tiers_on_eight_gpus() -> None:
    reach = (1.0, 0.403767, 0.354133, 0.172700)
    batch_ms, batch = (3.06, 4.28, 6.2, 12.5), 4
    utilization = (0.153, 0.279, 0.589, 0.906)
    tiers = tuple(
        tier(f"vit{n}", r, ms / batch, u, memory_mib=1500.0)
        for n, (r, ms, u) in enumerate(zip(reach, batch_ms, utilization, strict=True))
    )
    devices = gpus(*[24_000] * 8)
    found = place(tiers, devices)
    work = sum(r * ms / 1000.0 / batch * u for r, ms, u in zip(reach, batch_ms, utilization, strict=True))
    assert 8 / work == pytest.approx(7620.0, rel=1e-4)
    assert found.rate_rps == pytest.approx(8 / work, rel=1e-3)
    assert found.bound_rps == pytest.approx(8 / work, rel=1e-3)
    assert verify(tiers, devices, found) == []


def test_instances_run_beside_each_other_until_the_device_is_busy() -> None:
    # 1 ms per row at a quarter of the device: four instances fill it.
    found = place((tier("only", ms=1.0, utilization=0.25),), gpus(1000))
    assert found.count.tolist() == [[4]]
    assert found.rate_rps == pytest.approx(4000.0, rel=1e-3)


def test_memory_limits_the_instances() -> None:
    found = place((tier("only", ms=1.0, utilization=0.25, memory_mib=400.0),), gpus(1000))
    assert found.count.tolist() == [[2]]
    assert found.rate_rps == pytest.approx(2000.0)
    assert found.bound_rps == pytest.approx(2000.0)


def test_a_tier_that_no_row_reaches_still_has_a_home() -> None:
    found = place((tier("first"), tier("spare", reach=0.0)), gpus(1000))
    assert found.count.tolist() == [[1], [1]]
    assert found.rate_rps == pytest.approx(1000.0)


def test_a_tier_goes_where_it_is_fast() -> None:
    kinds = {"old": 0.010, "new": 0.001}
    both = {"old": 1.0, "new": 1.0}
    tiers = (TierLoad("a", 1.0, kinds, both, 100.0), TierLoad("b", 0.001, kinds, both, 100.0))
    found = place(tiers, (Device("old", 100), Device("new", 100)))
    assert found.count.tolist() == [[0, 1], [1, 0]]


def test_instances_that_are_wanted_anyhow_are_kept_where_they_fit() -> None:
    problem = (tier("first", utilization=0.5), tier("last", reach=0.01, utilization=0.5)), gpus(1000)
    assert place(*problem).count.tolist() == [[2], [1]]
    found = place(*problem, at_least=np.array([[0], [2]]))
    assert found.count.tolist() == [[2], [2]]
    assert verify(*problem, found) == []


def test_instances_that_are_wanted_anyhow_give_way_where_they_do_not_fit() -> None:
    problem = (tier("first", utilization=0.5), tier("last", reach=0.01, utilization=0.5)), gpus(350)
    found = place(*problem, at_least=np.array([[0], [2]]))
    assert found.count.tolist() == place(*problem).count.tolist() == [[2], [1]]


def test_the_same_problem_has_the_same_answer() -> None:
    problem = random_problem(1, 3, 2)
    first, second = place(*problem), place(*problem)
    assert (first.count == second.count).all()
    assert first.rate_rps == second.rate_rps


def test_a_tier_larger_than_every_device_is_named_with_what_is_missing() -> None:
    with pytest.raises(Infeasible) as caught:
        place((tier("small"), tier("huge", memory_mib=1300.0)), gpus(1000, 800))
    assert caught.value.constraint == "memory"
    assert "tier huge needs 1300 MiB, the largest device has 1000" in caught.value.message
    assert caught.value.hint == "300 MiB are missing"


def test_tiers_larger_than_all_devices_together_say_what_is_missing() -> None:
    tiers = tuple(tier(name, memory_mib=900.0) for name in "abc")
    with pytest.raises(Infeasible) as caught:
        place(tiers, gpus(1000, 1000))
    assert caught.value.constraint == "memory"
    assert "needs 2700 MiB, all devices together have 2000" in caught.value.message
    assert caught.value.hint == "700 MiB are missing"


def test_tiers_that_cannot_be_packed_are_infeasible() -> None:
    # 1,800 of 2,000 MiB, but no device takes two.
    tiers = tuple(tier(name, memory_mib=600.0) for name in "abc")
    with pytest.raises(Infeasible) as caught:
        place(tiers, gpus(1000, 1000))
    assert caught.value.constraint == "memory"
    assert "the 3 tiers do not fit together into 2000 MiB on 2 device(s)" in caught.value.message


GOOD = (
    (tier("first", ms=1.0, utilization=0.5), tier("second", reach=0.5, ms=2.0, utilization=0.5)),
    gpus(1000, 1000),
)


@pytest.fixture(scope="module")
def good() -> Solution:
    return place(*GOOD)


def changed_cell(values: Array, i: int, g: int, value: float) -> Array:
    copy = values.copy()
    copy[i, g] = value
    return copy


def test_verify_finds_nothing_wrong_with_a_solution(good: Solution) -> None:
    assert verify(*GOOD, good) == []


def test_verify_finds_memory_that_is_not_there(good: Solution) -> None:
    broken = replace(good, count=changed_cell(good.count, 0, 1, 30))
    assert any("device 1: " in p and "MiB placed on 1000 MiB" in p for p in verify(*GOOD, broken))


def test_verify_finds_a_device_that_is_too_busy(good: Solution) -> None:
    count = np.full((2, 2), 4)
    broken = replace(good, count=count, busy=changed_cell(good.busy, 1, 0, 3.0))
    assert any("device 0: busy share" in problem for problem in verify(*GOOD, broken))


def test_verify_finds_a_tier_without_a_home(good: Solution) -> None:
    broken = replace(good, count=np.array([[1, 1], [0, 0]]), busy=np.zeros((2, 2)), rate_rps=0.0)
    assert verify(*GOOD, broken) == ["tier second: has no instance"]


def test_verify_finds_more_busy_instances_than_there_are(good: Solution) -> None:
    count = changed_cell(np.ones((2, 2), np.int64), 1, 1, 0)
    busy = np.array([[0.2, 0.2], [0.2, 0.2]])
    problems = verify(*GOOD, replace(good, count=count, busy=busy, rate_rps=1.0))
    assert problems == ["tier second: more busy instances than there are"]


def test_verify_finds_a_rate_that_a_tier_does_not_serve(good: Solution) -> None:
    problems = verify(*GOOD, replace(good, rate_rps=good.rate_rps * 1.01))
    assert any("tier first: serves" in problem for problem in problems)
    assert any("tier second: serves" in problem for problem in problems)


def test_a_device_without_room_is_left_empty() -> None:
    tier = TierLoad("a", 1.0, {"g": 0.001}, {"g": 0.5}, 10.0)
    assert place((tier,), (Device("g", 100), Device("g", 0))).count.tolist() == [[2, 0]]


def test_out_of_time_is_not_called_out_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "TIME_LIMIT_S", 1e-9)
    random = np.random.default_rng(0)
    tiers = tuple(
        TierLoad(
            str(number),
            1.0,
            {"g": float(random.uniform(0.001, 0.01))},
            {"g": float(random.uniform(0.1, 1.0))},
            float(random.integers(50, 300)),
        )
        for number in range(6)
    )
    with pytest.raises(Infeasible) as caught:
        place(tiers, tuple(Device("g", 3000) for _ in range(8)))
    assert caught.value.constraint == "time"


def test_what_the_solver_prints_does_not_reach_stdout(capfd: pytest.CaptureFixture[str]) -> None:
    random = np.random.default_rng(0)
    tiers = []
    for number, memory_mib in enumerate((10.0, 400.0)):
        seconds = {kind: float(random.uniform(0.0005, 0.01)) for kind in ("old", "new")}
        share = {kind: float(random.uniform(0.3, 1)) for kind in ("old", "new")}
        reach = 1.0 if number == 0 else float(random.uniform(0.05, 1))
        tiers.append(TierLoad(f"tier{number}", reach, seconds, share, memory_mib))
    with solver_output_on_stderr():
        place(tuple(tiers), (Device("old", 1700), Device("new", 1700)))
    printed = capfd.readouterr()
    assert printed.out == ""
    assert "Highs" in printed.err  # else this case shows nothing any more
