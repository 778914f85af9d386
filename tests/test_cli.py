"""The command line: every verb's results, and what a user's mistake looks like."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from typer.main import get_command

from cascade_tools.cli.app import app
from cascade_tools.repository.manifest import MANIFEST
from cascade_tools.serving.embedded import free_ports
from cascade_tools.store import digest_bytes

from .cli_calls import Outcome, assert_refused, call

PROJECT = Path(__file__).resolve().parents[1]
VERBS = sorted(get_command(app).commands)  # type: ignore[attr-defined]

# Rows that the second tier reads without error; the first sees only a part of each.
MODULE = """
import numpy as np
import torch

CLASSES = 3
ROWS = 400


def rows():
    values = np.random.default_rng(0).normal(size=(ROWS, 2 * CLASSES)).astype(np.float32)
    target = (values[:, :CLASSES] + 0.4 * values[:, CLASSES:]).argmax(1)
    return {"X": values, "target": target}


class Rough(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.eye(2 * CLASSES)[:, :CLASSES])

    def forward(self, x):
        return 4.0 * x @ self.weight


class Sharp(torch.nn.Module):
    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.wide = torch.nn.Parameter(torch.randn(2 * CLASSES, 4000, generator=generator))
        self.back = torch.nn.Parameter(torch.linalg.pinv(self.wide.detach()))

    def forward(self, x):
        seen = x @ self.wide @ self.back
        return 4.0 * (seen[:, :CLASSES] + 0.4 * seen[:, CLASSES:])


def rough():
    return Rough()


def sharp():
    return Sharp()


def train(tier, seed, advance):
    advance(1, 1)
    return Rough()
"""
SPEC = {
    "name": "pair",
    "tiers": [
        {"name": "rough", "source": {"torch": "pair:rough", "weights": "weights/rough.safetensors"}},
        {"name": "sharp", "source": {"torch": "pair:sharp"}},
    ],
    "train": "pair:train",
    "data": {"validation": "pair:rows"},
    "objective": {"max_accuracy_drop": 8.0, "guarantee": False},
    "devices": "here.yaml",
    "serving": {"max_batch_size": 4},
    "profile": {"through": "process"},  # quicker
}
DEVICES = {"devices": [{"type": "cores", "kind": "cpu", "cores": 2, "memory_mib": 2048}]}

Json = dict[str, Any]


def write_pair(folder: Path, *, weights: bool = True) -> Path:
    """The folder of a small legal cascade."""
    (folder / "weights").mkdir(parents=True)
    (folder / "cascade.yaml").write_text(yaml.safe_dump(SPEC))
    (folder / "here.yaml").write_text(yaml.safe_dump(DEVICES))
    (folder / "pair.py").write_text(MODULE)
    if weights:
        assert call("train", folder, "--tier", "rough").code == 0
    return folder


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    return write_pair(tmp_path / "pair")


def edit_yaml(path: Path, change: Callable[[Json], object]) -> None:
    content = yaml.safe_load(path.read_text())
    change(content)
    path.write_text(yaml.safe_dump(content))


def edit_spec(change: Callable[[Json], object]) -> Callable[[Path], None]:
    return lambda folder: edit_yaml(folder / "cascade.yaml", change)


def edit_module(old: str, new: str) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / "pair.py"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    return edit


# What every verb prints

CHAIN = ("train", "calibrate", "export", "profile", "search", "place", "gears", "build-repo", "run", "status")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a cascade, `pair`, that has not been derived from by anything but `outcomes`."""
    return tmp_path_factory.mktemp("built")


@pytest.fixture(scope="module")
def outcomes(one_hop: None, built: Path) -> dict[str, Outcome]:
    """Every verb of the chain, called by itself in this order."""
    folder, build = write_pair(built / "pair", weights=False), built / "build"
    found = {"train": call("train", folder, "--tier", "rough", "--json")}
    for verb in (*CHAIN[1:], "report"):
        found[verb] = call(verb, folder, "--build-dir", build, "--json")
    return found


