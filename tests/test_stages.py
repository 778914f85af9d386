"""Tiers cut into stages: what is in them, that they are the tier, and what cannot be cut."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from cascade_tools.artifacts import (
    CalibratedTier,
    ExportedStage,
    ExportedTier,
    InputSpec,
    Partition,
    Reliability,
)
from cascade_tools.errors import CheckFailed, Infeasible, UsageError
from cascade_tools.models import staged
from cascade_tools.models.head import ServedOutputs, with_head
from cascade_tools.models.node_runs import MadeTensor, run_nodes
from cascade_tools.models.partition import PASSED_ON, CuttableGraph, save_graph
from cascade_tools.models.to_onnx import to_onnx
from cascade_tools.models.usercode import Rows
from cascade_tools.models.write_onnx import write_onnx
from cascade_tools.spec import Tier
from cascade_tools.stages.cut import cut_into_stages, smallest_device_mib
from cascade_tools.store import Workspace, digest_file
from tests.block_models import BLOCKS, SIDE, TOKENS, WIDTH, WORDS, TextClassifier, Vit
from tests.helpers import Array, spec_content, write_cascade

ROWS = 40
PIXELS = (InputSpec(name="PIXELS", datatype="FP32", dims=(1, SIDE, SIDE)),)
TEXT = (
    InputSpec(name="IDS", datatype="INT64", dims=(TOKENS,)),
    InputSpec(name="MASK", datatype="INT64", dims=(TOKENS,)),
)
FEATURES = 8
X = (InputSpec(name="X", datatype="FP32", dims=(FEATURES,)),)
ANSWER = ("LABEL", "CONFIDENCE")
RELIABILITY = Reliability(ece=0.0, ece_equal_width=0.0, nll=0.0, brier=0.0, auroc=None)
HEAD = CalibratedTier(
    tier="giant",
    method="temperature",
    signal="max_probability",
    temperature=1.5,
    accuracy=1.0,
    before=RELIABILITY,
    after=RELIABILITY,
)


@pytest.fixture(autouse=True)
def short_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cuts that follow from few runs are as good for what is tested here."""
    monkeypatch.setattr(staged, "MIN_SECONDS", 0.0)
    monkeypatch.setattr(staged, "MIN_RUNS", 3)


@pytest.fixture(scope="module")
def transformers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A ViT and a classifier of texts, exported as a tier is."""
    folder = tmp_path_factory.mktemp("transformers")
    torch.manual_seed(0)
    found = {}
    for name, module, inputs in (("vit", Vit(), PIXELS), ("text", TextClassifier(), TEXT)):
        whole = with_head(module, len(inputs), None, ServedOutputs(HEAD, None, False))
        found[name] = folder / f"{name}.onnx"
        write_onnx(to_onnx(whole, inputs, name), found[name])
    return found


def drawn(inputs: Sequence[InputSpec], rows: int = ROWS, seed: int = 0) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    found: dict[str, Array] = {}
    for spec in inputs:
        shape = (rows, *spec.dims)
        if spec.name == "IDS":
            found[spec.name] = rng.integers(0, WORDS, shape)
        elif spec.name == "MASK":
            found[spec.name] = (np.arange(TOKENS) < rng.integers(1, TOKENS + 1, (rows, 1))).astype(np.int64)
        else:
            found[spec.name] = rng.normal(size=shape).astype(np.float32)
    return found


def cut(
    folder: Path, graph: Path, inputs: tuple[InputSpec, ...], stages: int, cap_mib: float | None = None
) -> tuple[Partition, Path]:
    """Cut a graph as `export` does; the stages, and the folder where they are."""
    content = spec_content()
    source = {"name": "giant", "source": {"torch": "ladder:giant"}, "stages": stages}
    content["tiers"] = [{"name": "small", "source": {"torch": "ladder:small"}}, source]
    devices = "devices:\n  - {type: host, kind: cpu, cores: 2, memory_mib: 1024}\n"
    work = Workspace(write_cascade(folder / "cascade", content, {"devices.yaml": devices}), folder / "build")
    staging = folder / "staging"
    staging.mkdir()
    whole = staging / "giant.onnx"
    whole.write_bytes(graph.read_bytes())
    rows = Rows(drawn(inputs), np.zeros(ROWS, np.int64), np.arange(ROWS))
    exported = ExportedTier(
        tier="giant",
        format="onnx",
        file="export/giant.onnx",
        sha256=digest_file(whole),
        parameters=1,
        parity_rows=1,
        parity_label_mismatches=0,
        parity_confidence_error=0.0,
    )
    tier: Tier = work.cascade.tiers[-1]
    made = cut_into_stages(work, tier, exported, inputs, rows, whole, cap_mib).partition
    assert made is not None
    return made, staging


def refused(folder: Path, *arguments: object, **named: object) -> str:
    """The message of a partition that is refused; nothing of it stays behind."""
    with pytest.raises(UsageError) as caught:
        cut(folder, *arguments, **named)  # type: ignore[arg-type]
    left_as_it_was(folder)
    return caught.value.message


def left_as_it_was(folder: Path) -> None:
    assert [path.name for path in (folder / "staging").iterdir()] == ["giant.onnx"]


def chained(stages: Sequence[ExportedStage], folder: Path, inputs: dict[str, Array]) -> dict[str, Array]:
    """What the stage's files make of the rows, fed by the names that the record gives."""
    known = dict(inputs)
    for stage in stages:
        session = onnxruntime.InferenceSession(folder / Path(stage.file).name)
        assert [entry.name for entry in session.get_inputs()] == [spec.name for spec in stage.inputs]
        names = [spec.name for spec in stage.outputs]
        made = session.run(names, {spec.name: known[spec.name] for spec in stage.inputs})
        for spec, values in zip(stage.outputs, made, strict=True):
            assert values.shape == (len(values), *spec.dims)
            assert spec.name not in known
        known |= dict(zip(names, made, strict=True))
    return known


