"""Tiers in the router's own process: the runtime is copied beside ONNX Runtime's file, as in a repository."""

from __future__ import annotations

import hashlib
import importlib
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from cascade_tools import backends, runtime
from cascade_tools.artifacts import ExportedFile, ExportedTier
from tests.helpers import Json, plan_content

PACKAGE = "router_of_test_local"


def graph(path: Path) -> str:
    """A tier that labels every row 7 with confidence .5, in a file; its digest."""
    rows = helper.make_node("Shape", ["ROW"], ["shape"], end=1)
    nodes = [rows]
    for name, value in (("LABEL", np.array([7], np.int64)), ("FLAT", np.array([0.5], np.float32))):
        tensor = onnx.numpy_helper.from_array(value, "value")
        nodes.append(helper.make_node("ConstantOfShape", ["shape"], [name], value=tensor))
    nodes.append(helper.make_node("Unsqueeze", ["FLAT", "one"], ["CONFIDENCE"]))
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "tier",
            [helper.make_tensor_value_info("ROW", TensorProto.INT64, ["rows", 1])],
            [
                helper.make_tensor_value_info("LABEL", TensorProto.INT64, ["rows"]),
                helper.make_tensor_value_info("CONFIDENCE", TensorProto.FLOAT, ["rows", 1]),
            ],
            [onnx.numpy_helper.from_array(np.array([1], np.int64), "one")],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=10,
    )
    path.parent.mkdir(parents=True)
    onnx.save(model, path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return tmp_path / "repository"


@pytest.fixture
def content(repository: Path) -> Json:
    """A plan whose graphs lie in the repository."""
    found = plan_content()
    for entry in found["ladder"]:
        entry["sha256"] = graph(repository / entry["model"] / "1" / "model.onnx")
    return found


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The runtime as `build-repo` copies it."""
    folder = tmp_path / "code" / PACKAGE
    shutil.copytree(Path(runtime.__file__).parent, folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(Path(backends.__file__).parent / "onnx_session.py", folder)
    monkeypatch.syspath_prepend(str(folder.parent))
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == PACKAGE]:
        del sys.modules[name]


def open_tiers(content: Json, repository: Path) -> dict[str, Any]:
    local = importlib.import_module(f"{PACKAGE}.local")
    plan = importlib.import_module(f"{PACKAGE}.plan")
    found: dict[str, Any] = local.open_local_tiers(plan.parse_plan(content), repository)
    return found


def test_cheap_tiers_are_opened_and_answer(copied: Path, content: Json, repository: Path) -> None:
    content["ladder"][2]["p50_ms"] = 2.5
    tiers = open_tiers(content, repository)
    assert set(tiers) == {"digits_tiny", "digits_base"}
    answer = tiers["digits_tiny"]({"ROW": np.zeros((3, 1), np.int64)}, False)
    assert answer.label.tolist() == [7, 7, 7]
    assert answer.confidence.tolist() == [0.5, 0.5, 0.5]
    assert answer.probabilities is None


def test_another_graph_than_the_planned_one_is_left_alone(
    copied: Path, content: Json, repository: Path
) -> None:
    content["ladder"][0]["sha256"] = "of another graph"
    assert set(open_tiers(content, repository)) == {"digits_base", "digits_giant"}


def test_a_graph_that_is_missing_is_left_to_the_server(copied: Path, content: Json, repository: Path) -> None:
    shutil.rmtree(repository / "digits_tiny")
    assert set(open_tiers(content, repository)) == {"digits_base", "digits_giant"}


def test_a_tier_in_another_format_is_left_to_the_server_without_a_word(
    copied: Path, content: Json, repository: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (repository / "digits_tiny" / "1" / "model.onnx").rename(repository / "digits_tiny" / "1" / "model.pt2")
    assert set(open_tiers(content, repository)) == {"digits_base", "digits_giant"}
    assert caplog.records == []


def test_a_graph_with_weights_beside_it_is_left_to_the_server(
    copied: Path, content: Json, repository: Path, caplog: pytest.LogCaptureFixture
) -> None:
    entry = content["ladder"][0]
    files = [
        ExportedFile(file=name, sha256=entry["sha256"])
        for name in ("export/tiny.onnx", "export/tiny.weights")
    ]
    exported = ExportedTier(
        tier="tiny",
        format="onnx",
        file=files[0].file,
        sha256=files[0].sha256,
        beside=(files[1],),
        parameters=1,
        parity_rows=1,
        parity_label_mismatches=0,
        parity_confidence_error=0.0,
    )
    assert exported.digest != exported.sha256
    assert exported.model_copy(update={"beside": ()}).digest == exported.sha256
    entry["sha256"] = exported.digest
    assert set(open_tiers(content, repository)) == {"digits_base", "digits_giant"}
    assert caplog.records == []


def test_without_onnx_runtime_no_tier_is_opened(copied: Path, content: Json, repository: Path) -> None:
    (copied / "onnx_session.py").unlink()
    assert open_tiers(content, repository) == {}
