"""Tiers from a torch callable and from an ONNX file: run, exported with their head, and refused."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import save_file

from cascade_tools.artifacts import CalibratedTier, InputSpec, Reliability
from cascade_tools.errors import UsageError
from cascade_tools.runtime.head import apply_head
from cascade_tools.spec import Cascade
from cascade_tools.stages.sources import load_source

from .helpers import write_cascade

CLASSES = 4
INPUTS = (InputSpec(name="X", datatype="FP32", dims=(3,)),)
NETS = """
    import torch
    from torch import nn

    def linear():
        torch.manual_seed(0)
        return nn.Linear(3, 4)

    def number():
        return 7

    class Branch(nn.Module):
        def forward(self, x):
            return x[:, :2] if float(x.sum()) > 0 else x

    def branch():
        return Branch()
"""


def head(temperature: float, signal: Any) -> CalibratedTier:
    unknown = Reliability(ece=0.0, nll=0.0, auroc=None)
    return CalibratedTier(
        tier="only",
        method="temperature",
        signal=signal,
        temperature=temperature,
        accuracy=1.0,
        before=unknown,
        after=unknown,
    )


def cascade_of(folder: Path, source: dict[str, str]) -> Cascade:
    content = {
        "name": "one",
        "tiers": [{"name": "only", "source": source}],
        "data": {"validation": "rows.npz"},
        "devices": "devices.yaml",
    }
    return write_cascade(folder, content, {"nets.py": NETS})


def rows() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(50, 3)).astype(np.float32)


def assert_same_answers(graph: bytes, logits: np.ndarray, head: CalibratedTier, probs: bool) -> None:
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    assert names == ["LABEL", "CONFIDENCE", *(["PROBS"] if probs else [])]
    found = session.run(None, {"X": rows()})
    wanted = apply_head(logits, head.temperature, head.signal)
    assert found[0].dtype == np.int64
    assert found[0].shape == found[1].shape == (50, 1)
    np.testing.assert_array_equal(found[0].ravel(), wanted.label)
    np.testing.assert_allclose(found[1].ravel(), wanted.confidence, atol=1e-6)
    if probs:
        np.testing.assert_allclose(found[2], wanted.probabilities, atol=1e-6)


def test_a_torch_callable_runs_and_exports_with_its_head(tmp_path: Path) -> None:
    cascade = cascade_of(tmp_path, {"torch": "nets:linear"})
    source = load_source(cascade, cascade.tiers[0])
    assert source.parameters == 3 * CLASSES + CLASSES
    logits = source.logits({"X": rows()})
    assert logits.shape == (50, CLASSES)
    chosen = head(2.5, "margin")
    assert_same_answers(source.export(chosen, INPUTS, True), logits, chosen, probs=True)


def test_an_onnx_file_runs_and_exports_with_its_head(tmp_path: Path) -> None:
    weight = np.random.default_rng(3).normal(size=(3, CLASSES)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["X", "weight"], ["scores"])],
        "linear",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, ["batch", 3])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", CLASSES])],
        [numpy_helper.from_array(weight, "weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    cascade = cascade_of(tmp_path, {"onnx": "net.onnx"})
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    source = load_source(cascade, cascade.tiers[0])
    logits = source.logits({"X": rows()})
    np.testing.assert_allclose(logits, rows() @ weight, atol=1e-6)
    chosen = head(0.6, "max_probability")
    assert_same_answers(source.export(chosen, INPUTS, False), logits, chosen, probs=False)
    with pytest.raises(UsageError, match=r"inputs \['X'\] but the data has \['Y'\]"):
        source.logits({"Y": rows()})


def test_weights_are_loaded_from_safetensors_and_from_plain_pt(tmp_path: Path) -> None:
    state = {"weight": torch.ones(CLASSES, 3), "bias": torch.zeros(CLASSES)}
    for name in ("w.safetensors", "w.pt"):
        cascade = cascade_of(tmp_path, {"torch": "nets:linear", "weights": name})
        if name.endswith(".pt"):
            torch.save(state, tmp_path / name)
        else:
            save_file(state, tmp_path / name)
        logits = load_source(cascade, cascade.tiers[0]).logits({"X": rows()})
        np.testing.assert_allclose(logits, rows().sum(axis=1, keepdims=True).repeat(CLASSES, 1), atol=1e-5)


def refusal(folder: Path, source: dict[str, str]) -> str:
    cascade = cascade_of(folder, source)
    with pytest.raises(UsageError) as caught:
        load_source(cascade, cascade.tiers[0])
    return str(caught.value)


def test_missing_files_are_named_with_their_field(tmp_path: Path) -> None:
    weights = refusal(tmp_path, {"torch": "nets:linear", "weights": "w.safetensors"})
    assert weights.startswith("tiers.only.source.weights: ")
    assert "w.safetensors: no such file" in weights
    assert refusal(tmp_path, {"onnx": "net.onnx"}).startswith("tiers.only.source.onnx: ")


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    save_file({"weight": torch.ones(2, 2)}, tmp_path / "w.safetensors")
    text = refusal(tmp_path, {"torch": "nets:linear", "weights": "w.safetensors"})
    assert text.startswith("tiers.only.source.weights: ")
    assert "do not fit the module" in text


class Trap:
    """A pickle that would leave a mark if anybody unpickled it."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.mark,))


def test_a_pickle_instead_of_weights_is_refused_and_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    with (tmp_path / "w.pt").open("wb") as file:
        pickle.dump(Trap(mark), file)
    text = refusal(tmp_path, {"torch": "nets:linear", "weights": "w.pt"})
    assert text.startswith("tiers.only.source.weights: ")
    assert not mark.exists()


def test_a_callable_that_gives_no_module_is_refused(tmp_path: Path) -> None:
    text = refusal(tmp_path, {"torch": "nets:number"})
    assert "tiers.only.source.torch: nets:number returned int, not a torch.nn.Module" in text


def test_a_file_that_is_no_graph_is_refused(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(b"not a graph")
    assert "not a usable ONNX graph" in refusal(tmp_path, {"onnx": "net.onnx"})


def test_a_model_that_does_not_export_names_the_field(tmp_path: Path) -> None:
    cascade = cascade_of(tmp_path, {"torch": "nets:branch"})
    source = load_source(cascade, cascade.tiers[0])
    with pytest.raises(UsageError, match=r"tiers\.only\.source: export to ONNX"):
        source.export(head(1.0, "max_probability"), INPUTS, False)
