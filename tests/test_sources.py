"""Source models: loading, running, and exporting with their head. Exports are slow, so they are few."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import save_file

from cascade_tools.artifacts import CalibratedTier, InputSpec
from cascade_tools.errors import UsageError
from cascade_tools.models.head import ServedOutputs
from cascade_tools.models.source import ExportableSource
from cascade_tools.models.sources import load_source
from cascade_tools.runtime.head import Curve, apply_head
from cascade_tools.spec import Cascade
from tests.exported import head_of, run_graph
from tests.helpers import Array, Json, spec_content, write_cascade

FEATURES, CLASSES = 3, 4
INPUTS = (InputSpec(name="X", datatype="FP32", dims=(FEATURES,)),)
LADDER = f"""
    import torch
    from torch import nn

    def small():
        return nn.Linear({FEATURES}, {CLASSES})

    def large():
        return [1, 2, 3]

    class Broken(nn.Module):
        def forward(self, x):
            raise ValueError("no such shape")

    def dropping():
        return nn.Sequential(nn.Linear({FEATURES}, {CLASSES}), nn.Dropout(0.5))

    class Branch(nn.Module):
        def forward(self, x):
            return x[:, :2] if float(x.sum()) > 0 else x

    class Ordered(nn.Module):
        def forward(self, x):
            return torch.linalg.eigvals(x.unsqueeze(-1) * x.unsqueeze(-2)).real

    def pair_of():
        return nn.ReLU

    class Several(nn.Module):
        def forward(self, x):
            return x, x

    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear({FEATURES}, {FEATURES}, bias=False)
            self.again = nn.Linear({FEATURES}, {FEATURES}, bias=False)
            self.again.weight = self.inner.weight

        def forward(self, x):
            return self.again(torch.relu(self.inner(x)))

    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear({FEATURES}, {CLASSES})

        def forward(self, x, shift):
            return self.linear(x) + shift.float()
