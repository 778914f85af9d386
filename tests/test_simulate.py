"""A system from artifacts, the verb `simulate`, and what the router's costs are worked out from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cascade_tools.artifacts import (
    Exported,
    GearPlan,
    Hop,
    PlacedDevice,
    PlacedInstances,
    Placement,
    Profile,
    ProfilePoint,
    RouterCost,
    ScoreTable,
    WorkCost,
)
from cascade_tools.cli.arrivals import Load
from cascade_tools.errors import ArtifactError
from cascade_tools.planning.simulator.system import Loss, Work
from cascade_tools.resources import shipped_cascade
from cascade_tools.stages.simulated import recorded_of, system_of
from cascade_tools.store import Workspace, save_score_table
from tests.cli_calls import assert_refused, call
from tests.helpers import plan_content, spec_content, write_cascade

DEVICES = """
    devices:
      - {type: cpu, kind: cpu, cores: 2, memory_mib: 4096}
      - {type: g, kind: gpu, count: 2, memory_mib: 8192}
"""


def _point(tier: str, device: str, batch: int, time_ms: float) -> ProfilePoint:
    return ProfilePoint(
        tier=tier,
        format="onnx",
        device=device,
        batch=batch,
        latency_p50_ms=time_ms,
        latency_p99_ms=None,
        throughput_rps=1000.0 * batch / time_ms,
        cpu_ms_per_row=None,
        memory_mib=1.0,
        kernel_utilization=0.5,
        energy_j=0.25,
        origin="measured",
        energy_origin="measured",
    )


@pytest.fixture
def work(tmp_path: Path) -> Workspace:
    """A pair: the small tier on the CPU, the large one on two GPUs."""
    spec = spec_content() | {"serving": {"max_batch_size": 8}}
    cascade = write_cascade(tmp_path / "pair", spec, {"devices.yaml": DEVICES})
    made = Workspace(cascade, tmp_path / "build" / "pair")
    common: dict[str, Any] = {"cascade": "pair", "made_from": {}}
    points = [_point("small", "cpu", b, 0.1 * b) for b in (1, 8)]
    points += [_point("large", kind, b, 2.0 + b) for kind in ("cpu", "g") for b in (1, 8)]
    cost = RouterCost(
        router=WorkCost(batch_ms=0.5, request_ms=0.1, call_ms=0.3, late_ms=0.1),
        server=WorkCost(batch_ms=0.1, request_ms=0.1, call_ms=0.7, late_ms=0.1),
        client=WorkCost(batch_ms=0.2, request_ms=0.1),
        rest_ms=(0.2, 0.4),
        origin="measured",
    )
    hop = Hop(latency_ms=0.5, cpu_ms=0.6, step_ms=0.05, origin="measured")
    made.save("profile.json", Profile(environment={}, points=tuple(points), hop=hop, router=cost, **common))
    devices = [("cpu", "cpu", None), ("g", "gpu", 0), ("g", "gpu", 1)]
    placement = Placement(
        rate_rps=1.0,
        bound_rps=1.0,
        gap=0.0,
        status="optimal",
        giant_only_rps=None,
        batch={},
        devices=tuple(
            PlacedDevice(type=t, kind=k, gpu=g, memory_mib=1, used_memory_mib=0.0, busy_share=0.0)
            for t, k, g in devices
        ),
        instances=tuple(
            PlacedInstances(tier=tier, device=device, count=count, busy_instances=0.0)
            for tier, device, count in (("small", 0, 1), ("large", 1, 2), ("large", 2, 1))
        ),
        **common,
    )
    made.save("placement.json", placement)
    plan = plan_content(("small", "large")) | {"cascade": "pair"}
    plan["ladder"][1]["p50_ms"] = 3.0
    plan["limits"]["max_batch_size"] = 8
    made.save("gear_plan.json", GearPlan.model_validate(plan))
    made.save("exported.json", Exported(tiers=(), environment={}, **common))
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, (300, 2))
    table = ScoreTable(
        tiers=("small", "large"),
        confidence=rng.random((300, 2)).astype(np.float32),
        label=label,
        target=label[:, 1],
        group=np.arange(300),
        split=np.where(np.arange(300) < 100, "fit", "verify"),
    )
    save_score_table(made.path("scores.npz"), table)
    return made


def test_a_system_is_what_the_artifacts_say(work: Workspace) -> None:
    system = system_of(work, client_here=True)
    small, large = system.tiers
    assert (small.local, large.local) == (True, False)
    assert (small.ask_ms, large.ask_ms, large.ask_cpu_ms) == (0.05, 0.7, 0.7)
    assert small.instances == ((0,),) and large.instances == ((1, 1, 2),)
    assert small.service["cpu"].time_ms[[0, 7]].tolist() == pytest.approx([0.1, 0.8])
    assert large.service["g"].time_ms[[0, 7]].tolist() == pytest.approx([3.0, 10.0])
    energy = large.service["g"].energy_j
    assert energy is not None and energy[[0, 7]].tolist() == pytest.approx([0.25, 2.0])
    router = system.router
    assert (router.device, router.cores, router.max_batch_size) == (0, 2, 8)
    assert router.own == Work(0.5, 0.1, 0.3, 0.1) and router.server.call_ms == 0.7
    assert (router.client.batch_ms, router.client_here, router.rest_ms) == (0.2, True, (0.2, 0.4))
    assert recorded_of(work).confidence.shape == (200, 2)


def test_a_batch_takes_what_it_took_when_run_once(work: Workspace) -> None:
    profile = work.load("profile.json", Profile, "profile")
    # The hop is .5 ms: what the server counted beyond that is the model's, run once and not again and again.
    # The least of all batch sizes counts; a batch that was not repeated (overhead 0) has it already.
    overheads = {("small", 1): 1.9, ("small", 8): 0.8, ("large", 1): 1.7}
    points = tuple(
        point.model_copy(update={"overhead_ms": overheads.get((point.tier, point.batch), 0.0)})
        for point in profile.points
    )
    work.save("profile.json", profile.model_copy(update={"points": points}))
    small, large = system_of(work).tiers
    assert small.service["cpu"].time_ms[[0, 7]].tolist() == pytest.approx([0.1 + 0.3, 0.8 + 0.3])
    assert large.service["g"].time_ms[[0, 7]].tolist() == pytest.approx([3.0 + 1.2, 10.0])


def test_long_work_on_a_cpu_lets_short_work_pass(work: Workspace) -> None:
    assert [tier.weight for tier in system_of(work).tiers] == [1.0, 1.0]
    placement = work.load("placement.json", Placement, "place")
    moved = [placed.model_copy(update={"device": 0}) for placed in placement.instances]
    work.save("placement.json", placement.model_copy(update={"instances": tuple(moved)}))
    assert [tier.weight for tier in system_of(work).tiers] == pytest.approx([1.0, 1.25**-5])


def test_stages_are_where_they_are_placed(work: Workspace) -> None:
    whole = work.load("placement.json", Placement, "place")
    cut = [
        PlacedInstances(tier="large", stages=2, stage=stage, device=device, count=count, busy_instances=0.0)
        for stage, device, count in ((1, 1, 1), (2, 2, 2))
    ]
    work.save("placement.json", whole.model_copy(update={"instances": (whole.instances[0], *cut)}))
    large = system_of(work).tiers[1]
    assert large.instances == ((1,), (2, 2)) and large.stage_shares == ()


def test_the_verb_says_what_is_simulated(work: Workspace) -> None:
    arguments = ["simulate", str(work.cascade.folder), "--build-dir", str(work.build.parent)]
    done = call(*arguments, "--rate", "300", "--seconds", "5", "--slo-ms", "20", "--json")
    assert done.code == 0 and "pair, simulated" in done.out
    found = done.content
    table = recorded_of(work)
    share = float((table.confidence[:, 0] >= 0.5).mean())
    assert found["simulated"] is True and found["refused"] == found["failed"] == 0
    assert found["shares"]["small"] == pytest.approx(share, abs=0.05)
    assert found["asked"]["large"] == pytest.approx((1.0 - share) * found["requests"], rel=0.1)
    assert found["warnings"] == []
    assert found["energy_figures"] == "measured"
    answers = found["requests"] - found["refused"] - found["failed"]
    assert found["dynamic_j_per_answer"] == pytest.approx(found["dynamic_j"] / answers)
    assert f"simulated from measured figures: {found['dynamic_j']:.1f} J" in done.out
    assert "J per answer" in done.out
    # Losing one GPU leaves the large tier one instance; losing both leaves it none.
    lost = call(
        *arguments, "--rate", "50", "--seconds", "4", "--lose", "1@1", "--lose", "2@2", "--json"
    ).content
    assert lost["accuracy"] < found["accuracy"]
    assert 0.0 < lost["shares"]["large"] < found["shares"]["large"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rate", "5", "--lose", "0@1"], "--lose 0@1: that device runs the router"),
        (["--rate", "5", "--lose", "7@1"], "--lose 7@1: the plan has devices 0 to 2"),
        (["--rate", "5", "--lose", "x"], "--lose x: must be DEVICE@SECONDS"),
        (["--rate", ".01", "--seconds", ".01"], "--rate 0.01 --seconds 0.01: nothing arrives"),
        (
            ["--rate", "1", "--arrivals", "on-off", "--seconds", "864000", "--period", ".01"],
            "--period 0.01: 864000 s are more than 1000000 of it",
        ),
    ],
)
def test_a_mistake_is_one_message(work: Workspace, options: list[str], message: str) -> None:
    done = call("simulate", str(work.cascade.folder), "--build-dir", str(work.build.parent), *options)
    assert done.code == 2 and message in done.err


def test_the_verb_simulates_the_load_that_replay_sends(work: Workspace) -> None:
    load = Load(rate=80.0, arrivals="spike", low_rate=10.0, period=2.0, seconds=6.0, window="1:5", seed=3)
    arrival_s, words = load.made()
    options = ["--rate", 80, "--arrivals", "spike", "--low-rate", 10, "--period", 2, "--seconds", 6]
    arguments = ["simulate", work.cascade.folder, "--build-dir", work.build.parent, *options]
    done = call(*arguments, "--window", "1:5", "--seed", 3, "--json")
    assert done.code == 0, done.err
    assert (done.content["requests"], done.content["arrivals"]) == (len(arrival_s), words)


def test_a_cascade_without_models_is_told_apart_from_one_without_gears(tmp_path: Path) -> None:
    folder = shipped_cascade("vit-cluster")
    done = call("simulate", folder, "--build-dir", tmp_path, "--rate", 5)
    assert_refused(done, 2, "vit-cluster: has no models", "cascade-tools place")


def test_a_missing_artifact_names_the_verb(work: Workspace) -> None:
    work.path("gear_plan.json").unlink()
    with pytest.raises(ArtifactError) as caught:
        system_of(work, (Loss(1.0, 1),))
    assert "gears" in caught.value.hint
