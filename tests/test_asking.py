"""What planning counts for the router's host: its CPU, its processes one after another, the giant alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from cascade_tools.artifacts import Hop, PolicyTable, Profile, ProfilePoint, RouterCost, WorkCost
from cascade_tools.planning.placement.balance import balance
from cascade_tools.planning.placement.verify import verify
from cascade_tools.spec import Cascade, load_cascade
from cascade_tools.stages.asking import (
    APART,
    ASKING,
    NO_COST,
    NO_CPU,
    asking_of,
    has_skips,
)
from cascade_tools.stages.lost import what_is_left
from cascade_tools.stages.placed import Named, energy_per_row, placement_of, planned
from cascade_tools.stages.row_cost import row_cost
from cascade_tools.stages.tier_loads import problem_of

CPU = {"type": "cpu", "kind": "cpu", "cores": 4, "memory_mib": 4096}
GPUS = {"type": "gpu", "kind": "gpu", "count": 2, "memory_mib": 8192}
HOP = Hop(latency_ms=0.5, cpu_ms=0.4, step_ms=0.06, origin="measured")
REACH = {"quick": 1.0, "giant": 0.25}
FRONT_MS = 0.3
ROUTER = RouterCost(
    router=WorkCost(batch_ms=0.8, request_ms=0.2, call_ms=0.1, late_ms=0.8),
    server=WorkCost(request_ms=FRONT_MS, call_ms=0.4),
    client=WorkCost(request_ms=9.0),
    rest_ms=(0.0,),
    origin="measured",
)


def point(tier: str, ms: float, device: str = "cpu", batch: int = 1, **more: Any) -> ProfilePoint:
    values: dict[str, Any] = {
        "tier": tier,
        "format": "onnx",
        "device": device,
        "batch": batch,
        "latency_p50_ms": ms,
        "latency_p99_ms": None,
        "throughput_rps": batch * 1000.0 / ms,
        "cpu_ms_per_row": None,
        "memory_mib": 100.0,
        "kernel_utilization": 0.25,
        "energy_j": None,
        "origin": "given",
        "energy_origin": None,
    }
    return ProfilePoint(**{**values, **more})


# At batch 8 `quick` has far the best throughput: that is the planned batch of the entry.
QUICK = (point("quick", 0.1), point("quick", 0.16, batch=8))
ON_CPU = (*QUICK, point("giant", 10.0))
ON_BOTH = (*ON_CPU, point("quick", 0.1, "gpu"), point("quick", 0.16, "gpu", 8), point("giant", 1.0, "gpu"))


def profile(*points: ProfilePoint, hop: Hop | None = HOP, router: RouterCost | None = ROUTER) -> Profile:
    return Profile(cascade="pair", made_from={}, environment={}, points=points, hop=hop, router=router)


def cascade(folder: Path, *devices: Mapping[str, Any], **changes: Any) -> Cascade:
    content = {
        "name": "pair",
        "tiers": [{"name": "quick", "reach": 1.0}, {"name": "giant", "reach": 0.25}],
        "profile": {"given": "profile.yaml"},
        "devices": "devices.yaml",
        **changes,
    }
    (folder / "cascade.yaml").write_text(yaml.safe_dump(content))
    (folder / "devices.yaml").write_text(yaml.safe_dump({"devices": list(devices)}))
    return load_cascade(folder)


@pytest.mark.parametrize(("to", "skips"), [((1, -1), False), ((2, -1), True)])
def test_a_policy_says_whether_it_skips(to: tuple[int, int], skips: bool) -> None:
    routes = [{"cuts": [0.5], "to": to}, {"cuts": [0.5], "to": (2, -1)}, {"cuts": [], "to": (-1,)}]
    assert has_skips(PolicyTable.model_validate({"tiers": ("a", "b", "c"), "routes": routes})) is skips


def test_one_process_of_the_router_caps_the_rate_however_many_cores_there_are(tmp_path: Path) -> None:
    wide = {**CPU, "cores": 64}
    made = {}
    cost = row_cost(profile(*ON_CPU), REACH, 32, ("cpu",), may_be_inline=True, skips=False)
    for instances in (1, 2):
        spec = cascade(tmp_path, wide, serving={"router_instances": instances})
        asked = asking_of(spec, profile(*ON_CPU), REACH, skips=False)
        # Tiers that take nearly none of the cores: nothing but the router bounds the rate.
        problem = problem_of(spec, profile(*ON_CPU), {}, REACH, skips=False)
        light = (
            replace(tier, variants=(replace(tier.variants[0], utilization={"cpu": 1e-3}),))
            for tier in problem.tiers[1:]
        )
        problem = replace(problem, tiers=(problem.tiers[0], *light))
        rate, busy = balance(problem, np.array([[1], [500], [500]]))
        assert asked.router_rps == pytest.approx(instances * 1000.0 / cost.serial_ms)
        assert rate == pytest.approx(asked.router_rps)
        # The router keeps as many cores busy as its CPU time says, and no more.
        share = problem.tiers[0].variants[0].utilization["cpu"] * busy[0, 0]
        assert share == pytest.approx(rate * cost.cpu_ms / 1000.0 / 64)
        made[instances] = rate
    assert made[2] == pytest.approx(2.0 * made[1])


def test_the_giant_alone_passes_the_front_end_and_no_router(tmp_path: Path) -> None:
    points = (*QUICK, point("giant", 1.0))
    spec = cascade(tmp_path, CPU)
    found = planned(problem_of(spec, profile(*points), {}, REACH, skips=False), keep_giant=True)
    assert found.giant_alone is not None
    # Four cores, one millisecond of the giant and the front end's part on each row.
    assert found.giant_alone.rate_rps == pytest.approx(4000.0 / (1.0 + FRONT_MS))
    without = planned(problem_of(spec, profile(*points, router=None), {}, REACH, skips=False))
    assert without.giant_alone is not None
    assert without.giant_alone.rate_rps == pytest.approx(4000.0)
    assert without.solution.rate_rps > found.solution.rate_rps


@pytest.mark.parametrize("rule", ["loose", "strict"])
def test_the_host_counts_beside_gpus_by_either_rule(tmp_path: Path, rule: str) -> None:
    spec = cascade(tmp_path, CPU, GPUS, placement={"rule": rule})
    problem = problem_of(spec, profile(*ON_BOTH), {}, REACH, skips=False)
    assert [tier.name for tier in problem.tiers] == [ASKING, "quick", "giant"]
    found = planned(problem)
    assert verify(problem, found.solution) == []
    # The GPUs alone would do ten times as much as the router lets through.
    router_rps = asking_of(spec, profile(*ON_BOTH), REACH, skips=False).router_rps
    assert found.solution.rate_rps == pytest.approx(router_rps, rel=1e-3)
    made = placement_of(found, [Named("cpu", 4096), Named("gpu", 8192), Named("gpu", 8192)], "pair", {})
    assert set(made.batch) == {"quick", "giant"}
    assert {placed.tier for placed in made.instances} == {"quick", "giant"}
    lost = {(entry.what, number): entry for entry in made.losses for number in entry.which}
    assert lost["device", 0].rate_rps is None, "without the router nothing is served"
    elsewhere = {placed.tier for placed in made.instances if placed.device != 1}
    assert (lost["device", 1].rate_rps is not None) == bool(elsewhere)


def test_without_any_tier_left_the_router_serves_nothing(tmp_path: Path) -> None:
    spec = cascade(tmp_path, CPU, {**GPUS, "count": 1})
    problem = problem_of(spec, profile(*ON_BOTH), {}, REACH, skips=False)
    count = np.array([[1, 0], [0, 1], [0, 1]])
    rate, busy = balance(problem, count)
    solution = replace(planned(problem).solution, count=count, busy=busy, rate_rps=rate)
    (gpu,) = (lost for lost in what_is_left(problem, solution) if (lost.what, lost.which) == ("device", (1,)))
    assert (gpu.rate_rps, gpu.homeless) == (None, ("quick", "giant"))


@pytest.mark.parametrize(
    ("devices", "closure", "known", "note"),
    [
        ((GPUS,), "pool", True, NO_CPU),
        ((CPU, {**GPUS, "per_host": 1}), "host", True, APART),
        ((CPU, GPUS), "host", True, ""),
        ((CPU, GPUS), "pool", False, NO_COST),
        ((CPU, GPUS), "pool", True, ""),
    ],
)
def test_what_is_not_counted_is_said(
    tmp_path: Path, devices: tuple[Mapping[str, Any], ...], closure: str, known: bool, note: str
) -> None:
    spec = cascade(tmp_path, *devices, placement={"closure": closure})
    costs = profile(*ON_BOTH, router=ROUTER if known else None)
    found = asking_of(spec, costs, REACH, skips=False)
    assert found.note == note
    assert (found.load is None) == (note in (NO_CPU, APART))
    if not known:
        assert found.load is not None
        assert found.load.alone is None
        assert found.router_rps is None


def test_closure_host_holds_with_the_router_in_the_only_host(tmp_path: Path) -> None:
    spec = cascade(tmp_path, CPU, GPUS, placement={"closure": "host"})
    problem = problem_of(spec, profile(*ON_BOTH), {}, REACH, skips=False)
    found = planned(problem)
    assert verify(problem, found.solution) == []
    assert found.solution.count[0].tolist() == [1, 0, 0]
    assert found.giant_alone is not None


def test_energy_is_known_of_the_tiers_where_nothing_is_known_of_asking(tmp_path: Path) -> None:
    known: dict[str, Any] = {"energy_j": 0.2, "energy_origin": "given"}
    points = (point("quick", 0.16, batch=8, **known), point("giant", 10.0, **known))
    found = planned(problem_of(cascade(tmp_path, CPU), profile(*points), {}, REACH, skips=False))
    assert energy_per_row(found.problem, found.solution) == pytest.approx(1.25 * 0.2)
    watts = cascade(tmp_path, {**CPU, "busy_watts": 5.0})
    problem = problem_of(watts, profile(*points), {}, REACH, skips=False)
    asking_ms = row_cost(profile(*points), REACH, 32, ("cpu",), may_be_inline=True, skips=False).cpu_ms
    with_asking = energy_per_row(problem, planned(problem).solution)
    assert with_asking == pytest.approx(1.25 * 0.2 + 5.0 * asking_ms / 1000.0)


@pytest.mark.parametrize("cores", [4, 64])
def test_the_giant_alone_takes_the_energy_of_the_front_end_and_of_no_router(
    tmp_path: Path, cores: int
) -> None:
    known: dict[str, Any] = {"energy_j": 0.2, "energy_origin": "given"}
    points = (point("quick", 0.16, batch=8, **known), point("giant", 10.0, **known))
    spec = cascade(tmp_path, {**CPU, "cores": cores, "busy_watts": 5.0})
    found = planned(problem_of(spec, profile(*points), {}, REACH, skips=False))
    made = placement_of(found, [Named("cpu", 4096)], "pair", {})
    assert made.giant_energy_j == pytest.approx(0.2 + 5.0 * FRONT_MS / 1000.0)
