"""Adopted models on a real Triton: asked through the router, and planned beside exported tiers.

One server has a router over three models of the Python backend that know nothing of cascades: texts
(BYTES, any length), two inputs of other names (INT64 and UINT8, max_batch_size 0), and half precision that
gives probabilities. It has the router of a ladder of an exported tier and an adopted one, too.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.grpc.aio as triton_aio
import yaml
from safetensors.numpy import load_file
from tritonclient.utils import InferenceServerException

from cascade_tools.artifacts import Calibration, Exported, GearPlan, Placement, Profile
from cascade_tools.errors import CascadeError
from cascade_tools.models.usercode import load_rows
from cascade_tools.planning.evaluate import follow, threshold_policy
from cascade_tools.repository.manifest import MANIFEST, make_manifest
from cascade_tools.repository.render import code_files, render_configs
from cascade_tools.runtime.head import apply_head
from cascade_tools.serving.embedded import Adopted, Server, embedded_triton
from cascade_tools.serving.infer import infer_rows
from cascade_tools.spec import load_cascade
from cascade_tools.stages.calibrate import CALIBRATION_FILE, SCORES_FILE
from cascade_tools.stages.export import EXPORTED_FILE
from cascade_tools.stages.gears import GEARS_FILE
from cascade_tools.stages.pipeline import run_all, run_stage, status
from cascade_tools.stages.place import PLACEMENT_FILE
from cascade_tools.stages.profile import PROFILE_FILE
from cascade_tools.stages.progress import Reporter
from cascade_tools.store import Workspace, load_score_table, write_atomically

from ..cli_calls import forgotten_user_code
from ..helpers import gear_entry, ladder_entry, plan_content, route_entry
from ..test_render import placement
from .helpers import PATIENCE_S, to_bytes, took_over, wait_until, with_policies

pytestmark = pytest.mark.usefixtures("triton")

Array = npt.NDArray[Any]
CLASSES = 3
MODEL = """
import json

import numpy as np
import triton_python_backend_utils as pb_utils

{function}


class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        self.names = [entry["name"] for entry in config["input"]]
        self.output = config["output"][0]["name"]

    def execute(self, requests):
        return [
            pb_utils.InferenceResponse(
                output_tensors=[
                    pb_utils.Tensor(
                        self.output,
                        scores(*[pb_utils.get_input_tensor_by_name(r, n).as_numpy() for n in self.names]),
                    )
                ]
            )
            for r in requests
        ]
"""
# What the models compute; the tests run the same in process.
READER = """
def scores(text):
    lengths = [[sum(len(part) for part in row) % k for k in (5, 7, 11)] for row in text]
    return np.array(lengths, np.float32)[:, None, :] - text.shape[1]
"""
PAIR = """
def scores(ids, kinds):
    total = ids.sum(axis=1, dtype=np.int64)[:, None] + kinds.sum(axis=1, dtype=np.int64)[:, None]
    return np.sin(total * np.array([[1.0, 2.0, 3.0]])).astype(np.float32) * 3.0
"""
HALF = """
def scores(image):
    assert image.dtype == np.float16
    wide = np.exp(image[:, :3].astype(np.float32))
    return (wide / wide.sum(axis=1, keepdims=True)).astype(np.float16)
"""
# The last tier of the small cascade.
KERNEL = """
from pathlib import Path

WEIGHTS = dict(np.load(Path(__file__).with_name("kernel.npz")))
POINTS, VOTES = WEIGHTS["points"], WEIGHTS["votes"]


def scores(image):
    distance = (image**2).sum(1, keepdims=True) - 2.0 * (image @ POINTS.T) + (POINTS**2).sum(1)
    return np.log(np.exp(-3.0 * distance) @ VOTES + 1e-12).astype(np.float32)[:, None]