"""


@pytest.fixture(autouse=True)
def imports_stay(tmp_path: Path) -> Iterator[None]:
    """Forget what a test imported from its own folder."""
    path = list(sys.path)
    yield
    sys.path[:] = path
    sys.modules.pop("ladder", None)


def cascade_with(folder: Path, source: Json) -> Cascade:
    content = spec_content()
    content["tiers"] = [{"name": "small", "source": source}]
    return write_cascade(folder, content, {"ladder.py": LADDER})


def load(folder: Path, source: Json) -> ExportableSource:
    cascade = cascade_with(folder, source)
    return load_source(cascade, cascade.tiers[0])


def refusal(folder: Path, source: Json) -> UsageError:
    with pytest.raises(UsageError) as caught:
        load(folder, source)
    assert caught.value.message.startswith("tiers.small.source.")
    return caught.value


def state() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "weight": torch.randn(CLASSES, FEATURES, generator=generator),
        "bias": torch.randn(CLASSES, generator=generator),
    }


def rows(count: int) -> dict[str, Array]:
    return {"X": np.random.default_rng(0).normal(0.0, 2.0, (count, FEATURES)).astype(np.float32)}


def wanted_logits(inputs: dict[str, Array]) -> Array:
    found: Array = inputs["X"] @ state()["weight"].numpy().T + state()["bias"].numpy()
    return found


WITH_WEIGHTS = {"torch": "ladder:small", "weights": "small.safetensors"}


def test_a_torch_source_runs_with_its_weights(tmp_path: Path) -> None:
    save_file(state(), tmp_path / "small.safetensors")
    source = load(tmp_path, WITH_WEIGHTS)
    logits = source.logits(rows(7))
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, wanted_logits(rows(7)), rtol=1e-5, atol=1e-6)
    assert source.parameters == FEATURES * CLASSES + CLASSES


def test_weights_of_half_precision_are_widened(tmp_path: Path) -> None:
    save_file({name: value.half() for name, value in state().items()}, tmp_path / "small.safetensors")
    logits = load(tmp_path, WITH_WEIGHTS).logits(rows(7))
    np.testing.assert_allclose(logits, wanted_logits(rows(7)), atol=0.02)


@pytest.mark.parametrize("name", ["inner.weight", "again.weight"])
def test_of_tied_weights_one_name_is_enough(tmp_path: Path, name: str) -> None:
    weight = torch.randn(FEATURES, FEATURES, generator=torch.Generator().manual_seed(0))
    save_file({name: weight}, tmp_path / "small.safetensors")  # which refuses shared tensors
    source = load(tmp_path, {"torch": "ladder:Tied", "weights": "small.safetensors"})
    wanted = np.maximum(rows(5)["X"] @ weight.numpy().T, 0.0) @ weight.numpy().T
    np.testing.assert_allclose(source.logits(rows(5)), wanted, rtol=1e-5, atol=1e-6)
    assert source.parameters == FEATURES * FEATURES


def test_a_checkpoint_that_holds_more_than_tensors_is_refused(tmp_path: Path) -> None:
    torch.save({"model": state(), "epoch": 3}, tmp_path / "small.pt")
    error = refusal(tmp_path, {"torch": "ladder:small", "weights": "small.pt"})
    assert "must be tensors by name" in error.message
    assert "save its state_dict alone" in error.hint


def test_a_plain_state_in_a_pt_file_is_loaded(tmp_path: Path) -> None:
    torch.save(state(), tmp_path / "small.pt")
    logits = load(tmp_path, {"torch": "ladder:small", "weights": "small.pt"}).logits(rows(2))
    np.testing.assert_allclose(logits, wanted_logits(rows(2)), rtol=1e-5, atol=1e-6)


def test_a_source_runs_as_in_use_not_as_in_training(tmp_path: Path) -> None:
    source = load(tmp_path, {"torch": "ladder:dropping"})
    assert (source.logits(rows(50)) != 0.0).all()
    np.testing.assert_array_equal(source.logits(rows(50)), source.logits(rows(50)))


def test_missing_files_are_named(tmp_path: Path) -> None:
    assert "source.weights: " in refusal(tmp_path, WITH_WEIGHTS).message
    assert "small.safetensors: no such file" in refusal(tmp_path, WITH_WEIGHTS).message
    assert "source.onnx: " in refusal(tmp_path, {"onnx": "small.onnx"}).message


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s.pop("bias"),
        lambda s: s.update(bias=torch.zeros(CLASSES + 1)),
        lambda s: s.update(more=torch.zeros(1)),
    ],
    ids=["missing", "shape", "unknown"],
)
def test_weights_that_do_not_fit_are_refused(
    tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], object]
) -> None:
    weights = state()
    change(weights)
    save_file(weights, tmp_path / "small.safetensors")
    message = refusal(tmp_path, WITH_WEIGHTS).message
    assert f"weights: {tmp_path / 'small.safetensors'}: do not fit the module: " in message


@pytest.mark.parametrize("content", [b"", b"garbage" * 9, b"\xff" * 100])
@pytest.mark.parametrize("name", ["small.safetensors", "small.pt"])
def test_weights_that_are_no_weights_are_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert name in refusal(tmp_path, {"torch": "ladder:small", "weights": name}).message


def test_cut_off_weights_are_refused(tmp_path: Path) -> None:
    save_file(state(), tmp_path / "small.safetensors")
    whole = (tmp_path / "small.safetensors").read_bytes()
    (tmp_path / "small.safetensors").write_bytes(whole[:-8])
    assert "do not fit the module" in refusal(tmp_path, WITH_WEIGHTS).message


class Trap:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("plain", [False, True], ids=["torch.save", "pickle"])
def test_a_pickle_in_the_place_of_weights_is_refused_unopened(tmp_path: Path, plain: bool) -> None:
    trap = {"weight": Trap(tmp_path / "touched")}
    if plain:
        (tmp_path / "small.pt").write_bytes(pickle.dumps(trap))
    else:
        torch.save(trap, tmp_path / "small.pt")
    error = refusal(tmp_path, {"torch": "ladder:small", "weights": "small.pt"})
    assert "not loadable as plain weights" in error.message
    assert "safetensors" in error.hint
    assert not (tmp_path / "touched").exists()


def test_what_is_no_module_is_refused(tmp_path: Path) -> None:
    message = refusal(tmp_path, {"torch": "ladder:large"}).message
    assert "torch: ladder:large returned list, not a torch.nn.Module" in message


def test_a_class_in_the_place_of_a_module_is_refused(tmp_path: Path) -> None:
    message = refusal(tmp_path, {"torch": "ladder:pair_of"}).message
    assert "torch: ladder:pair_of returned type, not a torch.nn.Module" in message


def test_a_module_that_gives_two_tensors_is_refused(tmp_path: Path) -> None:
    source = load(tmp_path, {"torch": "ladder:Several"})
    with pytest.raises(UsageError, match="source: forward gives a tuple, not one tensor, the logits"):
        source.logits(rows(1))


def test_a_forward_that_raises_is_told_with_its_line(tmp_path: Path) -> None:
    source = load(tmp_path, {"torch": "ladder:Broken"})
    with pytest.raises(UsageError) as caught:
        source.logits(rows(1))
    assert "tiers.small.source: forward: ValueError: no such shape" in caught.value.message
    assert f"({tmp_path / 'ladder.py'}, line " in caught.value.message


def assert_equals_head(
    found: dict[str, Array], logits: Array, head: CalibratedTier, *, probabilities: bool
) -> None:
    wanted = apply_head(logits, head.temperature, head.signal, head.curve)
    assert list(found) == ["LABEL", "CONFIDENCE", *(["PROBS"] if probabilities else [])]
    assert found["LABEL"].dtype == np.int64
    assert found["CONFIDENCE"].dtype == np.float32
    assert found["LABEL"].tolist() == wanted.label[:, None].tolist()
    np.testing.assert_allclose(found["CONFIDENCE"], wanted.confidence[:, None], atol=1e-5)
    if probabilities:
        np.testing.assert_allclose(found["PROBS"], wanted.probabilities, atol=1e-5)


def test_an_exported_torch_source_answers_as_its_source(tmp_path: Path) -> None:
    source = load(tmp_path, {"torch": "ladder:Pair"})
    specs = (*INPUTS, InputSpec(name="SHIFT", datatype="INT64", dims=(CLASSES,)))
    head = head_of("max_probability", 1.7)
    graph = source.export(ServedOutputs(head, None, True), specs)
    for count in (1, 2, 33):
        shift = np.random.default_rng(1).integers(-3, 4, (count, CLASSES))
        inputs = {**rows(count), "SHIFT": shift}
        logits = source.logits(inputs)
        assert_equals_head(run_graph(graph, inputs), logits, head, probabilities=True)


@pytest.mark.parametrize(("name", "why"), [("Branch", "data-dependent"), ("Ordered", "linalg_eig")])
def test_a_model_that_does_not_export_names_the_field(tmp_path: Path, name: str, why: str) -> None:
    source = load(tmp_path, {"torch": f"ladder:{name}"})
    with pytest.raises(UsageError) as caught:
        source.export(ServedOutputs(head_of("max_probability", 1.0), None, False), INPUTS)
    assert caught.value.message.startswith("tiers.small.source: export to ONNX: ")
    assert why in caught.value.message
    assert "\n" not in caught.value.message


def linear_graph(opset: int = 13, outputs: int = 1, batch: str | None = "rows") -> onnx.ModelProto:
    """X @ weight.T + bias, as an exporter of another framework would write it."""
    weights = {name: value.numpy() for name, value in state().items()}
    nodes = [helper.make_node("Gemm", ["X", "weight", "bias"], ["logits"], transB=1)]
    if opset >= 23:  # an operator that older operator sets do not have
        weights["scale"] = np.ones(FEATURES, np.float32)
        nodes[0].input[0] = "scaled"
        nodes.insert(0, helper.make_node("RMSNormalization", ["X", "scale"], ["scaled"], axis=-1))
    results = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, CLASSES])]
    if outputs > 1:
        nodes.append(helper.make_node("Relu", ["logits"], ["more"]))
        results.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, [batch, CLASSES]))
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, [batch, FEATURES])],
        results,
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


FROM_ONNX = {"onnx": "small.onnx"}


def test_an_onnx_source_runs(tmp_path: Path) -> None:
    onnx.save(linear_graph(), tmp_path / "small.onnx")
    source = load(tmp_path, FROM_ONNX)
    np.testing.assert_allclose(source.logits(rows(5)), wanted_logits(rows(5)), rtol=1e-5, atol=1e-6)
    assert source.parameters == FEATURES * CLASSES + CLASSES


@pytest.mark.parametrize(("opset", "signal"), [(13, "margin"), (23, "max_probability")])
def test_an_onnx_source_joined_with_its_head_answers_as_its_source(
    tmp_path: Path, opset: int, signal: str
) -> None:
    onnx.save(linear_graph(opset), tmp_path / "small.onnx")
    source = load(tmp_path, FROM_ONNX)
    head = head_of(signal, 0.6)
    graph = source.export(ServedOutputs(head, None, False), INPUTS)
    for count in (1, 33):
        found = run_graph(graph, rows(count))
        assert_equals_head(found, source.logits(rows(count)), head, probabilities=False)


def test_other_inputs_than_those_of_the_graph_are_named(tmp_path: Path) -> None:
    onnx.save(linear_graph(), tmp_path / "small.onnx")
    with pytest.raises(UsageError, match=r"onnx: takes inputs \['X'\], but the data has \['Y'\]"):
        load(tmp_path, FROM_ONNX).logits({"Y": rows(1)["X"]})


def test_rows_of_another_shape_are_told_as_one_message(tmp_path: Path) -> None:
    onnx.save(linear_graph(), tmp_path / "small.onnx")
    with pytest.raises(UsageError, match=r"tiers\.small\.source: run: "):
        load(tmp_path, FROM_ONNX).logits({"X": np.zeros((1, FEATURES + 1), np.float32)})


def test_a_graph_with_two_outputs_is_refused(tmp_path: Path) -> None:
    onnx.save(linear_graph(outputs=2), tmp_path / "small.onnx")
    message = refusal(tmp_path, FROM_ONNX).message
    assert "must have one output, the logits; has ['logits', 'more']" in message


@pytest.mark.parametrize("content", [b"", b"garbage" * 9, b"\x08"])
def test_what_is_no_graph_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "small.onnx").write_bytes(content)
    assert "small.onnx: not a usable ONNX graph: " in refusal(tmp_path, FROM_ONNX).message


@pytest.mark.parametrize("signal", ["max_probability", "margin", "entropy"])
@pytest.mark.parametrize("knots", [2, 7, 256])
def test_a_fitted_curve_is_in_the_graph(tmp_path: Path, signal: str, knots: int) -> None:
    rng = np.random.default_rng(knots)
    at, confidence = np.sort(rng.uniform(0.2, 0.95, knots)), np.sort(rng.random(knots))
    curve = Curve(tuple(at.tolist()), tuple(confidence.tolist()))
    source = load(tmp_path, {"torch": "ladder:Pair"})
    specs = (*INPUTS, InputSpec(name="SHIFT", datatype="INT64", dims=(CLASSES,)))
    head = head_of(signal, 1.3).model_copy(update={"curve": curve})
    inputs = {**rows(64), "SHIFT": rng.integers(-1, 2, (64, CLASSES))}
    found = run_graph(source.export(ServedOutputs(head, None, False), specs), inputs)
    wanted = apply_head(source.logits(inputs), head.temperature, head.signal, curve)
    np.testing.assert_allclose(found["CONFIDENCE"][:, 0], wanted.confidence, atol=1e-4)
    assert found["LABEL"][:, 0].tolist() == wanted.label.tolist()
