"""Half precision, torch programs and weights beside the graph: each answers as its source."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from cascade_tools.artifacts import CalibratedTier, InputSpec, Reliability
from cascade_tools.errors import EnvironmentLacks, UsageError
from cascade_tools.machine.gpus import find_gpus
from cascade_tools.models.head import ServedOutputs, with_head, without_head
from cascade_tools.models.join import LOGITS, join_head
from cascade_tools.models.onnx_source import OnnxSource
from cascade_tools.models.served import open_exported
from cascade_tools.models.to_half import rounded, to_half
from cascade_tools.models.to_onnx import to_onnx
from cascade_tools.models.to_pt2 import to_pt2, write_pt2
from cascade_tools.models.to_tensorrt import Shapes, profile_shapes, require_tensorrt
from cascade_tools.models.weights import HEAVY_BYTES, lifted
from cascade_tools.models.write_onnx import write_onnx
from cascade_tools.runtime.head import Curve, apply_head
from tests.helpers import Array, run_with_file_limit

FEATURES, WIDTH, CLASSES, TOKENS = 3, 12000, 4, 5
ROW = (InputSpec(name="X", datatype="FP32", dims=(FEATURES,)),)
TAGGED = (
    InputSpec(name="X", datatype="FP32", dims=(TOKENS, FEATURES)),
    InputSpec(name="COUNTS", datatype="INT64", dims=(TOKENS,)),
)
PLATT = Curve((0.25, 0.6, 0.9), (0.1, 0.5, 0.99))
ISOTONIC = Curve(tuple(np.linspace(0.2, 0.95, 60).tolist()), tuple(np.linspace(0.0, 0.99, 60).tolist()))
HEADS = [
    ("max_probability", None),
    ("margin", None),
    ("entropy", None),
    ("max_probability", PLATT),
    ("entropy", ISOTONIC),
]


class Linear(torch.nn.Module):
    """Logits of rows [rows, features] or of tokens [rows, tokens, features]."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = torch.nn.Parameter(torch.randn(FEATURES, CLASSES, generator=generator))

    def forward(self, x: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
        return 2.0 * x @ self.weight


def head_of(signal: str, curve: Curve | None = None) -> CalibratedTier:
    nothing = Reliability(ece=0.0, ece_equal_width=0.0, nll=0.0, brier=0.0, auroc=None)
    return CalibratedTier.model_validate(
        {
            "tier": "small",
            "method": "temperature",
            "signal": signal,
            "temperature": 1.3,
            "curve": curve,
            "accuracy": 1.0,
            "before": nothing,
            "after": nothing,
        }
    )


def rows(count: int, tokens: bool = False) -> dict[str, Array]:
    rng = np.random.default_rng(count)
    shape = (count, TOKENS, FEATURES) if tokens else (count, FEATURES)
    found: dict[str, Array] = {"X": rng.normal(0.0, 1.0, shape).astype(np.float32)}
    if tokens:
        found["COUNTS"] = (rng.random((count, TOKENS)) < 0.7).astype(np.int64)
    return found


def assert_as_head(
    found: list[Array], logits: Array, head: CalibratedTier, mask: Array | None = None, atol: float = 1e-4
) -> None:
    """LABEL, CONFIDENCE and perhaps PROBS are those of the head on these logits."""
    wanted = apply_head(logits, head.temperature, head.signal, head.curve, mask)
    label, confidence, *probabilities = found
    assert label.dtype == np.int64
    assert confidence.dtype == np.float32
    np.testing.assert_array_equal(label.reshape(wanted.label.shape), wanted.label)
    np.testing.assert_allclose(confidence[:, 0], wanted.confidence, atol=atol)
    for values in probabilities:
        np.testing.assert_allclose(values, wanted.probabilities, atol=atol)


def torch_logits(inputs: dict[str, Array]) -> Array:
    with torch.inference_mode():
        found: Array = Linear()(torch.from_numpy(inputs["X"])).numpy()
        return found


# torch.export


@pytest.mark.parametrize(("signal", "curve"), HEADS)
def test_a_torch_program_answers_as_torch(tmp_path: Path, signal: str, curve: Curve | None) -> None:
    head = head_of(signal, curve)
    module = with_head(Linear(), 1, None, ServedOutputs(head, None, True))
    write_pt2(to_pt2(module, ROW, "tiers.small.source"), tmp_path / "small.pt2")
    session = open_exported(tmp_path / "small.pt2", "pt2")
    for count in (1, 2, 33):
        assert_as_head(session.run(None, rows(count)), torch_logits(rows(count)), head)
    label, probabilities = session.run(["LABEL", "PROBS"], rows(3))
    assert (label.shape, probabilities.shape) == ((3, 1), (3, CLASSES))


def test_a_torch_program_labels_tokens_and_reads_whole_numbers(tmp_path: Path) -> None:
    head = head_of("margin")
    module = with_head(Linear(), 2, 1, ServedOutputs(head, "COUNTS", False))
    write_pt2(to_pt2(module, TAGGED, "tiers.small.source"), tmp_path / "small.pt2")
    session = open_exported(tmp_path / "small.pt2", "pt2")
    inputs = rows(20, tokens=True)
    found = session.run(None, dict(reversed(inputs.items())))
    assert_as_head(found, torch_logits(inputs), head, inputs["COUNTS"] != 0)


def test_a_full_disk_is_an_error_and_not_the_end_of_the_process(tmp_path: Path) -> None:
    script = """
        from pathlib import Path
        import torch
        from cascade_tools.artifacts import InputSpec
        from cascade_tools.models.to_pt2 import to_pt2, write_pt2

        class Double(torch.nn.Module):
            def forward(self, *inputs):
                return (2.0 * inputs[0],)

        program = to_pt2(Double(), (InputSpec(name="X", datatype="FP32", dims=(3,)),), "small")
        try:
            write_pt2(program, Path(sys.argv[1]))
        except OSError as error:
            print(error.strerror)
    """
    assert run_with_file_limit(1000, script, str(tmp_path / "small.pt2")) == "File too large\n"


def test_a_module_that_torch_cannot_export_is_named_with_its_line() -> None:
    class Branch(torch.nn.Module):
        def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
            return inputs[0][:, :2] if float(inputs[0].sum()) > 0 else inputs[0]

    with pytest.raises(UsageError, match=r"tiers\.small\.source: torch\.export: "):
        to_pt2(Branch(), ROW, "tiers.small.source")


# Half precision


def graph_of_rows(opset: int = 17) -> onnx.ModelProto:
    """A net with heavy weights and a mask of the smallest float32, as another framework would write it."""
    rng = np.random.default_rng(1)
    weights = {
        "wide": rng.normal(0.0, 1.0, (FEATURES, WIDTH)).astype(np.float32),
        "back": rng.normal(0.0, 3.0 / WIDTH, (WIDTH, CLASSES)).astype(np.float32) * 20,
        "mask": np.array([0.0, 0.0, 0.0, np.finfo(np.float32).min], np.float32),
    }
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["X", "wide"], ["seen"]),
            helper.make_node("Tanh", ["seen"], ["bent"]),
            helper.make_node("MatMul", ["bent", "back"], ["all"]),
            helper.make_node("Add", ["all", "mask"], ["masked"]),
            helper.make_node("LogSoftmax", ["masked"], ["logits"], axis=-1),
        ],
        "net",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, ["rows", FEATURES])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["rows", CLASSES])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def run_graph(graph: onnx.ModelProto, inputs: dict[str, Array]) -> list[Array]:
    onnx.checker.check_model(graph)
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    found: list[Array] = session.run(None, inputs)
    return found


