"""Opening an exported tier in process, and what is said where that cannot be done."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from cascade_tools.backends.torch_session import NAMES
from cascade_tools.errors import EnvironmentLacks, UsageError
from cascade_tools.models.open_model import open_model
from cascade_tools.spec import Format

from .helpers import exported

ROWS = np.arange(6, dtype=np.float32).reshape(2, 3)


def write_onnx(path: Path) -> Path:
    """X [rows, 3] -> CONFIDENCE [rows, 1], the sum of each row."""
    graph = helper.make_graph(
        [helper.make_node("ReduceSum", ["X", "axes"], ["CONFIDENCE"], keepdims=1)],
        "sum",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, ["rows", 3])],
        [helper.make_tensor_value_info("CONFIDENCE", TensorProto.FLOAT, ["rows", 1])],
        [helper.make_tensor("axes", TensorProto.INT64, [1], [1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, path)
    return path


class RowSum(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor]:
        return (x.sum(1, keepdim=True),)


def write_pt2(path: Path) -> Path:
    rows = torch.export.Dim("rows", min=1, max=64)
    program = torch.export.export(RowSum(), (torch.from_numpy(ROWS),), dynamic_shapes=({0: rows},))
    torch.export.save(
        program, path, extra_files={NAMES: json.dumps({"inputs": ["X"], "outputs": ["CONFIDENCE"]})}
    )
    return path


def test_an_onnx_file_is_run_on_the_inputs_that_it_reads(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "sum.onnx")
    model = open_model(exported("onnx", path.name), path, "cpu")
    found: Any = model.run({"X": ROWS, "OF_OTHER_TIERS": ROWS})
    np.testing.assert_array_equal(found[0], ROWS.sum(1, keepdims=True))
    assert model.device_mib is None


def test_a_torch_program_is_run_on_one_thread(tmp_path: Path) -> None:
    path = write_pt2(tmp_path / "sum.pt2")
    before = torch.get_num_threads()
    try:
        model = open_model(exported("pt2", path.name), path, "cpu")
        assert torch.get_num_threads() == 1
        found: Any = model.run({"X": ROWS, "OF_OTHER_TIERS": ROWS})
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(found[0], ROWS.sum(1, keepdims=True))


@pytest.mark.parametrize("kind", ["onnx", "pt2"])
def test_a_file_that_is_none_is_named(tmp_path: Path, kind: Format) -> None:
    path = tmp_path / "broken"
    path.write_bytes(b"no model")
    with pytest.raises(UsageError, match=f"broken: cannot be opened as {kind}: "):
        open_model(exported(kind, path.name), path, "cpu")


def test_a_tensorrt_plan_is_not_for_a_cpu(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentLacks, match=r"x\.plan: a TensorRT plan runs on GPUs"):
        open_model(exported("tensorrt", "x.plan"), tmp_path / "x.plan", "cpu")


def test_without_a_gpu_nothing_is_measured_on_one(tmp_path: Path) -> None:
    if torch.cuda.is_available() or "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("NOT TESTED: there is a GPU here")
    for kind, write in (("onnx", write_onnx), ("pt2", write_pt2)):
        path = write(tmp_path / kind)
        with pytest.raises(EnvironmentLacks):
            open_model(exported(kind, path.name), path, "gpu")  # type: ignore[arg-type]
