"""Models that label tokens: a row is as sure as its least sure token, and right if all tokens are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import yaml
from onnx import TensorProto, helper, numpy_helper

from cascade_tools.artifacts import CalibratedTier, InputSpec, Reliability
from cascade_tools.models.head import ServedOutputs
from cascade_tools.models.source import ExportableSource
from cascade_tools.models.sources import load_source
from cascade_tools.planning.calibration import (
    Head,
    Method,
    Signal,
    best_head,
    fit_head,
    fit_temperature,
    is_right,
    reliability,
)
from cascade_tools.runtime.head import apply_head
from cascade_tools.store import load_score_table

from .cli_calls import Outcome, assert_refused, call
from .helpers import Array, spec_content, write_cascade
from .token_pair import CLASSES, TOKENS, write_token_pair

NO_WORTH = Reliability(ece=0.0, ece_equal_width=0.0, nll=0.0, brier=0.0, auroc=None)
SIGNALS: tuple[Signal, ...] = ("max_probability", "margin", "entropy")
METHODS: tuple[Method, ...] = ("temperature", "platt", "isotonic", "none")


def token_rows(rows: int = 400, seed: int = 0) -> tuple[Array, Array]:
    """Logits [rows, tokens, classes] of an over-confident model; some targets do not count."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0.0, 2.0, (rows, TOKENS, CLASSES))
    chance = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    target = (chance.cumsum(axis=-1) < rng.random((rows, TOKENS, 1))).sum(axis=-1).clip(0, CLASSES - 1)
    length = rng.integers(1, TOKENS + 1, rows)
    target[np.arange(TOKENS) >= length[:, None]] = -1
    return (3.0 * logits).astype(np.float32), target


# The head


@pytest.mark.parametrize("signal", SIGNALS)
def test_a_row_is_as_sure_as_its_least_sure_token(signal: str) -> None:
    logits, target = token_rows()
    mask = target >= 0
    found = apply_head(logits, 1.3, signal, mask=mask)
    for row in range(20):
        alone = apply_head(logits[row], 1.3, signal)
        assert found.confidence[row] == pytest.approx(alone.confidence[mask[row]].min())
        assert found.label[row].tolist() == np.where(mask[row], alone.label, -1).tolist()


def test_without_a_mask_every_token_counts() -> None:
    logits, _ = token_rows(20)
    everything = np.ones(logits.shape[:2], bool)
    assert (apply_head(logits).confidence == apply_head(logits, mask=everything).confidence).all()
    assert (apply_head(logits).label >= 0).all()


def test_a_row_without_any_token_is_sure() -> None:
    found = apply_head(token_rows(1)[0], mask=np.zeros((1, TOKENS), bool))
    assert found.confidence.tolist() == [1.0]
    assert found.label.tolist() == [[-1] * TOKENS]


def test_one_token_is_as_one_label() -> None:
    logits, _ = token_rows(30)
    alone, of_tokens = apply_head(logits[:, 0]), apply_head(logits[:, :1])
    assert (alone.confidence == of_tokens.confidence).all()
    assert (alone.label == of_tokens.label[:, 0]).all()


# The fit


def test_the_temperature_is_that_of_the_tokens_that_count() -> None:
    logits, target = token_rows()
    counts = target >= 0
    assert fit_temperature(logits, target) == pytest.approx(fit_temperature(logits[counts], target[counts]))


@pytest.mark.parametrize("method", METHODS)
def test_a_head_of_tokens_is_no_worse_calibrated_than_before(method: Method) -> None:
    logits, target = token_rows(3000)
    fresh, wanted = token_rows(3000, seed=1)
    head = fit_head(logits, target, method, "max_probability")
    before = reliability(fresh, wanted, Head("none", "max_probability"))
    after = reliability(fresh, wanted, head)
    assert after.ece <= before.ece + 1e-9
    if method in ("platt", "isotonic"):
        assert after.ece < 0.5 * before.ece