"""
CONFIG = """
backend: "python"
max_batch_size: {size}
{tensors}
instance_group {{ count: 1 kind: KIND_CPU }}
"""


def write_model(
    repository: Path, name: str, function: str, size: int, tensors: list[tuple[str, str, str, str]]
) -> None:
    """A model of (kind, name, datatype, dims); it batches only where it must."""
    folder = repository / name
    (folder / "1").mkdir(parents=True)
    (folder / "1" / "model.py").write_text(MODEL.replace("{function}", function))
    lines = [f'{kind} {{ name: "{n}" data_type: TYPE_{t} dims: [{d}] }}' for kind, n, t, d in tensors]
    (folder / "config.pbtxt").write_text(CONFIG.format(size=size, tensors="\n".join(lines)))


def run_in_process(function: str, *inputs: Array) -> Array:
    names: dict[str, Any] = {"np": np}
    exec(function, names)
    found: Array = names["scores"](*inputs)
    return found


def write_models(repository: Path) -> tuple[str, ...]:
    """The names of the models that are written."""
    write_model(
        repository,
        "Reader.v2",
        READER,
        8,
        [("input", "text.in", "STRING", "-1"), ("output", "scores", "FP32", "1, 3")],
    )
    write_model(
        repository,
        "PAIR",
        PAIR,
        0,
        [
            ("input", "ids:0", "INT64", "-1, -1"),
            ("input", "kinds:0", "UINT8", "-1, -1"),
            ("output", "logits:0", "FP32", "-1, 3"),
        ],
    )
    write_model(
        repository,
        "half",
        HALF,
        8,
        [("input", "image", "FP16", "4"), ("output", "softmax", "FP16", "3")],
    )
    return ("Reader.v2", "PAIR", "half")


def adopted(inputs: list[tuple[str, str, str]], output: str, gives: str = "logits") -> dict[str, Any]:
    return {
        "inputs": [{"name": n, "model_input": m, "datatype": d} for n, m, d in inputs],
        "output": output,
        "gives": gives,
        "temperature": 1.5,
        "signal": "margin",
        "curve": [[0.0, 1.0], [0.1, 0.9]],
        "mask": None,
    }


TIERS = ("reader", "pair", "half")
CALLS = {
    "reader": ("Reader.v2", adopted([("TEXT", "text.in", "BYTES")], "scores")),
    "pair": ("PAIR", adopted([("IDS", "ids:0", "INT64"), ("KINDS", "kinds:0", "UINT8")], "logits:0")),
    "half": ("half", adopted([("IMAGE", "image", "FP16")], "softmax", "probabilities")),
}
CUTS = (0.45, 0.5)
PLAN = "trio/plan/gear_plan.json"


def plan_of(tiers: tuple[str, ...], classes: int = CLASSES) -> GearPlan:
    content = plan_content(tiers)
    ladder = []
    for tier in tiers:
        model, call = CALLS[tier]
        ladder.append({**ladder_entry(tier), "model": model, "adopted": call})
    cuts = CUTS[: len(tiers) - 1]
    routes = [route_entry([cut], [level + 1, -1]) for level, cut in enumerate(cuts)]
    content.update(
        cascade="trio",
        classes=classes,
        probabilities=True,
        inputs=[
            {"name": "TEXT", "datatype": "BYTES", "dims": [-1]},
            {"name": "IDS", "datatype": "INT64", "dims": [-1]},
            {"name": "KINDS", "datatype": "UINT8", "dims": [-1]},
            {"name": "IMAGE", "datatype": "FP32", "dims": [4]},
        ],
        ladder=ladder,
        gears=[gear_entry({"tiers": list(tiers), "routes": [*routes, route_entry([], [-1])]})],
    )
    content["limits"]["max_batch_size"] = 8
    return GearPlan.model_validate(content)


@pytest.fixture(scope="module")
def mixed(small: Workspace, tmp_path_factory: pytest.TempPathFactory, report: Reporter) -> Workspace:
    """The small cascade with its last tier adopted, planned from calibrate to build-repo."""
    root = tmp_path_factory.mktemp("adoption")
    folder = root / "cascade"
    shutil.copytree(small.cascade.folder, folder, ignore=shutil.ignore_patterns("__pycache__"))
    state = load_file(folder / "weights" / "kernel.safetensors")
    kernel = folder / "models" / "Kernel_v1"
    write_model(
        folder / "models",
        kernel.name,
        KERNEL,
        16,
        [("input", "image", "FP32", "-1"), ("output", "y", "FP32", "1, 10"), ("output", "z", "INT32", "1")],
    )
    np.savez(kernel / "1" / "kernel.npz", **{name: v.astype(np.float32) for name, v in state.items()})
    spec = yaml.safe_load((folder / "cascade.yaml").read_text())
    del spec["tiers"][0]  # every export takes seconds
    spec["tiers"][1]["source"] = {"triton": kernel.name, "inputs": {"PIXELS": "image"}, "output": "y"}
    spec["triton"] = {"repository": "models"}
    (folder / "cascade.yaml").write_text(yaml.safe_dump(spec))
    work = Workspace(load_cascade(folder), root / "build" / "small")
    with forgotten_user_code():
        run_all(work, "embedded", report)
    return work


@pytest.fixture(scope="module")
def built(mixed: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of two routers: the mixed cascade's, and `trio` over models that are adopted alone."""
    repository = tmp_path_factory.mktemp("built") / "repository"
    shutil.copytree(mixed.path("repository") / "current", repository)
    table = load_score_table(mixed.path(SCORES_FILE))
    cuts = (float(np.median(table.confidence[:, 0])),)
    plan = mixed.load(GEARS_FILE, GearPlan, "gears")
    plan = with_policies(plan, (threshold_policy(table.tiers, cuts), None))
    (repository / "small" / "plan" / "gear_plan.json").write_bytes(to_bytes(plan))
    plan = plan_of(TIERS)
    configs = render_configs(plan, placement([]), "embedded")
    assert list(configs) == ["trio/config.pbtxt"]
    files = {name: text.encode() for name, text in configs.items()}
    files |= {name: path.read_bytes() for name, path in code_files(plan, "embedded").items()}
    for name, content in {**files, PLAN: to_bytes(plan)}.items():
        write_atomically(repository / name, content)
    everything = {
        str(p.relative_to(repository)): p.read_bytes() for p in repository.rglob("*") if p.is_file()
    }
    del everything[MANIFEST]
    write_atomically(repository / MANIFEST, make_manifest("small", "embedded", everything))
    return repository


