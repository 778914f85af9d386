"""Tiers in other formats on the embedded Triton: a torch program and a graph in half precision."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from cascade_tools.artifacts import Exported, GearPlan, PolicyTable, Route
from cascade_tools.models.served import open_exported
from cascade_tools.models.usercode import Rows, load_rows
from cascade_tools.repository.manifest import PLAN_FILE
from cascade_tools.runtime.policy import ANSWER
from cascade_tools.serving.embedded import embedded_triton
from cascade_tools.spec import load_cascade
from cascade_tools.stages.build_repo import build_repo
from cascade_tools.stages.calibrate import CALIBRATION_FILE
from cascade_tools.stages.export import EXPORTED_FILE, export
from cascade_tools.stages.gears import GEARS_FILE
from cascade_tools.stages.place import PLACEMENT_FILE
from cascade_tools.stages.progress import Reporter
from cascade_tools.store import Workspace

from ..cli_calls import forgotten_user_code
from .helpers import INPUT, MODEL, Client, predict

FORMATS = {"near": "pt2", "linear": "onnx_fp16"}
TIERS = tuple(FORMATS)
BATCH = 8


@pytest.fixture
def mixed(small: Workspace, plan: GearPlan, report: Reporter, tmp_path: Path) -> Workspace:
    """The small cascade without its last tier, exported in two formats, with a policy that uses both."""
    folder, build = tmp_path / "cascade", tmp_path / "build" / MODEL
    shutil.copytree(small.cascade.folder, folder)
    content = yaml.safe_load((folder / "cascade.yaml").read_text())
    content["tiers"] = [
        {**entry, "format": FORMATS[entry["name"]]} for entry in content["tiers"] if entry["name"] in FORMATS
    ]
    (folder / "cascade.yaml").write_text(yaml.safe_dump(content))
    build.mkdir(parents=True)
    for name in (CALIBRATION_FILE, "scores.npz", PLACEMENT_FILE):
        shutil.copy(small.path(name), build / name)
    work = Workspace(load_cascade(folder), build)
    with forgotten_user_code():
        export(work, {}, report)
    exported = work.load(EXPORTED_FILE, Exported, "export")
    ladder = tuple(
        info.model_copy(update={"sha256": exported.tier(info.tier).digest})
        for info in plan.ladder
        if info.tier in FORMATS
    )
    scores = open_exported(work.path("export/near.pt2"), "pt2").run(["CONFIDENCE"], _validation(small))[0]
    policy = PolicyTable(
        tiers=TIERS,
        routes=(
            Route(cuts=(float(np.median(scores)),), to=(1, ANSWER)),
            Route(cuts=(), to=(ANSWER,)),
        ),
    )
    gear = plan.gears[0].model_copy(update={"policy": policy, "up_to_rps": None})
    work.save(GEARS_FILE, plan.model_copy(update={"ladder": ladder, "gears": (gear,), "fallbacks": ()}))
    return work


def _validation(work: Workspace) -> dict[str, Any]:
    with forgotten_user_code():
        return load_rows(work.cascade, "validation").inputs


def test_a_torch_program_and_a_graph_in_half_precision_answer_as_the_policy_says(
    triton: None, mixed: Workspace, rows: Rows, report: Reporter, tmp_path: Path
) -> None:
    repository = build_repo(mixed, "embedded", check=False, report=report)
    assert {path.name for path in repository.glob("small_*/1/model.*") if path.suffix != ".py"} == {
        "model.pt2",
        "model.onnx",
    }
    exported = mixed.load(EXPORTED_FILE, Exported, "export")
    answers = []
    for name in TIERS:
        tier = exported.tier(name)
        session = open_exported(mixed.path(tier.file), tier.format, 1)
        parts = [
            session.run(["LABEL", "CONFIDENCE", "PROBS"], {INPUT: rows.inputs[INPUT][i : i + 1]})
            for i in range(len(rows))
        ]
        answers.append([np.concatenate(values) for values in zip(*parts, strict=True)])
    label, confidence, probabilities = (np.stack([tier[k] for tier in answers], axis=1) for k in range(3))
    gear = mixed.load(GEARS_FILE, GearPlan, "gears").gears[0]
    expected = predict((label[..., 0], confidence[..., 0], probabilities), TIERS, gear.policy)
    assert 0.2 < (expected.tier == 0).mean() < 0.8
    log = tmp_path / "triton.log"
    with embedded_triton(repository, log=log) as server, Client(server, "grpc") as client:
        for start in range(0, len(rows), BATCH):
            index = np.arange(start, min(start + BATCH, len(rows)))
            answer = client.ask(rows.inputs[INPUT][index])
            clear = expected.clear[index]
            np.testing.assert_array_equal(answer["TIER"][clear], expected.tier[index][clear])
            np.testing.assert_array_equal(answer["LABEL"][clear], expected.label[index][clear])
            np.testing.assert_allclose(
                answer["CONFIDENCE"][clear], expected.confidence[index][clear], atol=1e-3
            )
            assert (answer["FLAGS"] == 0).all()
    text = log.read_text(errors="replace")
    assert "is asked through the server" not in text, "the router leaves the torch program alone"
    assert (repository / MODEL / PLAN_FILE).is_file()