def run_whole(path: Path, inputs: dict[str, Array]) -> list[Array]:
    found: list[Array] = onnxruntime.InferenceSession(path).run(ANSWER, inputs)
    return found


@pytest.mark.parametrize("stages", [2, 4, 8])
@pytest.mark.parametrize(("kind", "inputs"), [("vit", PIXELS), ("text", TEXT)])
def test_the_stages_answer_as_the_whole(
    tmp_path: Path, transformers: dict[str, Path], kind: str, inputs: tuple[InputSpec, ...], stages: int
) -> None:
    made, folder = cut(tmp_path, transformers[kind], inputs, stages)
    assert [stage.number for stage in made.stages] == list(range(1, stages + 1))
    assert [Path(s.file).name for s in made.stages] == [
        f"giant_s{k}of{stages}.onnx" for k in range(1, stages + 1)
    ]
    assert all(digest_file(folder / Path(stage.file).name) == stage.sha256 for stage in made.stages)
    rows = drawn(inputs, 9, seed=1)
    known = chained(made.stages, folder, rows)
    label, confidence = run_whole(transformers[kind], rows)
    assert (known["LABEL"] == label).all()
    np.testing.assert_allclose(known["CONFIDENCE"], confidence, atol=1e-5)
    assert made.label_mismatches == 0
    assert made.confidence_error <= 1e-5
    assert made.balance == pytest.approx(
        max(s.time_ms for s in made.stages) / np.mean([s.time_ms for s in made.stages])
    )