def test_auto_picks_a_head_for_tokens() -> None:
    logits, target = token_rows(600)
    assert best_head(logits, target, np.arange(600), "max_probability").method in ("platt", "isotonic")


def test_one_wrong_token_makes_a_row_wrong() -> None:
    assert is_right(np.array([[1, 2], [1, 0], [1, -1]]), np.array([[1, 2], [1, 2], [1, -1]])).tolist() == [
        True,
        False,
        True,
    ]


# The graph


def head_of(signal: str) -> CalibratedTier:
    return CalibratedTier.model_validate(
        {
            "tier": "small",
            "method": "temperature",
            "signal": signal,
            "temperature": 1.7,
            "accuracy": 0.5,
            "before": NO_WORTH,
            "after": NO_WORTH,
        }
    )


WEIGHT = np.random.default_rng(2).normal(size=(4, CLASSES)).astype(np.float32)
SPECS = (
    InputSpec(name="X", datatype="FP32", dims=(TOKENS, 4)),
    InputSpec(name="COUNTS", datatype="INT64", dims=(TOKENS,)),
)
LADDER = f"""
    import torch

    class Tagger(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.tensor({WEIGHT.tolist()}))

        def forward(self, x, counts):
            return x @ self.weight + 0.0 * counts[..., None]
"""


