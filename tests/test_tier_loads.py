"""What the placement is told of a cascade, and what comes back from it; no model runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from cascade_tools.artifacts import (
    ExportedStage,
    Hop,
    InputSpec,
    Partition,
    PlacedInstances,
    Placement,
    Profile,
    ProfilePoint,
)
from cascade_tools.errors import ArtifactError, UsageError
from cascade_tools.planning.evaluate import threshold_policy
from cascade_tools.planning.placement.problem import Problem
from cascade_tools.spec import Cascade, load_cascade, load_devices
from cascade_tools.stages import sustained
from cascade_tools.stages.asking import ASKING
from cascade_tools.stages.sustained import placed_counts, sustained_by
from cascade_tools.stages.tier_loads import problem_of
from cascade_tools.store import Workspace

CPU = {"type": "cpu", "kind": "cpu", "cores": 4, "memory_mib": 4096, "reserved_mib": 96, "busy_watts": 5.0}
GPUS = {"type": "a", "kind": "gpu", "count": 4, "memory_mib": 8192, "reserved_mib": 192, "per_host": 2}
REACH = {"small": 1.0, "large": 0.25}
STATE = (InputSpec(name="STATE", datatype="FP32", dims=(8,)),)


def point(tier: str, batch: int, ms: float, share: float, device: str = "a", **more: Any) -> ProfilePoint:
    values: dict[str, Any] = {
        "tier": tier,
        "format": "onnx",
        "device": device,
        "batch": batch,
        "latency_p50_ms": ms,
        "latency_p99_ms": None,
        "throughput_rps": batch * 1000.0 / ms,
        "cpu_ms_per_row": None,
        "memory_mib": 100.5 + batch,
        "kernel_utilization": share,
        "energy_j": 0.2,
        "origin": "given",
        "energy_origin": "given",
    }
    return ProfilePoint(**{**values, **more})


def profile(*points: ProfilePoint, **more: Any) -> Profile:
    return Profile(
        cascade="pair", made_from={}, environment={}, points=points, **{"hop": None, "router": None, **more}
    )


def cascade(folder: Path, *devices: Mapping[str, Any], **changes: Any) -> Cascade:
    content = {
        "name": "pair",
        "tiers": [{"name": "small", "reach": 1.0}, {"name": "large", "reach": 0.25}],
        "profile": {"given": "profile.yaml"},
        "devices": "devices.yaml",
        **changes,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cascade.yaml").write_text(yaml.safe_dump(content))
    (folder / "devices.yaml").write_text(yaml.safe_dump({"devices": list(devices)}))
    return load_cascade(folder)


ON_GPUS = (point("small", 8, 4.0, 0.5), point("large", 8, 40.0, 1.0))


def test_a_tier_is_its_planned_batch(tmp_path: Path) -> None:
    points = (point("small", 1, 1.0, 0.5), point("small", 8, 4.0, 0.5), point("small", 32, 15.0, 0.5))
    problem = problem_of(cascade(tmp_path, GPUS), profile(*points, ON_GPUS[1]), {}, REACH)
    assert [tier.name for tier in problem.tiers] == ["small", "large"]
    (small,) = problem.tiers[0].variants
    assert (small.stages, small.batch) == (1, 8)
    assert small.seconds_per_row == {"a": 0.0005}
    assert small.utilization == {"a": 0.5}
    assert small.energy_j == {"a": 0.2}
    # The largest batch that Triton may send, rounded up.
    assert (small.memory_mib, small.further_mib) == (133, 133)
    assert [device.host for device in problem.devices] == [0, 0, 1, 1]
    assert {device.memory_mib for device in problem.devices} == {8000}
    assert (problem.rule, problem.closure, problem.goal.rate_rps) == ("loose", "pool", None)


def test_another_batch_is_offered_where_a_row_is_less_work(tmp_path: Path) -> None:
    # 8 has 80 % of the best throughput; at 32 a row takes 15 % less, at 1 half, but much more time.
    points = (point("small", 1, 2.0, 0.1), point("small", 8, 4.0, 0.8), point("small", 32, 13.6, 0.8))
    pair = cascade(tmp_path, GPUS)
    found = problem_of(pair, profile(*points, ON_GPUS[1]), {}, REACH)
    assert [variant.batch for variant in found.tiers[0].variants] == [8, 32]
    strict = cascade(tmp_path, GPUS, placement={"rule": "strict"})
    found = problem_of(strict, profile(*points, ON_GPUS[1]), {}, REACH)
    assert found.rule == "strict"
    assert [variant.batch for variant in found.tiers[0].variants] == [8, 1]


def test_shared_memory_is_held_once(tmp_path: Path) -> None:
    points = (point("small", 8, 4.0, 0.5, shared_mib=50.0), ON_GPUS[1])
    (small,) = problem_of(cascade(tmp_path, GPUS), profile(*points), {}, REACH).tiers[0].variants
    assert small.held_mib(1) - small.further_mib == 50
    assert small.held_mib(3) == small.memory_mib + 2 * small.further_mib


def partition(weights_mib: tuple[float, ...], time_ms: tuple[float, ...], whole_ms: float) -> Partition:
    return Partition(
        stages=tuple(
            ExportedStage(
                number=number,
                file=f"export/large_s{number}.onnx",
                sha256="",
                inputs=STATE,
                outputs=STATE,
                weights_mib=mib,
                time_ms=ms,
                crossing_bytes=32,
            )
            for number, (mib, ms) in enumerate(zip(weights_mib, time_ms, strict=True), start=1)
        ),
        batch=8,
        whole_ms=whole_ms,
        balance=1.0,
        label_mismatches=0,
        confidence_error=0.0,
    )


CUT = partition((30.0, 40.0), (6.0, 5.0), 10.0)


def test_a_stage_is_as_slow_as_the_slowest_and_as_large_as_the_largest(tmp_path: Path) -> None:
    problem = problem_of(cascade(tmp_path, GPUS), profile(*ON_GPUS), {"large": CUT}, REACH)
    (whole,) = problem_of(cascade(tmp_path, GPUS), profile(*ON_GPUS), {}, REACH).tiers[1].variants
    (large,) = problem.tiers[1].variants
    assert (large.stages, large.batch, large.utilization) == (2, 8, whole.utilization)
    assert large.seconds_per_row["a"] == pytest.approx(0.6 * whole.seconds_per_row["a"])
    assert large.memory_mib == whole.memory_mib - 30
    assert large.energy_j["a"] * 2 == pytest.approx(1.1 * whole.energy_j["a"])


def test_on_a_cpu_asking_is_a_load_before_the_tiers_and_the_rule_is_loose(tmp_path: Path) -> None:
    points = (point("small", 8, 4.0, 0.2, "cpu"), point("large", 8, 40.0, 0.25, "cpu"))
    hop = Hop(latency_ms=0.5, cpu_ms=0.4, step_ms=0.06, origin="measured")
    spec = cascade(tmp_path, CPU, placement={"rule": "strict"})
    problem = problem_of(spec, profile(*points, hop=hop), {}, REACH)
    assert [tier.name for tier in problem.tiers] == [ASKING, "small", "large"]
    (asking,) = problem.tiers[0].variants
    # One instance is all four cores.
    assert asking.seconds_per_row["cpu"] == pytest.approx(1.25 * 0.0004 / 4)
    assert asking.utilization["cpu"] == 1.0
    assert asking.energy_j["cpu"] == pytest.approx(5.0 * 1.25 * 0.0004)
    assert asking.held_mib(3) == 0
    assert problem.rule == "loose"


def test_energy_that_is_not_known_cannot_be_minimised(tmp_path: Path) -> None:
    spec = cascade(tmp_path, GPUS, placement={"objective": {"rate_rps": 10, "minimise": "energy"}})
    unknown = point("large", 8, 40.0, 1.0, energy_j=None, energy_origin=None)
    with pytest.raises(UsageError) as caught:
        problem_of(spec, profile(ON_GPUS[0], unknown), {}, REACH)
    assert "cascade.yaml: placement.objective.minimise: energy" in caught.value.message
    assert "tier large on a" in caught.value.message


@pytest.mark.parametrize(
    ("device", "words"),
    [
        ({**CPU, "per_host": 2}, "'per_host' is for kind gpu"),
        ({**CPU, "idle_watts": 2}, "'idle_watts' is for kind gpu"),
        ({**GPUS, "per_host": 0}, "devices.0.per_host"),
        ({**GPUS, "idle_watts": -1}, "devices.0.idle_watts"),
    ],
)
def test_a_device_that_is_wrong_is_named(tmp_path: Path, device: Mapping[str, Any], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_devices(cascade(tmp_path, device))
    assert words in caught.value.message


def test_the_cpu_is_in_the_first_host(tmp_path: Path) -> None:
    points = (*ON_GPUS, point("small", 8, 4.0, 0.2, "cpu"), point("large", 8, 40.0, 0.2, "cpu"))
    problem = problem_of(cascade(tmp_path, CPU, GPUS), profile(*points), {}, REACH)
    assert [device.host for device in problem.devices] == [0, 0, 0, 1, 1]


def placement(*instances: PlacedInstances) -> Placement:
    return Placement(
        cascade="pair",
        made_from={},
        rate_rps=1.0,
        bound_rps=1.0,
        gap=0.0,
        status="optimal",
        giant_only_rps=None,
        batch={"small": 8, "large": 8},
        devices=(),
        instances=instances,
    )


def placed(tier: str, device: int, count: int, **more: Any) -> PlacedInstances:
    return PlacedInstances(tier=tier, device=device, count=count, busy_instances=0.0, **more)


def test_a_placement_sustains_what_its_instances_can_do(tmp_path: Path) -> None:
    work = Workspace(cascade(tmp_path, GPUS), tmp_path / "build")
    # One busy instance of `large` does 200 rows/s, of `small` 2,000.
    made = placement(placed("small", 0, 1), placed("large", 1, 1), placed("large", 2, 1))
    rate = sustained_by(work, profile(*ON_GPUS), made)
    assert rate(REACH, None) == pytest.approx(1600.0)
    assert rate({"small": 1.0, "large": 0.1}, None) == pytest.approx(2000.0)


@pytest.mark.parametrize(("cuts", "skips"), [((0.5,), False), (None, True)])
def test_a_policy_is_rated_by_its_own_routes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cuts: tuple[float, ...] | None, skips: bool
) -> None:
    asked = []

    def seen(*args: Any, **more: Any) -> Problem:
        asked.append(more["skips"])
        return problem_of(*args, **more)

    monkeypatch.setattr(sustained, "problem_of", seen)
    work = Workspace(cascade(tmp_path, GPUS), tmp_path / "build")
    made = placement(placed("small", 0, 1), placed("large", 1, 1))
    table = None if cuts is None else threshold_policy(("small", "large"), cuts)
    assert sustained_by(work, profile(*ON_GPUS), made)(REACH, table) > 0.0
    assert asked == [skips]


def test_stages_count_where_they_are(tmp_path: Path) -> None:
    work = Workspace(cascade(tmp_path, GPUS), tmp_path / "build")
    problem = problem_of(work.cascade, profile(*ON_GPUS), {"large": CUT}, REACH)
    staged = placement(placed("large", 0, 2, stages=2, stage=1), placed("large", 1, 3, stages=2, stage=2))
    assert placed_counts(work, problem, staged).tolist() == [[0] * 4, [2, 0, 0, 0], [0, 3, 0, 0]]
    # A tier that was placed whole has all its stages there.
    whole = placement(placed("large", 1, 1))
    assert placed_counts(work, problem, whole).tolist() == [[0] * 4, [0, 1, 0, 0], [0, 1, 0, 0]]


@pytest.mark.parametrize("change", [{"batch": 16}, {"stages": 3}, {"device": 4}])
def test_a_placement_of_something_else_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    work = Workspace(cascade(tmp_path, GPUS), tmp_path / "build")
    problem = problem_of(work.cascade, profile(*ON_GPUS), {}, REACH)
    other = placed("large", 0, 1).model_copy(update=change)
    with pytest.raises(ArtifactError) as caught:
        placed_counts(work, problem, placement(other))
    assert "placement.json: places large otherwise" in caught.value.message
    assert "cascade-tools place" in caught.value.hint