@pytest.mark.parametrize(("kind", "tokens"), [("vit", (SIDE // 4) ** 2 + 1), ("text", TOKENS)])
def test_the_residual_stream_is_what_crosses(
    tmp_path: Path, transformers: dict[str, Path], kind: str, tokens: int
) -> None:
    graph = CuttableGraph(transformers[kind], PIXELS if kind == "vit" else TEXT, "giant")
    folder = tmp_path / "nodes"
    folder.mkdir()
    path = folder / "whole.onnx"
    save_graph(graph.model, graph.weights_bytes, path)
    inputs = PIXELS if kind == "vit" else TEXT
    runs = run_nodes(path, [drawn(inputs, 2), drawn(inputs, 3)], [drawn(inputs, 4)] * 2)
    alone = [entry for entry in graph.cuts(runs.made) if len(entry.values) == 1]
    stream = [e for e in alone if e.point.crossing_bytes == tokens * WIDTH * 4]
    adds = {e.values[0].producer() for e in stream}
    # Before the first block, and behind attention and MLP of each.
    assert sum(node.op_type == "Add" for node in adds if node is not None) >= 2 * BLOCKS
    assert set(runs.time_ms) == {node.name for node in graph.model.graph}


def test_a_mask_goes_to_every_stage_that_reads_it(tmp_path: Path, transformers: dict[str, Path]) -> None:
    made, _ = cut(tmp_path, transformers["text"], TEXT, 4)
    for stage in made.stages:
        names = [spec.name for spec in stage.inputs]
        assert "MASK" in names  # every block adds it to its scores, so none is passed on as a hidden tensor
        assert ("IDS" in names) == (stage.number == 1)
        assert any(name.startswith(PASSED_ON) for name in names) == (stage.number > 1)
    assert made.stages[-1].crossing_bytes == 0
    assert all(stage.crossing_bytes for stage in made.stages[:-1])


def test_tied_weights_are_in_both_stages(tmp_path: Path, transformers: dict[str, Path]) -> None:
    made, folder = cut(tmp_path, transformers["text"], TEXT, 4)
    held = [
        "body.words.weight"
        in {tensor.name for tensor in onnx.load(folder / Path(s.file).name).graph.initializer}
        for s in made.stages
    ]
    assert held == [True, False, False, True]
    whole_mib = (folder / "giant.onnx").stat().st_size / 2**20
    assert sum(stage.weights_mib for stage in made.stages) < whole_mib + WORDS * WIDTH * 4 / 2**20


def test_one_stage_is_the_tier_as_it_is(tmp_path: Path, transformers: dict[str, Path]) -> None:
    with pytest.raises(AssertionError):
        cut(tmp_path, transformers["vit"], PIXELS, 1)
    left_as_it_was(tmp_path)


def test_no_stage_holds_more_than_the_cap(tmp_path: Path, transformers: dict[str, Path]) -> None:
    whole_mib = transformers["vit"].stat().st_size / 2**20
    made, _ = cut(tmp_path, transformers["vit"], PIXELS, 4, cap_mib=whole_mib / 3)
    assert max(stage.weights_mib for stage in made.stages) <= whole_mib / 3


def test_a_cap_that_is_too_low_says_how_many_stages_would_do(
    tmp_path: Path, transformers: dict[str, Path]
) -> None:
    whole_mib = transformers["vit"].stat().st_size / 2**20
    with pytest.raises(Infeasible) as caught:
        cut(tmp_path, transformers["vit"], PIXELS, 2, cap_mib=whole_mib / 4)
    assert caught.value.message.startswith("tiers.giant.stages: 2 stages do not keep the cap of 0.2 MiB")
    smallest = caught.value.details["smallest_stages"]
    assert isinstance(smallest, int)
    assert caught.value.hint == f"set stages to {smallest}"
    left_as_it_was(tmp_path)
    made, _ = cut(tmp_path / "more", transformers["vit"], PIXELS, smallest, cap_mib=whole_mib / 4)
    assert len(made.stages) == smallest


def test_the_cap_is_what_the_smallest_device_leaves(tmp_path: Path) -> None:
    devices = """
        devices:
          - {type: host, kind: cpu, cores: 2, memory_mib: 2000, reserved_mib: 500}
          - {type: a30, kind: gpu, count: 2, memory_mib: 1400, reserved_mib: 100}
    """
    cascade = write_cascade(tmp_path, None, {"devices.yaml": devices})
    assert smallest_device_mib(Workspace(cascade, tmp_path / "build")) == 1300


# Graphs that are made by hand


def weights(name: str, *shape: int) -> TensorProto:
    values = np.random.default_rng(len(name)).normal(size=shape).astype(np.float32) / shape[0] ** 0.5
    return numpy_helper.from_array(values, name)


def node(kind: str, inputs: str, output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, inputs.split(), [output], **attributes)


def write_graph(
    folder: Path,
    nodes: list[onnx.NodeProto],
    tensors: list[TensorProto],
    logits: str,
    input_name: str = "X",
) -> Path:
    """A graph from X [rows, features] to LABEL and CONFIDENCE of its logits; nodes have no names."""
    head = [
        node("ArgMax", logits, "LABEL", axis=1, keepdims=1),
        node("Softmax", logits, "probabilities", axis=1),
        node("ReduceMax", "probabilities", "CONFIDENCE", axes=[1], keepdims=1),
    ]
    graph = helper.make_graph(
        [*nodes, *head],
        "by_hand",
        [helper.make_tensor_value_info(input_name, TensorProto.FLOAT, ["rows", FEATURES])],
        [
            helper.make_tensor_value_info("LABEL", TensorProto.INT64, ["rows", 1]),
            helper.make_tensor_value_info("CONFIDENCE", TensorProto.FLOAT, ["rows", 1]),
        ],
        tensors,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    folder.mkdir(exist_ok=True)
    path = folder / "by_hand.onnx"
    onnx.save(model, path)
    return path


def layers(count: int, first: str = "X") -> list[onnx.NodeProto]:
    """MatMul and Relu, from `first` to y<count>."""
    names = [first, *(f"y{k}" for k in range(1, count + 1))]
    found = []
    for k in range(1, count + 1):
        found += [node("MatMul", f"{names[k - 1]} w{k}", f"h{k}"), node("Relu", f"h{k}", names[k])]
    return found


def square(count: int) -> list[TensorProto]:
    return [weights(f"w{k}", FEATURES, FEATURES) for k in range(1, count + 1)]


def test_more_stages_than_parts_are_refused(tmp_path: Path) -> None:
    graph = write_graph(tmp_path / "graph", layers(3), square(3), "y3")
    # Between the first and the last MatMul: behind h1, y1, h2 and y2.
    assert refused(tmp_path, graph, X, 8) == (
        "tiers.giant.stages: 8 stages: the graph has only 4 cut points, so at most 5 stages"
    )


def test_a_stage_needs_weights(tmp_path: Path) -> None:
    graph = write_graph(tmp_path / "graph", layers(1), square(1), "y1")
    assert "tiers.giant.stages: the graph cannot be cut: " in refused(tmp_path, graph, X, 2)


def test_dense_skip_connections_cannot_be_cut(tmp_path: Path) -> None:
    nodes, tensors, made = [], [], ["X"]
    for k in range(1, 9):
        before = " ".join(made)
        nodes += [
            node("Concat", before, f"c{k}", axis=1),
            node("MatMul", f"c{k} w{k}", f"m{k}"),
            node("Erf", f"m{k}", f"y{k}"),
        ]
        tensors.append(weights(f"w{k}", FEATURES * len(made), FEATURES))
        made.append(f"y{k}")
    nodes += [node("Concat", " ".join(made), "all", axis=1), node("MatMul", "all last", "logits")]
    graph = write_graph(
        tmp_path / "graph", nodes, [*tensors, weights("last", FEATURES * len(made), 3)], "logits"
    )
    found = CuttableGraph(graph, X, "giant")
    save_graph(found.model, found.weights_bytes, tmp_path / "whole.onnx")
    runs = run_nodes(tmp_path / "whole.onnx", [drawn(X, 2), drawn(X, 3)], [drawn(X, 4)] * 2)
    places = [entry.point.position for entry in found.cuts(runs.made)]
    # At most y1, y2 and y3 are alive in front of the fourth layer, and in the end only what joins them all.
    assert places == [*range(1, 9), 24]


def test_parallel_branches_cannot_be_cut_so_that_it_helps(tmp_path: Path) -> None:
    nodes, tensors = [], []
    for branch in range(5):
        nodes += [node("MatMul", f"X w{branch}", f"y{branch}_0")]
        nodes += [node("Erf", f"y{branch}_{k}", f"y{branch}_{k + 1}") for k in range(20)]
        tensors.append(weights(f"w{branch}", FEATURES, 64))
    # Branch by branch instead of one after the other, as a scheduler might leave them.
    nodes = [nodes[21 * branch + k] for k in range(21) for branch in range(5)]
    ends = " ".join(f"y{branch}_20" for branch in range(5))
    nodes += [node("Concat", ends, "all", axis=1), node("MatMul", "all last", "logits")]
    graph = write_graph(tmp_path / "graph", nodes, [*tensors, weights("last", 320, 3)], "logits")
    message = refused(tmp_path, graph, X, 2)
    assert message.startswith("tiers.giant.stages: the graph cannot be cut so that it helps: ")
    assert "more than 3 tensors" in message


def test_stages_that_mix_the_rows_of_a_batch_are_refused(tmp_path: Path) -> None:
    nodes = [
        *layers(2),
        node("ReduceMean", "y2", "mean", axes=[0], keepdims=1),
        node("Sub", "y2 mean", "moved"),
        node("MatMul", "moved w3", "logits"),
    ]
    graph = write_graph(tmp_path / "graph", nodes, square(3), "logits")
    with pytest.raises(CheckFailed, match=r"tiers\.giant\.stages: the stages one after the other differ"):
        cut(tmp_path, graph, X, 2)
    left_as_it_was(tmp_path)


def test_shapes_are_made_again_where_they_are_read(tmp_path: Path) -> None:
    """Shape of a hidden tensor, read again at the end; and an input that has the name of a hidden tensor."""
    name = f"{PASSED_ON}0"
    sizes = numpy_helper.from_array(np.array([2, FEATURES // 2], np.int64), "sizes")
    flat = numpy_helper.from_array(np.array([FEATURES], np.int64), "flat")
    zero = numpy_helper.from_array(np.array([0], np.int64), "zero")
    nodes = [
        node("MatMul", f"{name} w1", "h1"),
        node("Shape", "h1", "shape"),
        node("Gather", "shape zero", "rows"),
        node("Concat", "rows sizes", "apart", axis=0),
        node("Concat", "rows flat", "together", axis=0),
        node("MatMul", "h1 w2", "h2"),
        node("Reshape", "h2 apart", "pairs"),
        node("Softmax", "pairs", "soft"),
        node("Reshape", "soft together", "h3"),
        node("MatMul", "h3 w3", "h4"),
        node("MatMul", "h4 w4", "logits"),
    ]
    graph = write_graph(tmp_path / "graph", nodes, [*square(4), sizes, flat, zero], "logits", name)
    inputs = (InputSpec(name=name, datatype="FP32", dims=(FEATURES,)),)
    made, folder = cut(tmp_path, graph, inputs, 4)
    crossing = [spec for stage in made.stages for spec in stage.outputs if spec.name not in ANSWER]
    assert {spec.name.removesuffix(spec.name[-1]) for spec in crossing} == {f"X_{PASSED_ON}"}
    assert {spec.datatype for spec in crossing} == {"FP32"}  # no shape among them
    rows = drawn(inputs, 7, seed=1)
    np.testing.assert_allclose(
        chained(made.stages, folder, rows)["CONFIDENCE"], run_whole(graph, rows)[1], atol=1e-6
    )


def test_weights_beside_a_graph_stay_beside_its_stages(tmp_path: Path) -> None:
    plain = write_graph(tmp_path / "plain", layers(4), square(4), "y4")
    apart = tmp_path / "apart" / "whole.onnx"
    apart.parent.mkdir()
    assert write_onnx(onnx.load(plain), apart, limit_bytes=1) == (apart.with_suffix(".weights"),)
    graph = CuttableGraph(apart, X, "giant")
    probe = tmp_path / "probe.onnx"
    assert save_graph(graph.model, graph.weights_bytes, probe) == ()  # small enough for one file
    runs = run_nodes(probe, [drawn(X, 2), drawn(X, 3)], [drawn(X, 4)] * 2)
    cuts = graph.cuts(runs.made)
    last = graph.stages([cuts[2]])[-1]
    path = tmp_path / "last.onnx"
    assert save_graph(last.model, last.weights_bytes, path, limit_bytes=1) == (path.with_suffix(".weights"),)
    hidden = drawn(X, 5)["X"]
    found = onnxruntime.InferenceSession(path).run(["CONFIDENCE"], {last.inputs[0].name: hidden})
    assert np.isfinite(found[0]).all()


def test_only_what_has_the_batch_in_front_counts_as_a_tensor_that_may_cross(tmp_path: Path) -> None:
    nodes = [
        node("MatMul", "X w1", "h1"),
        node("Transpose", "h1", "sideways", perm=[1, 0]),
        node("Erf", "sideways", "soft"),
        node("Transpose", "soft", "back", perm=[1, 0]),
        node("MatMul", "back w2", "logits"),
    ]
    graph = CuttableGraph(write_graph(tmp_path / "graph", nodes, square(2), "logits"), X, "giant")
    probe = tmp_path / "probe.onnx"
    save_graph(graph.model, graph.weights_bytes, probe)
    runs = run_nodes(probe, [drawn(X, 2), drawn(X, 3)], [drawn(X, 4)] * 2)
    by_output = {n.outputs[0].name: runs.made[n.name or ""][0] for n in graph.model.graph}
    assert by_output["h1"] == MadeTensor("FP32", (FEATURES,))
    assert by_output["sideways"].dims == ()
    # Behind h1, h1 itself crosses; in front of Erf the transpose is run again; behind it nothing will do.
    assert [[v.name for v in entry.values] for entry in graph.cuts(runs.made)] == [["h1"], ["h1"], ["back"]]


def test_a_file_that_is_no_graph_is_named(tmp_path: Path) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"not a graph")
    with pytest.raises(UsageError, match=r"giant: .*broken\.onnx: not a graph that can be cut: "):
        CuttableGraph(path, X, "giant")