def onnx_tagger() -> onnx.ModelProto:
    """The same as the module, as another framework would write it."""
    nodes = [
        helper.make_node("MatMul", ["X", "weight"], ["seen"]),
        helper.make_node("Cast", ["COUNTS"], ["counts"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["counts", "last"], ["wide"]),
        helper.make_node("Mul", ["wide", "zero"], ["nothing"]),
        helper.make_node("Add", ["seen", "nothing"], ["out"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tagger",
        [
            helper.make_tensor_value_info("X", TensorProto.FLOAT, ["rows", TOKENS, 4]),
            helper.make_tensor_value_info("COUNTS", TensorProto.INT64, ["rows", TOKENS]),
        ],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["rows", TOKENS, CLASSES])],
        [
            numpy_helper.from_array(WEIGHT, "weight"),
            numpy_helper.from_array(np.array([-1]), "last"),
            numpy_helper.from_array(np.array(0.0, np.float32), "zero"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def source_in(folder: Path, kind: str) -> ExportableSource:
    content = spec_content()
    source = {"torch": "token_ladder:Tagger"} if kind == "torch" else {"onnx": "tagger.onnx"}
    content["tiers"] = [{"name": "small", "source": source}]
    cascade = write_cascade(folder, content, {"token_ladder.py": LADDER})
    onnx.save(onnx_tagger(), folder / "tagger.onnx")
    return load_source(cascade, cascade.tiers[0])


@pytest.mark.parametrize("signal", SIGNALS)
@pytest.mark.parametrize("kind", ["torch", "onnx"])
def test_the_exported_graph_answers_as_the_head(tmp_path: Path, kind: str, signal: str) -> None:
    source = source_in(tmp_path, kind)
    head = head_of(signal)
    graph = source.export(ServedOutputs(head, "COUNTS", False), SPECS)
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    assert {entry.name for entry in session.get_inputs()} == {"X", "COUNTS"}
    rng = np.random.default_rng(3)
    for rows in (1, 9):
        counts = (rng.random((rows, TOKENS)) < 0.7).astype(np.int64)
        inputs: dict[str, Array] = {
            "X": rng.normal(size=(rows, TOKENS, 4)).astype(np.float32),
            "COUNTS": counts,
        }
        label, confidence = session.run(["LABEL", "CONFIDENCE"], inputs)
        wanted = apply_head(source.logits(inputs), head.temperature, signal, mask=counts != 0)
        assert label.tolist() == wanted.label.tolist()
        np.testing.assert_allclose(confidence, wanted.confidence[:, None], atol=1e-5)


# The chain up to the search


def edited(folder: Path, change: dict[str, Any]) -> Path:
    path = folder / "cascade.yaml"
    content = yaml.safe_load(path.read_text())
    for section, values in change.items():
        content[section] = {**content.get(section, {}), **values}
    path.write_text(yaml.safe_dump(content))
    return folder


def run(verb: str, folder: Path, *options: object) -> Outcome:
    return call(verb, folder, "--build-dir", folder / "build", *options, "--json")


def test_rows_of_tokens_become_a_score_table(tmp_path: Path) -> None:
    folder = write_token_pair(tmp_path / "tokens")
    outcome = run("calibrate", folder)
    assert outcome.code == 0, outcome.err
    table = load_score_table(folder / "build" / "tokens" / "scores.npz")
    right = table.label == table.target[:, None]
    accuracy = {tier["tier"]: tier["accuracy"] for tier in outcome.content["tiers"]}
    held_out = table.split != "fit"
    assert accuracy == pytest.approx(dict(zip(table.tiers, right[held_out].mean(axis=0), strict=True)))
    assert accuracy["rough"] < accuracy["sharp"]
    assert (np.diff(table.confidence, axis=0) != 0).any()


def test_calibration_is_checked_on_other_tokens(tmp_path: Path) -> None:
    folder = write_token_pair(tmp_path / "tokens")
    assert run("calibrate", folder).code == 0
    logits, target = token_rows(50)
    other = tmp_path / "other.npz"
    np.savez(other, logits_rough=logits, logits_sharp=logits, target=target)
    outcome = run("calibrate", folder, "--check", other)
    assert outcome.code == 0, outcome.err
    np.savez(other, logits_rough=logits[:, 0], logits_sharp=logits[:, 0], target=target[:, 0])
    assert_refused(run("calibrate", folder, "--check", other), 2, "logits_rough", "[rows, tokens, classes]")


def test_the_giant_s_tokens_may_be_the_truth(tmp_path: Path) -> None:
    folder = edited(write_token_pair(tmp_path / "tokens"), {"data": {"labels": "giant"}})
    outcome = run("calibrate", folder)
    assert outcome.code == 0, outcome.err
    assert {tier["tier"]: tier["accuracy"] for tier in outcome.content["tiers"]}["sharp"] == 1.0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"calibration": {"mask": None}}, ("calibration.mask", "target is -1 for some tokens")),
        ({"calibration": {"mask": "X"}}, ("calibration.mask: X must be an input [rows, tokens]",)),
        ({"calibration": {"mask": "NONE"}}, ("calibration.mask: NONE must be an input",)),
        ({"data": {"validation": "token_pair:other_mask"}}, ("COUNTS must be 0 exactly where target is -1",)),
        ({"data": {"validation": "token_pair:flat_target"}}, ("calibration.mask", "target is [rows]")),
        ({"data": {"validation": "token_pair:high_target"}}, ("target has labels -1 to 7", "0 to 2")),
    ],
)
def test_what_does_not_fit_tokens_is_named(
    tmp_path: Path, change: dict[str, Any], words: tuple[str, ...]
) -> None:
    folder = edited(write_token_pair(tmp_path / "tokens"), change)
    assert_refused(run("calibrate", folder), 2, *words)


def test_probabilities_of_tokens_are_refused(tmp_path: Path) -> None:
    folder = edited(write_token_pair(tmp_path / "tokens"), {"serving": {"probabilities": True}})
    assert run("calibrate", folder).code == 0
    assert_refused(run("export", folder), 2, "serving.probabilities")


def test_the_exported_labels_are_those_of_torch(tmp_path: Path) -> None:
    folder = write_token_pair(tmp_path / "tokens")
    assert run("calibrate", folder).code == 0
    assert run("export", folder).code == 0
    exported = json.loads((folder / "build" / "tokens" / "exported.json").read_text())
    assert [tier["parity_label_mismatches"] for tier in exported["tiers"]] == [0, 0]
    assert all(tier["parity_confidence_error"] < 1e-4 for tier in exported["tiers"])
    assert torch.is_grad_enabled()