@pytest.mark.parametrize(
    ("verb", "field", "table"),
    [
        ("train", "tiers", "validation accuracy"),
        ("calibrate", "tiers", "temperature"),
        ("export", "tiers", "labels differ"),
        ("profile", "points", "rows/s"),
        ("search", "chosen", "points lost"),
        ("place", "instances", "sustainable"),
        ("gears", "gears", "up to rows/s"),
        ("build-repo", "files", "repository"),
        ("run", "repository", "repository"),
        ("status", "stages", "build-repo"),
        ("report", "report", "report.html"),
    ],
)
def test_a_verb_prints_for_people_and_one_object_on_the_last_line(
    outcomes: dict[str, Outcome], verb: str, field: str, table: str
) -> None:
    outcome = outcomes[verb]
    assert outcome.code == 0, outcome.err
    assert field in outcome.content
    assert table in "\n".join(outcome.out.splitlines()[:-1])


def test_after_the_chain_everything_is_fresh(outcomes: dict[str, Outcome]) -> None:
    stages = outcomes["status"].content["stages"]
    assert set(stages) == set(CHAIN) - {"train", "run", "status"}
    assert set(stages.values()) == {"fresh"}


def test_run_after_the_single_verbs_has_nothing_left_to_do(outcomes: dict[str, Outcome]) -> None:
    said = [line for line in outcomes["run"].err.splitlines() if line.startswith("[")]
    assert [line.partition(": ")[2] for line in said[:-1]] == ["fresh"] * 6


def test_a_cascade_of_one_tier_runs_and_force_runs_it_again(one_hop: None, pair: Path) -> None:
    edit_spec(lambda spec: spec.update(tiers=spec["tiers"][:1], serving={"max_batch_size": 1}))(pair)
    build = pair.parent / "build"
    assert call("run", pair, "--build-dir", build).code == 0
    files = [build / "pair" / name for name in ("scores.npz", "exported.json", "profile.json", "policy.json")]
    before = [path.stat().st_mtime_ns for path in files]
    assert call("run", pair, "--build-dir", build).code == 0
    assert [path.stat().st_mtime_ns for path in files] == before
    outcome = call("run", pair, "--build-dir", build, "--force")
    assert outcome.code == 0, outcome.err
    assert all(path.stat().st_mtime_ns > old for path, old in zip(files, before, strict=True))


def test_results_go_to_stdout_and_progress_to_stderr(outcomes: dict[str, Outcome]) -> None:
    assert "through the source model" in outcomes["calibrate"].err
    assert "through the source model" not in outcomes["calibrate"].out


def test_env_names_what_the_machine_has() -> None:
    outcome = call("env", "--json")
    assert outcome.code == 0
    assert {"processor", "libc", "triton", "gpus", "docker", "perf_analyzer", "energy_meter"} <= set(
        outcome.content
    )
    assert "embedded Triton" in outcome.out


def test_without_json_no_object_is_printed(outcomes: dict[str, Outcome], built: Path) -> None:
    outcome = call("status", built / "pair", "--build-dir", built / "build")
    assert outcome.code == 0
    assert not any(line.startswith("{") for line in outcome.out.splitlines())


# Help


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_of_a_verb_shows_an_example(verb: str) -> None:
    outcome = call(verb, "--help")
    assert outcome.code == 0
    assert f"Example: cascade-tools {verb}" in " ".join(outcome.out.split())


def test_the_help_names_every_verb_and_the_first_to_try() -> None:
    outcome = call("--help")
    assert outcome.code == 0
    assert all(verb in outcome.out for verb in VERBS)
    assert "cascade-tools demo" in outcome.out


def test_the_readme_names_every_verb() -> None:
    text = (PROJECT / "README.md").read_text()
    assert [verb for verb in VERBS if f"cascade-tools {verb}" not in text] == []


