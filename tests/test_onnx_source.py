"""ONNX files as tiers: weights beside the graph, several outputs, other precisions, other operator sets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from cascade_tools.errors import UsageError
from cascade_tools.models.source import ExportableSource
from cascade_tools.models.sources import load_source
from tests.exported import assert_answers_as_its_source
from tests.helpers import Array, spec_content, write_cascade

WORDS, TOKENS, CLASSES = 20, 5, 3
WEIGHTS = np.random.default_rng(0).normal(0.0, 2.0, (WORDS, CLASSES)).astype(np.float32)
KINDS = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "float64": TensorProto.DOUBLE}


def bag_of_words(
    dtype: str = "float32", opset: int = 13, batch: int | str = "rows", more: bool = False
) -> onnx.ModelProto:
    """The mean over the words' rows of WEIGHTS; `more` adds an output in front of the logits."""
    nodes = [
        helper.make_node("Gather", ["weights", "WORDS"], ["seen"]),
        helper.make_node("ReduceMean", ["seen"], ["logits"], axes=[1], keepdims=0),
    ]
    outputs = [helper.make_tensor_value_info("logits", KINDS[dtype], [batch, CLASSES])]
    if more:
        nodes.append(helper.make_node("ArgMax", ["logits"], ["best"], axis=1))
        outputs.insert(0, helper.make_tensor_value_info("best", TensorProto.INT64, [batch, 1]))
    graph = helper.make_graph(
        nodes,
        "bag",
        [helper.make_tensor_value_info("WORDS", TensorProto.INT64, [batch, TOKENS])],
        outputs,
        [numpy_helper.from_array(WEIGHTS.astype(dtype), "weights")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def load(folder: Path, output: str | None = None) -> ExportableSource:
    content = spec_content()
    source = {"onnx": "models/small.onnx", **({"output": output} if output else {})}
    content["tiers"] = [{"name": "small", "source": source}]
    cascade = write_cascade(folder, content)
    return load_source(cascade, cascade.tiers[0])


def refusal(folder: Path, output: str | None = None) -> UsageError:
    with pytest.raises(UsageError) as caught:
        load(folder, output)
    assert "\n" not in caught.value.message
    return caught.value


def save(folder: Path, model: onnx.ModelProto, beside: str | None = None) -> Path:
    path = folder / "models" / "small.onnx"
    path.parent.mkdir(exist_ok=True)
    onnx.save(model, path, save_as_external_data=beside is not None, location=beside, size_threshold=0)
    return path


def rows(count: int) -> dict[str, Array]:
    return {"WORDS": np.random.default_rng(count).integers(0, WORDS, (count, TOKENS))}


def test_weights_in_a_file_beside_the_graph(tmp_path: Path) -> None:
    save(tmp_path, bag_of_words(), "small.weights")
    source = load(tmp_path)
    wanted = WEIGHTS[rows(9)["WORDS"]].mean(axis=1)
    np.testing.assert_allclose(source.logits(rows(9)), wanted, rtol=1e-5, atol=1e-6)
    assert source.parameters == WEIGHTS.size
    (tmp_path / "models" / "small.weights").rename(tmp_path / "models" / "moved")
    with pytest.raises(UsageError, match=r"tiers\.small\.source\.onnx: .*small\.weights: no such file"):
        load(tmp_path)


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_logits_of_other_precision_among_other_outputs(tmp_path: Path, dtype: str) -> None:
    """The exported graph is whole: it holds the weights that lay beside it, and only the head's outputs."""
    save(tmp_path, bag_of_words(dtype, more=True), "small.weights")
    source = load(tmp_path, "logits")
    assert source.logits(rows(2)).dtype == np.float32
    assert_answers_as_its_source(source, rows)


def test_of_several_outputs_one_is_chosen(tmp_path: Path) -> None:
    save(tmp_path, bag_of_words(more=True))
    error = refusal(tmp_path)
    assert "must have one output, the logits; has ['best', 'logits']" in error.message
    assert "`output: NAME`" in error.hint
    assert "has no output 'scores'; it has ['best', 'logits']" in refusal(tmp_path, "scores").message
    assert "logits are tensor(int64)" in refusal(tmp_path, "best").message


def relocate(path: Path, location: str) -> None:
    model = onnx.load(path, load_external_data=False)
    entry = next(e for e in model.graph.initializer[0].external_data if e.key == "location")
    entry.value = location
    path.write_bytes(model.SerializeToString())


@pytest.mark.parametrize("where", ["absolute", "..", "a/../..", "link", "windows", "nothing"])
def test_weights_outside_the_graphs_folder_are_refused(tmp_path: Path, where: str) -> None:
    path = save(tmp_path, bag_of_words(), "small.weights")
    outside = (path.parent / "small.weights").rename(tmp_path / "secret")
    (path.parent / "a").mkdir()
    (path.parent / "link").symlink_to(outside)
    location = {
        "absolute": str(outside),
        "..": "../secret",
        "a/../..": "a/../../secret",
        "link": "link",
        "windows": "..\\secret",
        "nothing": "",
    }[where]
    relocate(path, location)
    error = refusal(tmp_path)
    assert error.message.startswith(f"tiers.small.source.onnx: {path}: weights 'weights' are in ")
    assert "which is not in the folder of the graph" in error.message
    assert "one folder" in error.hint


def test_weights_outside_are_found_inside_a_branch_too(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    tensor = numpy_helper.from_array(np.zeros((1, CLASSES), np.float32), "hidden")
    onnx.external_data_helper.set_external_data(tensor, "../secret")
    tensor.ClearField("raw_data")
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    branch = helper.make_graph([helper.make_node("Constant", [], ["y"], value=tensor)], "then", [], [output])
    node = helper.make_node("If", ["X"], ["logits"], then_branch=branch, else_branch=branch)
    graph = helper.make_graph(
        [node],
        "if",
        [helper.make_tensor_value_info("X", TensorProto.BOOL, [])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, CLASSES])],
    )
    (tmp_path / "models" / "small.onnx").write_bytes(helper.make_model(graph).SerializeToString())
    assert "weights 'hidden' are in '../secret'" in refusal(tmp_path).message


@pytest.mark.parametrize("change", [lambda data: data[:-4], lambda data: b""], ids=["short", "empty"])
def test_cut_off_weights_are_refused(tmp_path: Path, change: Callable[[bytes], bytes]) -> None:
    path = save(tmp_path, bag_of_words(), "small.weights").with_name("small.weights")
    path.write_bytes(change(path.read_bytes()))
    message = refusal(tmp_path).message
    assert f"bytes, the graph reads up to byte {WEIGHTS.nbytes}" in message


@pytest.mark.parametrize(("opset", "what"), [(6, "older than 7"), (99, "newer than ")])
def test_an_operator_set_that_nothing_here_runs_is_named(tmp_path: Path, opset: int, what: str) -> None:
    save(tmp_path, bag_of_words(opset=opset))
    error = refusal(tmp_path)
    assert f"is of operator set {opset}, {what}" in error.message
    assert "export it" in error.hint


def test_a_batch_of_fixed_size_is_refused(tmp_path: Path) -> None:
    save(tmp_path, bag_of_words(batch=1))
    error = refusal(tmp_path)
    assert f"its input WORDS is [1, {TOKENS}]: the first dimension counts the rows" in error.message
    assert "dynamic" in error.hint


def test_inputs_of_another_kind_are_named(tmp_path: Path) -> None:
    save(tmp_path, bag_of_words())
    source = load(tmp_path)
    with pytest.raises(UsageError, match="its input WORDS takes int64, the data has int32"):
        source.logits({"WORDS": rows(1)["WORDS"].astype(np.int32)})


def test_a_folder_in_the_place_of_the_graph_is_refused(tmp_path: Path) -> None:
    (tmp_path / "models" / "small.onnx").mkdir(parents=True)
    assert "small.onnx: no such file" in refusal(tmp_path).message