@pytest.fixture(scope="module")
def served(mixed: Workspace, built: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of these routers and of all models that they ask."""
    models = tmp_path_factory.mktemp("adopted") / "models"
    shutil.copytree(mixed.cascade.folder / "models", models)
    names = (*write_models(models), *[mixed.cascade.model_name(t.name) for t in mixed.cascade.adopted])
    with embedded_triton(built, adopted=Adopted(models, names)) as server:
        yield server


@dataclass(frozen=True)
class Request:
    """Inputs by name: texts [n, t], ids and kinds [n, k], image [n, 4]."""

    inputs: dict[str, Array]

    def tensors(self) -> list[Any]:
        kinds = {"TEXT": "BYTES", "IDS": "INT64", "KINDS": "UINT8", "IMAGE": "FP32"}
        found = []
        for name, values in self.inputs.items():
            tensor = triton_grpc.InferInput(name, list(values.shape), kinds[name])
            tensor.set_data_from_numpy(values)
            found.append(tensor)
        return found

    def logits(self) -> list[Array]:
        """Of each tier, worked out here."""
        text, ids, kinds, image = (self.inputs[name] for name in ("TEXT", "IDS", "KINDS", "IMAGE"))
        half = run_in_process(HALF, image.astype(np.float16)).astype(np.float32)
        return [
            run_in_process(READER, text)[:, 0],
            run_in_process(PAIR, ids, kinds),
            np.log(np.maximum(half, 1e-12)),
        ]

    def expected(self) -> dict[str, Array]:
        """What the cascade must answer."""
        scores = [apply_head(one, 1.5, "margin") for one in self.logits()]
        confidence = np.stack([0.1 + 0.8 * s.confidence for s in scores], axis=1)
        tier = np.where(confidence[:, 0] >= CUTS[0], 0, np.where(confidence[:, 1] >= CUTS[1], 1, 2))
        row = np.arange(len(tier))
        return {
            "TIER": tier,
            "LABEL": np.stack([s.label for s in scores], axis=1)[row, tier],
            "CONFIDENCE": confidence[row, tier],
            "PROBS": np.stack([s.probabilities for s in scores], axis=1)[row, tier],
        }


def draw(rng: np.random.Generator, **sizes: int) -> Request:
    """A request of its own number of rows and its own lengths, or of given ones."""
    highest = {"rows": 6, "texts": 4, "length": 9}
    rows, texts, length = (sizes.get(name) or int(rng.integers(1, high)) for name, high in highest.items())
    words = [["ä" * int(rng.integers(0, 30)) for _ in range(texts)] for _ in range(rows)]
    return Request(
        {
            "TEXT": np.array([[w.encode() for w in row] for row in words], np.object_).reshape(rows, texts),
            "IDS": rng.integers(0, 1000, (rows, length)),
            "KINDS": rng.integers(0, 255, (rows, length)).astype(np.uint8),
            "IMAGE": rng.normal(size=(rows, 4)).astype(np.float32),
        }
    )


def check(found: Any, wanted: dict[str, Array]) -> None:
    for name in ("TIER", "LABEL"):
        assert found.as_numpy(name)[:, 0].tolist() == wanted[name].tolist()
    np.testing.assert_allclose(found.as_numpy("CONFIDENCE")[:, 0], wanted["CONFIDENCE"], atol=1e-5)
    np.testing.assert_allclose(found.as_numpy("PROBS"), wanted["PROBS"], atol=1e-5)
    assert not found.as_numpy("FLAGS").any()


def test_answers_are_those_of_the_models_and_their_heads(served: Server) -> None:
    rng = np.random.default_rng(0)
    seen = set()
    with triton_grpc.InferenceServerClient(served.grpc_url) as client:
        for _ in range(40):
            request = draw(rng)
            wanted = request.expected()
            check(client.infer("trio", request.tensors()), wanted)
            seen |= set(wanted["TIER"].tolist())
    assert seen == {0, 1, 2}


@contextmanager
def swapped(served: Server, built: Path, plan: GearPlan) -> Iterator[None]:
    """Another plan for `trio` for the length of a block."""

    def put(content: bytes) -> None:
        before = took_over(served, content)
        if content != (built / PLAN).read_bytes():
            write_atomically(built / PLAN, content)
            wait_until(lambda: took_over(served, content) > before, "the router takes over the plan")

    own = (built / PLAN).read_bytes()
    put(to_bytes(plan))
    try:
        yield
    finally:
        put(own)


@pytest.mark.parametrize("min_queue", [1, 32], ids=["at once", "held"])
def test_requests_of_different_shapes_at_once_all_get_their_own_answers(
    served: Server, built: Path, min_queue: int
) -> None:
    gear = plan_of(TIERS).gears[0].model_copy(update={"min_queue": min_queue, "max_wait_ms": 20.0})
    rng = np.random.default_rng(1)
    requests = [draw(rng) for _ in range(150)]

    async def send() -> list[Any]:
        async with triton_aio.InferenceServerClient(served.grpc_url) as client:
            calls = [client.infer("trio", r.tensors(), client_timeout=PATIENCE_S) for r in requests]
            return list(await asyncio.gather(*calls))

    with swapped(served, built, plan_of(TIERS).model_copy(update={"gears": (gear,)})):
        answers = asyncio.run(send())
    for request, found in zip(requests, answers, strict=True):
        check(found, request.expected())


def test_scores_of_other_classes_are_an_error_that_names_the_tier(served: Server, built: Path) -> None:
    request = draw(np.random.default_rng(2))
    refused = pytest.raises(InferenceServerException, match="tier reader and all larger ones")
    client = triton_grpc.InferenceServerClient(served.grpc_url)
    with swapped(served, built, plan_of(TIERS, CLASSES + 2)), client, refused:
        client.infer("trio", request.tensors())
    said = f"tier half: model half: scores must be of {CLASSES + 2} classes, found shape ["
    assert said in served.log.read_text(errors="replace")


# The chain


def test_an_adopted_tier_is_calibrated_as_the_same_model_from_torch(
    mixed: Workspace, small: Workspace
) -> None:
    found, wanted = (load_score_table(work.path(SCORES_FILE)) for work in (mixed, small))
    assert found.label.tolist() == wanted.label[:, 1:].tolist()
    np.testing.assert_allclose(found.confidence, wanted.confidence[:, 1:], atol=1e-3)
    heads = [work.load(CALIBRATION_FILE, Calibration, "calibrate").tiers[-1] for work in (mixed, small)]
    assert heads[0].temperature == pytest.approx(heads[1].temperature, rel=1e-3)


def test_the_plan_says_how_it_is_asked_and_the_repository_leaves_it_where_it_is(mixed: Workspace) -> None:
    plan = mixed.load(GEARS_FILE, GearPlan, "gears")
    assert [info.adopted is None for info in plan.ladder] == [True, False]
    call = plan.ladder[1].adopted
    assert call is not None
    assert [tuple(one.model_dump().values()) for one in call.inputs] == [("PIXELS", "image", "FP32")]
    assert (plan.ladder[1].model, call.output, call.gives) == ("Kernel_v1", "y", "logits")
    repository = mixed.path("repository") / "current"
    assert {path.parent.name for path in repository.glob("*/config.pbtxt")} == {"small", "small_linear"}
    # The exported tier takes rows of one size, so the router does, too.
    assert [spec.dims for spec in plan.inputs] == [(64,)]


def test_its_profile_is_of_calls_through_triton(mixed: Workspace) -> None:
    profile = mixed.load(PROFILE_FILE, Profile, "profile")
    points = profile.points_of("kernel")
    assert [point.batch for point in points] == [1, 2, 4, 8]
    assert {(point.format, point.origin, point.device) for point in points} == {
        ("triton", "measured", "cores")
    }
    assert all(point.memory_mib > 1.0 for point in points)
    assert profile.instances == {"kernel": 1}
    assert mixed.load(PLACEMENT_FILE, Placement, "place").count("kernel") == 1


def test_the_mixed_cascade_is_served(mixed: Workspace, served: Server, tmp_path: Path) -> None:
    table = load_score_table(mixed.path(SCORES_FILE))
    with forgotten_user_code():
        rows = load_rows(mixed.cascade, "validation")
    few = np.arange(0, len(rows), 3)
    cuts = (float(np.median(table.confidence[:, 0])),)
    answered = follow(table, threshold_policy(table.tiers, cuts)).answered[few].argmax(axis=1)
    np.savez(tmp_path / "rows.npz", **rows.take(few).inputs)
    answers = infer_rows(tmp_path / "rows.npz", "small", served.grpc_url, "grpc", None)
    assert [answer["tier"] for answer in answers] == answered.tolist()
    assert [answer["label"] for answer in answers] == table.label[few, answered].tolist()
    np.testing.assert_allclose(
        [answer["confidence"] for answer in answers], table.confidence[few, answered], atol=1e-4
    )
    assert set(answered.tolist()) == {0, 1}


def test_texts_from_a_file_are_sent(served: Server, tmp_path: Path) -> None:
    request = draw(np.random.default_rng(3))
    texts = np.array([[part.decode() for part in row] for row in request.inputs["TEXT"]])
    np.savez(tmp_path / "rows.npz", **{**request.inputs, "TEXT": texts})
    answers = infer_rows(tmp_path / "rows.npz", "trio", served.grpc_url, "grpc", None)
    assert [answer["label"] for answer in answers] == request.expected()["LABEL"].tolist()


def test_a_server_that_runs_already_is_asked_by_its_url(
    mixed: Workspace, served: Server, tmp_path: Path, report: Reporter
) -> None:
    folder = tmp_path / "cascade"
    shutil.copytree(mixed.cascade.folder, folder, ignore=shutil.ignore_patterns("models", "__pycache__"))
    spec = yaml.safe_load((folder / "cascade.yaml").read_text())
    spec["triton"] = {"url": served.grpc_url}
    (folder / "cascade.yaml").write_text(yaml.safe_dump(spec))
    work = Workspace(load_cascade(folder), tmp_path / "build" / "small")
    with forgotten_user_code():
        run_stage("calibrate", work, report)
        found, wanted = (load_score_table(w.path(SCORES_FILE)) for w in (work, mixed))
        assert found.label.tolist() == wanted.label.tolist()
        np.testing.assert_allclose(found.confidence, wanted.confidence, atol=1e-5)
        assert status(work, "embedded", report)["calibrate"] == "fresh"
        spec["triton"] = {"url": "127.0.0.1:1"}
        (folder / "cascade.yaml").write_text(yaml.safe_dump(spec))
        gone = Workspace(load_cascade(folder), work.build)
        assert status(gone, "embedded", report)["calibrate"] == "stale"
        with pytest.raises(CascadeError, match="model Kernel_v1: "):
            run_stage("calibrate", gone, report)


def test_a_ladder_of_adopted_tiers_alone_keeps_its_free_sizes(
    served: Server, tmp_path: Path, report: Reporter
) -> None:
    rng = np.random.default_rng(4)
    drawn = [draw(rng, rows=30, texts=2, length=5) for _ in range(2)]
    rows = {name: np.concatenate([one.inputs[name] for one in drawn]) for name in drawn[0].inputs}
    whole = Request(rows)
    sources = {
        "reader": {"triton": "Reader.v2", "inputs": {"TEXT": "text.in"}},
        "pair": {"triton": "PAIR", "inputs": {"IDS": "ids:0", "KINDS": "kinds:0"}},
        "half": {"triton": "half", "inputs": {"IMAGE": "image"}, "gives": "probabilities"},
    }
    spec = {
        "name": "trio",
        "tiers": [{"name": name, "source": source} for name, source in sources.items()],
        "triton": {"url": served.grpc_url},
        "data": {"validation": "rows.npz"},
        "devices": "here.yaml",
        "serving": {"max_batch_size": 8},
    }
    texts = np.array([[part.decode() for part in row] for row in rows["TEXT"]])
    (tmp_path / "cascade.yaml").write_text(yaml.safe_dump(spec))
    np.savez(tmp_path / "rows.npz", **{**rows, "TEXT": texts}, target=rng.integers(0, CLASSES, 60))
    work = Workspace(load_cascade(tmp_path), tmp_path / "build")
    for stage in ("calibrate", "export"):
        run_stage(stage, work, report)
    made = work.load(CALIBRATION_FILE, Calibration, "calibrate")
    assert {spec.name: (spec.datatype, spec.dims) for spec in made.inputs} == {
        "TEXT": ("BYTES", (-1,)),
        "IDS": ("INT64", (-1,)),
        "KINDS": ("UINT8", (-1,)),
        "IMAGE": ("FP32", (4,)),
    }
    table = load_score_table(work.path(SCORES_FILE))
    for number, (tier, logits) in enumerate(zip(TIERS, whole.logits(), strict=True)):
        wanted = apply_head(logits, made.tier(tier).temperature)
        assert table.label[:, number].tolist() == wanted.label.tolist()
        np.testing.assert_allclose(table.confidence[:, number], wanted.confidence, atol=1e-5)
    assert work.load(EXPORTED_FILE, Exported, "export").tiers == ()


def test_a_changed_model_makes_the_plan_stale(mixed: Workspace, report: Reporter) -> None:
    model = mixed.cascade.folder / "models" / "Kernel_v1" / "1" / "model.py"
    before = model.read_text()
    assert set(status(mixed, "embedded", report).values()) == {"fresh"}
    model.write_text(before + "\n")
    try:
        assert status(mixed, "embedded", report)["calibrate"] == "stale"
    finally:
        model.write_text(before)