def test_help_does_not_import_what_only_work_needs() -> None:
    script = (
        "import sys\n"
        "from cascade_tools.cli.app import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'sklearn', 'matplotlib', 'tritonclient'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "run", "--help"], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


# Mistakes


def test_a_mistake_of_the_installed_command_is_one_message_and_an_exit_code(tmp_path: Path) -> None:
    command = Path(sys.executable).parent / "cascade-tools"
    done = subprocess.run([command, "calibrate", tmp_path], capture_output=True, text=True, check=False)
    assert_refused(
        Outcome(done.returncode, done.stdout, done.stderr), 2, f"{tmp_path / 'cascade.yaml'}: no such file"
    )
    assert "cascade-tools init" in done.stderr, "what to do next"
    assert done.stdout == ""


def weights_of_another_net(folder: Path) -> None:
    edit_module("torch.eye(2 * CLASSES)[:, :CLASSES]", "torch.eye(2 * CLASSES)[:, :1]")(folder)


def weights_of_other_names(folder: Path) -> None:
    edit_module("self.weight", "self.matrix")(folder)


def pickled_weights(folder: Path) -> None:
    torch.save({"weight": Path("anything")}, folder / "weights" / "rough.pt")
    edit_spec(lambda spec: spec["tiers"][0]["source"].update(weights="weights/rough.pt"))(folder)


def rows_from_file(**arrays: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        np.savez(folder / "rows.npz", **arrays)
        edit_spec(lambda spec: spec["data"].update(validation="rows.npz"))(folder)

    return change


def rows_from_single_array(folder: Path) -> None:
    with (folder / "rows.npz").open("wb") as file:
        np.save(file, np.zeros((5, 6), np.float32))
    edit_spec(lambda spec: spec["data"].update(validation="rows.npz"))(folder)


def broken_graph(folder: Path) -> None:
    (folder / "sharp.onnx").write_bytes(b"not a graph")
    edit_spec(lambda spec: spec["tiers"][1].update(source={"onnx": "sharp.onnx"}))(folder)


VALUES = np.zeros((5, 6), np.float32)
TARGET = np.zeros(5, np.int64)
MISTAKES: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "unknown key": (edit_spec(lambda spec: spec.update(colour="red")), ("colour: unknown key",)),
    "unknown inner key": (
        edit_spec(lambda spec: spec["objective"].update(max_acuracy_drop=1)),
        ("objective.max_acuracy_drop: unknown key",),
    ),
    "missing key": (edit_spec(lambda spec: spec.pop("devices")), ("devices: Field required",)),
    "wrong type": (
        edit_spec(lambda spec: spec["objective"].update(max_accuracy_drop="much")),
        ("objective.max_accuracy_drop: ", "number"),
    ),
    "two mistakes": (
        edit_spec(lambda spec: spec.update(colour="red", name="No Name")),
        ("colour: unknown key", "name: must be lower-case"),
    ),
    "a tier twice": (
        edit_spec(lambda spec: spec["tiers"][1].update(name="rough")),
        ("tiers: the name 'rough' is given twice",),
    ),
    "not YAML": (lambda folder: (folder / "cascade.yaml").write_text("name: [pair"), ("not valid YAML",)),
    "not a mapping": (lambda folder: (folder / "cascade.yaml").write_text("- pair"), ("mapping", "list")),
    "not text": (lambda folder: (folder / "cascade.yaml").write_bytes(b"\xff\xfe"), ("cannot be read",)),
    "missing spec": (lambda folder: (folder / "cascade.yaml").unlink(), ("no such file",)),
    "a path outside": (
        edit_spec(lambda spec: spec.update(devices="../here.yaml")),
        ("devices: must be a relative path inside",),
    ),
    "missing weights": (
        lambda folder: (folder / "weights" / "rough.safetensors").unlink(),
        ("tiers.rough.source.weights: ", "rough.safetensors: no such file"),
    ),
    "weights of another shape": (
        weights_of_another_net,
        (
            "tiers.rough.source.weights: ",
            "rough.safetensors: do not fit the module",
            "size mismatch for weight",
        ),
    ),
    "weights of other names": (
        weights_of_other_names,
        ("tiers.rough.source.weights: ", "do not fit the module", '"matrix"'),
    ),
    "broken weights": (
        lambda folder: (folder / "weights" / "rough.safetensors").write_bytes(b"{}"),
        ("tiers.rough.source.weights: ", "rough.safetensors"),
    ),
    "pickled weights": (
        pickled_weights,
        ("tiers.rough.source.weights: ", "rough.pt", "plain weights", "save a state_dict as .safetensors"),
    ),
    "no such module": (
        edit_spec(lambda spec: spec["tiers"][1].update(source={"torch": "nobody:sharp"})),
        ("tiers.sharp.source.torch: nobody:sharp", "No module named 'nobody'"),
    ),
    "no such callable": (
        edit_spec(lambda spec: spec["tiers"][1].update(source={"torch": "pair:blunt"})),
        ("tiers.sharp.source.torch: pair:blunt", "no callable 'blunt'"),
    ),
    "no such callable in a built-in module": (
        edit_spec(lambda spec: spec["tiers"][1].update(source={"torch": "sys:blunt"})),
        ("tiers.sharp.source.torch: sys:blunt", "no callable 'blunt'"),
    ),
    "not a module": (
        edit_module("return Sharp()", "return 7"),
        ("tiers.sharp.source.torch: pair:sharp returned int",),
    ),
    "a callable that raises": (
        edit_module("return Sharp()", "raise KeyError('lost')"),
        ("tiers.sharp.source.torch: pair:sharp: KeyError", "pair.py, line "),
    ),
    "a module with a syntax error": (
        edit_module("def sharp():", "def sharp(:"),
        ("data.validation: pair:rows: SyntaxError", "pair.py"),
    ),
    "other number of classes": (
        edit_module("seen[:, CLASSES:])", "seen[:, CLASSES:])[:, :2]"),
        ("tiers.sharp: gives 2 classes, tier rough gives 3",),
    ),
    "three dimensions": (
        edit_module("seen[:, CLASSES:])", "seen[:, CLASSES:])[:, None]"),
        ("tiers.sharp: must give logits [rows, classes]", "1, 3]"),
    ),
    "two outputs": (
        edit_module("seen[:, CLASSES:])", "seen[:, CLASSES:]), x"),
        ("tiers.sharp.source", "tuple"),
    ),
    "NaN logits": (
        edit_module("seen[:, CLASSES:])", "seen[:, CLASSES:]) / (x[:, :1] > 0)"),
        ("tiers.sharp: ", " of 400 rows of data.validation give NaN or infinite logits"),
    ),
    "labels out of range": (
        edit_module('"target": target}', '"target": target + 1}'),
        ("data.validation: target has labels 1 to 3", "3 classes: 0 to 2"),
    ),
    "negative labels": (
        edit_module('"target": target}', '"target": target - 1}'),
        ("data.validation: target has labels -1 to 1",),
    ),
    "no rows": (
        edit_module("ROWS = 400", "ROWS = 0"),
        ("data.validation (pair:rows): the data set is empty",),
    ),
    "no target": (
        edit_module('"target": target}', '"labels": target}'),
        ("data.validation (pair:rows)", "'target'"),
    ),
    "labels that are no integers": (
        edit_module('"target": target}', '"target": target / 2}'),
        ("data.validation (pair:rows): 'target' must be integers", "float64"),
    ),
    "inputs of another length": (
        rows_from_file(X=VALUES[:4], target=TARGET),
        ("data.validation (rows.npz): input 'X' must be [5, ...]", "[4, 6]"),
    ),
    "inputs of a type that Triton lacks": (
        rows_from_file(X=np.zeros((5, 6), np.complex64), target=TARGET),
        ("data.validation (rows.npz): input 'X' has dtype complex64",),
    ),
    "pickled rows": (
        rows_from_file(X=np.array([{}] * 5), target=TARGET),
        ("rows.npz: not an .npz of plain arrays",),
    ),
    "rows without names": (rows_from_single_array, ("rows.npz: not an .npz of plain arrays",)),
    "missing rows": (
        edit_spec(lambda spec: spec["data"].update(validation="rows.npz")),
        ("rows.npz: no such file",),
    ),
    "broken graph": (broken_graph, ("tiers.sharp.source.onnx: ", "sharp.onnx: not a usable ONNX graph")),
    "missing graph": (
        edit_spec(lambda spec: spec["tiers"][1].update(source={"onnx": "sharp.onnx"})),
        ("tiers.sharp.source.onnx: ", "sharp.onnx: no such file"),
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_message_that_names_the_field_or_file(pair: Path, mistake: str) -> None:
    make, words = MISTAKES[mistake]
    make(pair)
    outcome = call("calibrate", pair, "--build-dir", pair.parent / "build", "--json")
    assert_refused(outcome, 2, *words)
    assert set(outcome.content) == {"error", "hint"}
    assert not (pair.parent / "build").exists(), "nothing is written"


def test_a_missing_device_file_is_named(outcomes: dict[str, Outcome], built: Path, tmp_path: Path) -> None:
    folder = write_pair(tmp_path / "pair")
    (folder / "here.yaml").unlink()
    outcome = call("place", folder, "--build-dir", built / "build")
    assert_refused(outcome, 2, f"{folder / 'here.yaml'}: no such file")


def test_a_stage_before_its_inputs_names_the_verb_to_run(pair: Path) -> None:
    outcome = call("search", pair, "--build-dir", pair.parent / "build")
    assert_refused(outcome, 2, "profile.json: missing", "cascade-tools profile")


def test_what_does_not_fit_is_infeasible_and_names_the_constraint(
    outcomes: dict[str, Outcome], built: Path, tmp_path: Path
) -> None:
    build = copy_of_build(built, tmp_path)
    profile = json.loads((build / "pair" / "profile.json").read_text())
    for point in profile["points"]:
        point["memory_mib"] = 2000.0
    (build / "pair" / "profile.json").write_text(json.dumps(profile))
    outcome = call("place", built / "pair", "--build-dir", build, "--json")
    assert_refused(outcome, 3, "MiB", "missing")
    assert outcome.content["constraint"] == "memory"


def test_a_corrupt_artifact_is_named(outcomes: dict[str, Outcome], built: Path, tmp_path: Path) -> None:
    build = copy_of_build(built, tmp_path)
    (build / "pair" / "policy.json").write_text('{"kind": "policy"')
    outcome = call("place", built / "pair", "--build-dir", build)
    assert_refused(outcome, 2, str(build / "pair" / "policy.json"), "cascade-tools search")


def test_an_artifact_of_another_cascade_is_refused(
    outcomes: dict[str, Outcome], built: Path, tmp_path: Path
) -> None:
    folder = write_pair(tmp_path / "pair")
    edit_spec(lambda spec: spec.update(name="other"))(folder)
    (tmp_path / "build").mkdir()
    (built / "build" / "pair").rename(built / "build" / "kept")
    try:
        (tmp_path / "build" / "other").symlink_to(built / "build" / "kept")
        outcome = call("place", folder, "--build-dir", tmp_path / "build")
    finally:
        (built / "build" / "kept").rename(built / "build" / "pair")
    assert_refused(outcome, 2, "belongs to cascade 'pair', not 'other'")


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("calibrate",), "folder"),
        (("celebrate",), "celebrate"),
        (("run", ".", "--target", "moon"), "--target"),
        (("calibrate", ".", "--colour"), "--colour"),
        (("infer", "rows.npz"), "--model"),
        (("infer", "rows.npz", "--model", "pair", "--deadline-ms", "0"), "--deadline-ms"),
    ],
)
def test_wrong_usage_names_the_argument(arguments: tuple[str, ...], word: str) -> None:
    outcome = call(*arguments)
    assert outcome.code == 2
    assert word in outcome.err
    assert "Traceback" not in outcome.err