def weights_of(model: onnx.ModelProto) -> dict[str, bytes]:
    return {t.name: numpy_helper.to_array(t).tobytes() for t in model.graph.initializer}


def float_types(graph: onnx.GraphProto) -> set[int]:
    return {t.data_type for t in graph.initializer} & {TensorProto.FLOAT, TensorProto.FLOAT16}


@pytest.fixture(scope="module")
def half_body() -> onnx.ModelProto:
    return to_half(graph_of_rows(), "tiers.small.source")


def test_half_precision_keeps_inputs_outputs_and_the_source(half_body: onnx.ModelProto) -> None:
    source = graph_of_rows()
    to_half(source, "tiers.small.source")
    assert list(source.graph.node) == list(graph_of_rows().graph.node)
    assert [entry.name for entry in source.graph.input] == ["X"]
    assert weights_of(source) == weights_of(graph_of_rows())
    ends = [*half_body.graph.input, *half_body.graph.output]
    assert {end.type.tensor_type.elem_type for end in ends} == {TensorProto.FLOAT}
    assert float_types(half_body.graph) == {TensorProto.FLOAT16}
    found, wanted = run_graph(half_body, rows(50))[0], run_graph(graph_of_rows(), rows(50))[0]
    assert 0.0 < np.abs(found - wanted)[:, :3].max() < 0.02
    assert np.isfinite(found).all(), "the mask does not overflow"


def test_the_judged_graph_rounds_every_value_as_a_gpu_does() -> None:
    judged = rounded(graph_of_rows(), "tiers.small.source")
    assert float_types(judged.graph) == {TensorProto.FLOAT}
    weights = {t.name: numpy_helper.to_array(t) for t in graph_of_rows().graph.initializer}
    half = {name: np.clip(value, -1e4, 1e4).astype(np.float16) for name, value in weights.items()}
    x = rows(20)["X"].astype(np.float16)

    def near(values: Array) -> Array:
        return values.astype(np.float16).astype(np.float32)

    seen = near(x.astype(np.float32) @ half["wide"].astype(np.float32))
    logits = near(near(np.tanh(seen)) @ half["back"].astype(np.float32)) + half["mask"].astype(np.float32)
    shifted = near(logits) - near(logits).max(axis=1, keepdims=True)
    wanted = near(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))
    found = run_graph(judged, rows(20))[0]
    exact = run_graph(graph_of_rows(), rows(20))[0]
    assert np.array_equal(found, near(found)), "what comes out is a float16"
    # Sums are in another order, so now and then a value is rounded the other way.
    assert np.abs(found - wanted)[:, :3].mean() < 0.2 * np.abs(found - exact)[:, :3].mean()


