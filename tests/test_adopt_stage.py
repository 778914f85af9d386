"""A served model is held against the spec and the rows before it is asked for anything."""

from __future__ import annotations

import base64
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format
from rich.console import Console
from tritonclient.grpc import model_config_pb2 as pb
from tritonclient.utils import deserialize_bytes_tensor

from cascade_tools.artifacts import AdoptedInput, InputSpec
from cascade_tools.errors import UsageError
from cascade_tools.serving.adopted import adopted_of, adopted_to_serve
from cascade_tools.serving.perf_analyzer import input_data
from cascade_tools.spec import Cascade
from cascade_tools.stages.adopted import looks_like_probabilities, match, model_digest, served_inputs
from cascade_tools.stages.calibrate import calibrate
from cascade_tools.stages.digests import source_digests
from cascade_tools.stages.progress import Reporter
from cascade_tools.store import Workspace
from tests.helpers import Json, spec_content, write_cascade

SPECS = (
    InputSpec(name="TEXT", datatype="BYTES", dims=(1,)),
    InputSpec(name="IDS", datatype="INT64", dims=(7,)),
    InputSpec(name="IMAGE", datatype="FP32", dims=(3, 8, 8)),
)
READER = """
    name: "Reader" max_batch_size: 64
    input { name: "TEXT" data_type: TYPE_STRING dims: [-1] }
    input { name: "hint" data_type: TYPE_FP32 dims: [1] optional: true }
    output { name: "scores" data_type: TYPE_FP16 dims: [5] }
    instance_group { count: 2 kind: KIND_CPU }
    instance_group { count: 1 kind: KIND_GPU gpus: [0, 3] }
"""
TWO = """
    name: "Two" max_batch_size: 0
    input { name: "ids:0" data_type: TYPE_INT32 dims: [-1, -1] }
    input { name: "image" data_type: TYPE_FP16 dims: [-1, 3, -1, -1] }
    output { name: "a" data_type: TYPE_FP32 dims: [-1, 5] }
    output { name: "b" data_type: TYPE_INT64 dims: [-1] }
"""
TWO_SOURCE = {"triton": "Two", "inputs": {"IDS": "ids:0", "IMAGE": "image"}, "output": "a"}


def cascade_of(folder: Path, *sources: Json, exported: bool = False) -> Cascade:
    content = spec_content()
    tiers = [{"name": f"t{number}", "source": source} for number, source in enumerate(sources)]
    content["tiers"] = [*([{"name": "first", "source": {"torch": "a:b"}}] if exported else []), *tiers]
    content["triton"] = {"repository": "models"}
    for source in sources:
        (folder / "models" / source["triton"] / "1").mkdir(parents=True, exist_ok=True)
    return write_cascade(folder, content)


def config(text: str) -> pb.ModelConfig:
    found = pb.ModelConfig()
    text_format.Parse(text, found)
    return found


def refusal(folder: Path, source: Json, text: str) -> str:
    cascade = cascade_of(folder, source)
    with pytest.raises(UsageError) as caught:
        match(cascade, cascade.tiers[0], config(text), SPECS)
    return f"{caught.value.message} -> {caught.value.hint}"


def test_equal_names_need_nothing_said(tmp_path: Path) -> None:
    cascade = cascade_of(tmp_path, {"triton": "Reader", "gives": "probabilities"})
    found = match(cascade, cascade.tiers[0], config(READER), SPECS)
    assert found.inputs == (AdoptedInput(name="TEXT", model_input="TEXT", datatype="BYTES"),)
    assert (found.tier, found.model, found.output, found.gives) == (
        "t0",
        "Reader",
        "scores",
        "probabilities",
    )
    assert found.instances == 4, "two on the CPU, one on each of two GPUs"