def test_a_tier_that_is_not_there_cannot_be_trained(pair: Path) -> None:
    outcome = call("train", pair, "--tier", "blunt")
    assert_refused(outcome, 2, "--tier blunt: no such tier", "rough, sharp")


def test_a_cascade_without_recipe_cannot_be_trained(pair: Path) -> None:
    edit_spec(lambda spec: spec.pop("train"))(pair)
    assert_refused(call("train", pair), 2, "has no 'train' recipe")


# The repository


def copy_of_build(built: Path, tmp_path: Path) -> Path:
    return shutil.copytree(built / "build", tmp_path / "build", symlinks=True)


def test_check_says_whether_the_repository_is_the_plan(
    outcomes: dict[str, Outcome], built: Path, tmp_path: Path
) -> None:
    build = copy_of_build(built, tmp_path)
    arguments = ("build-repo", built / "pair", "--build-dir", build, "--check", "--json")
    assert call(*arguments).code == 0
    config = build / "pair" / "repository" / "current" / "pair" / "config.pbtxt"
    config.write_text(config.read_text().replace("max_batch_size: 4", "max_batch_size: 5"))
    assert_refused(call(*arguments), 1, "pair/config.pbtxt", "build-repo` without --check")


def limited(*arguments: object, bytes_per_file: int) -> Outcome:
    """Run the command in a process that can write no file beyond a size, as on a full disk."""
    script = (
        "import resource, sys\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({bytes_per_file}, {bytes_per_file}))\n"
        "from cascade_tools.cli.app import main\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-B", "-c", script, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


def test_on_a_full_disk_the_old_repository_stays(
    outcomes: dict[str, Outcome], built: Path, tmp_path: Path
) -> None:
    build = copy_of_build(built, tmp_path)
    root = build / "pair" / "repository"
    old = (root / "current").resolve()
    folder = write_pair(tmp_path / "pair")
    edit_spec(lambda spec: spec.update(gears={"count": 1, "target_busy_share": 0.5}))(folder)
    outcome = limited("build-repo", folder, "--build-dir", build, "--json", bytes_per_file=50_000)
    assert_refused(outcome, 1, f"{root}: could not be written", "free space")
    assert "error" in outcome.content
    assert (root / "current").resolve() == old
    assert sorted(path.name for path in root.iterdir()) == ["current", "versions"]
    assert [path.name for path in (root / "versions").iterdir()] == [old.name]
    for name, digest in json.loads((old / MANIFEST).read_text())["files"].items():
        assert digest_bytes((old / name).read_bytes()) == digest
    done = call("build-repo", folder, "--build-dir", build)
    assert done.code == 0, "with room again it is written"
    assert (root / "current").resolve() != old


def test_on_a_full_disk_the_old_artifacts_stay(
    outcomes: dict[str, Outcome], built: Path, tmp_path: Path
) -> None:
    build = copy_of_build(built, tmp_path) / "pair"
    before = {path: path.read_bytes() for path in build.rglob("*") if path.is_file()}
    outcome = limited("calibrate", built / "pair", "--build-dir", build.parent, bytes_per_file=500)
    assert_refused(outcome, 1, str(build), "could not be written", "free space")
    assert {path: path.read_bytes() for path in build.rglob("*") if path.is_file()} == before


# infer without a server


@pytest.fixture
def rows_file(tmp_path: Path) -> Path:
    np.savez(tmp_path / "rows.npz", X=VALUES)
    return tmp_path / "rows.npz"


def test_infer_names_a_missing_file(tmp_path: Path) -> None:
    outcome = call("infer", tmp_path / "rows.npz", "--model", "pair", "--json")
    assert_refused(outcome, 2, f"{tmp_path / 'rows.npz'}: no such file")
    assert "error" in outcome.content


@pytest.mark.parametrize("kind", ["text", "single array", "cut short"])
def test_infer_names_a_file_that_is_no_npz(rows_file: Path, kind: str) -> None:
    if kind == "text":
        rows_file.write_text("1,2,3")
    elif kind == "single array":
        with rows_file.open("wb") as file:
            np.save(file, VALUES)
    else:
        rows_file.write_bytes(rows_file.read_bytes()[:100])
    outcome = call("infer", rows_file, "--model", "pair")
    assert_refused(outcome, 2, f"{rows_file}: not an .npz of plain arrays")


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_infer_says_that_no_server_is_there(rows_file: Path, protocol: str) -> None:
    url = f"127.0.0.1:{free_ports().grpc}"
    outcome = call("infer", rows_file, "--model", "pair", "--url", url, "--protocol", protocol)
    assert_refused(outcome, 1, url, "cascade-tools serve")


@pytest.mark.parametrize("url", ["http://127.0.0.1:8000", "127.0.0.1:http", "127.0.0.1:99999"])
@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_infer_names_an_address_that_is_none(rows_file: Path, protocol: str, url: str) -> None:
    outcome = call("infer", rows_file, "--model", "pair", "--url", url, "--protocol", protocol)
    assert outcome.code in (1, 2)
    assert_refused(outcome, outcome.code, url)


# A first cascade


def test_init_writes_a_cascade_that_runs(
    one_hop: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made = call("init", "mine", "--json")
    assert made.code == 0, made.err
    folder = Path(made.content["folder"])
    assert folder == Path("ensembles/mine")
    assert all(Path(file).is_file() for file in made.content["files"])
    edit_yaml(folder / "cascade.yaml", lambda content: content["profile"].update(through="process"))
    done = call("run", folder, "--json")
    assert done.code == 0, done.err
    assert (Path(done.content["repository"]) / MANIFEST).is_file()
    assert "<svg" in Path(done.content["report"]).read_text()
    stages = call("status", folder, "--json").content["stages"]
    assert set(stages.values()) == {"fresh"}
    edit_yaml(folder / "cascade.yaml", lambda content: content["objective"].update(max_accuracy_drop=3.0))
    behind = call("status", folder, "--json").content
    assert behind["changed"]["search"] == behind["changed"]["gears"] == ["objective"]


def test_init_does_not_write_over_a_folder(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    assert_refused(call("init", "mine", "--parent", tmp_path), 2, f"{tmp_path / 'mine'}: exists already")
    assert list((tmp_path / "mine").iterdir()) == []


@pytest.mark.parametrize("name", ["My Cascade", "../mine", "1st", "a" * 41])
def test_init_refuses_a_name_that_models_cannot_have(tmp_path: Path, name: str) -> None:
    assert_refused(call("init", name, "--parent", tmp_path), 2, name, "lower-case letters")
    assert list(tmp_path.iterdir()) == []


def test_heads_are_checked_on_other_rows(outcomes: dict[str, Outcome], built: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0.0, 3.0, (200, 3)).astype(np.float32)
    arrays = {"logits_rough": logits, "logits_sharp": logits, "target": logits.argmax(axis=1)}
    np.savez(tmp_path / "other.npz", **arrays)
    outcome = call(
        "calibrate",
        built / "pair",
        "--build-dir",
        built / "build",
        "--check",
        tmp_path / "other.npz",
        "--json",
    )
    assert outcome.code == 0, outcome.err
    assert set(outcome.content["checked"]) == {"rough", "sharp"}
    assert outcome.content["checked"]["rough"]["brier"] < 0.5
    for name, change, word in (
        ("few", {"logits_sharp": None}, "logits_sharp"),
        ("short", {"logits_rough": logits[:5]}, "logits_rough"),
        ("wild", {"target": np.full(200, 3)}, "target"),
        ("nan", {"logits_rough": np.where(logits > 0, np.nan, logits)}, "logits_rough"),
    ):
        broken = {key: value for key, value in {**arrays, **change}.items() if value is not None}
        np.savez(tmp_path / f"{name}.npz", **broken)
        refused = call(
            "calibrate",
            built / "pair",
            "--build-dir",
            built / "build",
            "--check",
            tmp_path / f"{name}.npz",
            "--json",
        )
        assert_refused(refused, 2, word)


UNLABELLED = """

labelled = rows


def rows():
    return {name: values for name, values in labelled().items() if name != "target"}
"""


def test_a_cascade_without_labels_says_so_in_every_output(
    outcomes: dict[str, Outcome], built: Path, tmp_path: Path
) -> None:
    folder = write_pair(tmp_path / "pair", weights=False)
    edit_yaml(folder / "cascade.yaml", lambda spec: spec["data"].update(labels="giant"))
    module = folder / "pair.py"
    module.write_text(module.read_text() + UNLABELLED)
    shutil.copytree(built / "pair" / "weights", folder / "weights", dirs_exist_ok=True)
    outcome = call("calibrate", folder, "--build-dir", tmp_path / "build", "--json")
    assert outcome.code == 0, outcome.err
    assert "the answers of sharp count as right" in outcome.out
    assert outcome.content["labels"] == "giant"
    assert outcome.content["tiers"][-1]["accuracy"] == 1.0