@pytest.mark.parametrize(("signal", "curve"), [("max_probability", None), ("entropy", ISOTONIC)])
def test_the_head_of_a_graph_in_half_precision_is_in_float32(
    half_body: onnx.ModelProto, signal: str, curve: Curve | None
) -> None:
    head = head_of(signal, curve)
    graph = join_head(half_body, (CLASSES,), ServedOutputs(head, None, True), ROW, "tiers.small.source")
    for count in (1, 33):
        logits = run_graph(half_body, rows(count))[0]
        # A softmax in float16 would be wrong by 1e-3.
        assert_as_head(run_graph(graph, rows(count)), logits, head, atol=2e-6)


def test_tokens_in_half_precision() -> None:
    field = "tiers.small.source"
    half = to_half(to_onnx(without_head(Linear()), TAGGED, field, (LOGITS,)), field)
    head, inputs = head_of("margin"), rows(20, tokens=True)
    graph = join_head(half, (TOKENS, CLASSES), ServedOutputs(head, "COUNTS", False), TAGGED, field)
    assert {entry.name for entry in graph.graph.input} == {"X", "COUNTS"}
    logits = run_graph(half, inputs)[0]
    assert 0.0 < np.abs(logits - torch_logits(inputs)).max() < 0.02
    assert_as_head(run_graph(graph, inputs), logits, head, inputs["COUNTS"] != 0, atol=2e-6)


# Weights beside the graph


def test_lifted_weights_come_back() -> None:
    model = graph_of_rows()
    before = weights_of(model)
    with lifted(model.graph) as heavy:
        assert {t.name for t in heavy} == {"wide", "back"}
        assert len(model.SerializeToString()) < HEAVY_BYTES
        onnx.checker.check_model(model)
    assert [entry.name for entry in model.graph.input] == ["X"]
    assert weights_of(model) == before


def test_weights_above_the_limit_stand_beside_the_graph(tmp_path: Path) -> None:
    (tmp_path / "source.onnx").write_bytes(graph_of_rows().SerializeToString())
    source = OnnxSource(tmp_path / "source.onnx", "tiers.small.source")
    head = head_of("margin")
    graph = source.export(ServedOutputs(head, None, False), ROW)
    inside, beside = tmp_path / "inside.onnx", tmp_path / "beside.onnx"
    assert write_onnx(graph, inside) == ()
    assert write_onnx(graph, beside, limit_bytes=HEAVY_BYTES) == (tmp_path / "beside.weights",)
    assert beside.stat().st_size < HEAVY_BYTES < (tmp_path / "beside.weights").stat().st_size
    # Names are relative, so that both move together.
    (tmp_path / "model").mkdir()
    for name in ("beside.onnx", "beside.weights"):
        (tmp_path / name).rename(tmp_path / "model" / name)
    found = open_exported(tmp_path / "model" / "beside.onnx", "onnx", 1).run(None, rows(9))
    assert_as_head(found, source.logits(rows(9)), head)
    for one, other in zip(found, open_exported(inside, "onnx", 1).run(None, rows(9)), strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_onnx_graph_does_not_become_a_torch_program(tmp_path: Path) -> None:
    (tmp_path / "source.onnx").write_bytes(graph_of_rows().SerializeToString())
    source = OnnxSource(tmp_path / "source.onnx", "tiers.small.source")
    with pytest.raises(UsageError, match=r"tiers\.small\.source\.onnx: .* torch program") as caught:
        source.export_program(ServedOutputs(head_of("margin"), None, False), ROW)
    assert "onnx_fp16" in caught.value.hint


# TensorRT, as far as it goes without a GPU


@pytest.mark.parametrize(("most", "batches"), [(1, (1, 1, 1)), (2, (1, 1, 2)), (32, (1, 16, 32))])
def test_the_profile_of_a_plan_goes_from_one_row_to_the_largest_batch(
    most: int, batches: tuple[int, ...]
) -> None:
    found = profile_shapes(TAGGED, most)
    assert found["X"] == Shapes(*((batch, TOKENS, FEATURES) for batch in batches))
    assert found["COUNTS"] == Shapes(*((batch, TOKENS) for batch in batches))


def test_a_plan_needs_inputs_of_fixed_sizes() -> None:
    with pytest.raises(UsageError, match=r"input X: format tensorrt needs fixed sizes, has \[-1, 3\]"):
        profile_shapes((InputSpec(name="X", datatype="FP32", dims=(-1, 3)),), 8)


@pytest.mark.skipif(bool(find_gpus()), reason="this machine has a GPU")
def test_without_a_gpu_a_plan_is_refused_with_what_to_do() -> None:
    with pytest.raises(EnvironmentLacks, match="no NVIDIA GPU") as caught:
        require_tensorrt()
    assert "onnx_fp16" in caught.value.hint