def test_other_names_and_narrower_datatypes_are_mapped(tmp_path: Path) -> None:
    cascade = cascade_of(tmp_path, TWO_SOURCE)
    found = match(cascade, cascade.tiers[0], config(TWO), SPECS)
    assert [(one.name, one.model_input, one.datatype) for one in found.inputs] == [
        ("IDS", "ids:0", "INT32"),
        ("IMAGE", "image", "FP16"),
    ]
    assert (found.output, found.instances) == ("a", None)


def test_sizes_are_free_where_every_tier_takes_any(tmp_path: Path) -> None:
    cascade = cascade_of(tmp_path, {"triton": "Reader"}, TWO_SOURCE)
    described = {
        tier.name: (match(cascade, tier, config(text), SPECS), config(text))
        for tier, text in zip(cascade.tiers, (READER, TWO), strict=True)
    }
    found = served_inputs(cascade, SPECS, described)
    assert [spec.dims for spec in found] == [(-1,), (-1,), (3, -1, -1)]
    mixed = cascade_of(tmp_path / "mixed", {"triton": "Reader"}, TWO_SOURCE, exported=True)
    assert served_inputs(mixed, SPECS, described) == SPECS
    with pytest.raises(UsageError, match="no tier reads the input 'TEXT'"):
        only = cascade_of(tmp_path / "only", TWO_SOURCE)
        served_inputs(only, SPECS, {"t0": described["t1"]})


BROKEN: dict[str, tuple[Json, str, str]] = {
    "sequences": (
        {"triton": "Reader"},
        READER + "sequence_batching { }",
        "tiers.t0.source.triton: Reader is decoupled or keeps sequences",
    ),
    "decoupled": (
        {"triton": "Reader"},
        READER + "model_transaction_policy { decoupled: true }",
        "tiers.t0.source.triton: Reader is decoupled or keeps sequences",
    ),
    "small batches": (
        {"triton": "Reader"},
        READER.replace("64", "8"),
        "serving.max_batch_size: 32, but model Reader of tiers.t0.source.triton takes at most 8 rows "
        "-> set it to 8 or less",
    ),
    "no batches": (
        {"triton": "Reader"},
        READER.replace("64", "0"),
        "tiers.t0.source.triton: Reader takes no batches",
    ),
    "two outputs": (
        {**TWO_SOURCE, "output": None},
        TWO,
        "tiers.t0.source.output: Two has a, b; say which holds the scores",
    ),
    "another output": (
        {**TWO_SOURCE, "output": "c"},
        TWO,
        "tiers.t0.source.output: Two has no 'c'; it has a, b",
    ),
    "labels": (
        {**TWO_SOURCE, "output": "b"},
        TWO,
        "tiers.t0.source.output: b of Two is INT64, scores must be",
    ),
    "an input that nothing is for": (
        {"triton": "Two", "inputs": {"IDS": "ids:0"}, "output": "a"},
        TWO,
        "tiers.t0.source.inputs: Two takes ids:0, image, the data has TEXT, IDS, IMAGE: nothing is for image",
    ),
    "no name in common": ({"triton": "Two", "output": "a"}, TWO, "nothing is for ids:0, image"),
    "an input of nobody": (
        {**TWO_SOURCE, "inputs": {"IDS": "ids:0", "IMAGE": "picture"}},
        TWO,
        "tiers.t0.source.inputs: Two has no input 'picture'; it has ids:0, image",
    ),
    "data of nobody": (
        {**TWO_SOURCE, "inputs": {"ROWS": "ids:0", "IMAGE": "image"}},
        TWO,
        "tiers.t0.source.inputs: 'ROWS' is none of the data's inputs TEXT, IDS, IMAGE",
    ),
    "texts for numbers": (
        {**TWO_SOURCE, "inputs": {"TEXT": "ids:0", "IMAGE": "image"}},
        TWO,
        "TEXT is BYTES, ids:0 of Two takes INT32 -> give the data as INT32",
    ),
    "fractions for whole numbers": (
        TWO_SOURCE,
        TWO.replace("TYPE_FP16", "TYPE_INT32"),
        "IMAGE is FP32, image of Two takes INT32",
    ),
    "a type that numpy lacks": (
        TWO_SOURCE,
        TWO.replace("TYPE_FP16", "TYPE_BF16"),
        "IMAGE is FP32, image of Two takes BF16 -> the router cannot make that",
    ),
    "another shape": (
        TWO_SOURCE,
        TWO.replace("[-1, 3, -1, -1]", "[-1, 1, -1, -1]"),
        "rows of IMAGE have shape [3, 8, 8], image of Two takes [1, -1, -1]",
    ),
    "more dimensions": (TWO_SOURCE, TWO.replace("dims: [-1, -1]", "dims: [-1, -1, -1]"), "takes [-1, -1]"),
}


