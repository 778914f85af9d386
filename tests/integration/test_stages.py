"""A tier in two stages on a real Triton: its clients and the router notice nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import yaml
from tritonclient.utils import InferenceServerException

from cascade_tools.artifacts import Exported, GearPlan
from cascade_tools.models.usercode import Rows
from cascade_tools.repository.manifest import models_of, read_manifest
from cascade_tools.serving.embedded import embedded_triton
from cascade_tools.spec import load_cascade
from cascade_tools.stages.build_repo import build_repo
from cascade_tools.stages.export import EXPORTED_FILE
from cascade_tools.stages.gears import GEARS_FILE
from cascade_tools.stages.pipeline import STAGES, run_stage
from cascade_tools.stages.progress import Reporter
from cascade_tools.store import Workspace

from .helpers import INPUT, Client, alone, plan_path, stubs, to_bytes, wait_until, with_policies

STAGED = "kernel"
MODELS = ("small_kernel_s1of2", "small_kernel_s2of2")


@pytest.fixture
def work(copied: Workspace, report: Reporter) -> Workspace:
    """The small cascade with its last tier in two stages; profile, policy and placement as they were."""
    path = copied.cascade.folder / "cascade.yaml"
    content = yaml.safe_load(path.read_text())
    content["tiers"][-1]["stages"] = 2
    path.write_text(yaml.safe_dump(content))
    staged = Workspace(load_cascade(copied.cascade.folder), copied.build)
    run_stage("export", staged, report)
    run_stage("gears", staged, report)
    return staged


def test_a_tier_in_stages_answers_as_it_did_whole(
    triton: None, work: Workspace, report: Reporter, rows: Rows, tiers: tuple[Any, Any, Any]
) -> None:
    exported = work.load(EXPORTED_FILE, Exported, "export")
    assert [tier.tier for tier in exported.tiers if tier.partition] == [STAGED]
    assert next(stage for stage in STAGES if stage.name == "export").state(work) == "fresh"
    repository = build_repo(work, "embedded", check=False, report=report)
    assert set(MODELS) < set(models_of(repository, read_manifest(repository)))
    assert not list((repository / "small_kernel").rglob("*.onnx"))
    plan = with_policies(work.load(GEARS_FILE, GearPlan, "gears"), (alone(STAGED), None))
    plan_path(repository).write_bytes(to_bytes(plan))
    pixels = rows.inputs[INPUT][:24]
    label, confidence, probabilities = (values[:24, -1] for values in tiers)
    with embedded_triton(repository, keep=True) as server, Client(server, "grpc") as client:
        for start in range(0, 24, 8):
            part = slice(start, start + 8)
            answer = client.ask(pixels[part])
            assert answer["LABEL"].tolist() == label[part].tolist()
            np.testing.assert_allclose(answer["CONFIDENCE"], confidence[part], atol=1e-5)
            np.testing.assert_allclose(answer["PROBS"], probabilities[part], atol=1e-5)
            assert answer["TIER"].tolist() == [2] * 8
            assert answer["FLAGS"].tolist() == [0] * 8
        assert "asked through the server" not in server.log.read_text()

        # A stage that dies is revived like any model; the ensemble itself has no process that could die.
        dead = stubs(server, MODELS[1])
        assert dead
        for stub in dead:
            stub.kill()
        wait_until(lambda: answers(client, pixels[:1]), "the stage is revived")


def answers(client: Client, pixels: Any) -> bool:
    """The cascade answers without a fallback."""
    try:
        return bool(client.ask(pixels)["FLAGS"].tolist() == [0])
    except InferenceServerException:
        return False