@pytest.mark.parametrize(("source", "text", "what"), BROKEN.values(), ids=BROKEN)
def test_a_model_that_does_not_fit_is_refused_with_the_field(
    tmp_path: Path, source: Json, text: str, what: str
) -> None:
    assert what in refusal(tmp_path, source, text)


def test_a_changed_file_of_an_external_model_changes_the_digests(tmp_path: Path) -> None:
    content = spec_content()
    content["tiers"][1]["source"] = {"triton": "Giant"}
    content["triton"] = {"external_repository": str(tmp_path / "models")}
    version = tmp_path / "models" / "Giant" / "1"
    version.mkdir(parents=True)
    (version / "model.py").write_text("one")
    cascade = write_cascade(tmp_path / "pair", content)
    before = source_digests(cascade, None)
    assert before["model Giant"] == model_digest(cascade, "Giant")
    (version / "__pycache__").mkdir()
    (version / "__pycache__" / "model.pyc").write_text("compiled")
    assert source_digests(cascade, None) == before
    (version / "model.py").write_text("two")
    after = source_digests(cascade, None)
    assert {name for name in before if before[name] != after[name]} == {"model Giant"}


def test_a_model_that_is_not_there_is_named_with_its_tier(tmp_path: Path) -> None:
    cascade = cascade_of(tmp_path, {"triton": "Reader"})
    (tmp_path / "models" / "Reader" / "1").rmdir()
    (tmp_path / "models" / "Reader").rmdir()
    with pytest.raises(UsageError, match=r"tiers\.t0\.source\.triton: .*models/Reader: no such model"):
        adopted_of(cascade)


def test_the_models_of_another_server_cannot_be_served_by_ours(tmp_path: Path) -> None:
    content = spec_content()
    content["tiers"][1]["source"] = {"triton": "Giant"}
    content["triton"] = {"url": "gpu-host:8001"}
    with pytest.raises(UsageError, match=r"triton\.url: the models of that server"):
        adopted_to_serve(write_cascade(tmp_path, content))
    assert adopted_to_serve(write_cascade(tmp_path / "none")) is None


def test_texts_cannot_be_read_by_a_model_that_is_exported(tmp_path: Path) -> None:
    content = {**spec_content(), "data": {"validation": "rows.npz"}}
    cascade = write_cascade(tmp_path, content)
    np.savez(tmp_path / "rows.npz", TEXT=np.full((9, 1), "word"), target=np.arange(9) % 3)
    with pytest.raises(UsageError, match=r"tiers\.small\.source: .* none reads texts, which TEXT of"):
        calibrate(Workspace(cascade, tmp_path / "build"), {}, Reporter(Console(quiet=True)))


def test_texts_go_to_perf_analyzer_as_they_are_sent() -> None:
    texts = np.array([[b"one", b""], ["zwölf".encode(), b"3"]], np.object_)
    sent = [base64.b64decode(row["TEXT"]["b64"]) for row in input_data({"TEXT": texts})]
    assert [deserialize_bytes_tensor(raw).tolist() for raw in sent] == texts.tolist()


def test_probabilities_that_are_called_logits_are_noticed() -> None:
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(4), 50).astype(np.float32)
    assert looks_like_probabilities(probabilities)
    assert not looks_like_probabilities(np.log(probabilities))
    assert not looks_like_probabilities(np.ones((5, 1), np.float32))
