"""The chain of stages on a small real cascade: what is fresh, what is stale, what is refused."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file, save_file

from cascade_tools.artifacts import RoutingPolicy
from cascade_tools.errors import ArtifactError, CascadeError, CheckFailed, UsageError
from cascade_tools.models.usercode import load_callable, load_rows
from cascade_tools.repository.manifest import MANIFEST, read_manifest
from cascade_tools.spec import load_cascade
from cascade_tools.stages.build_repo import build_repo
from cascade_tools.stages.pipeline import STAGES, run_all, run_stage, status
from cascade_tools.stages.progress import Reporter
from cascade_tools.stages.search import POLICY_FILE
from cascade_tools.store import Workspace, digest_bytes, load_score_table

ALL = ("calibrate", "export", "profile", "search", "place", "gears", "build-repo")


def states(work: Workspace, report: Reporter) -> dict[str, str]:
    return dict(status(work, "embedded", report))


def fresh_before(stage: str) -> dict[str, str]:
    """Every stage before this one is fresh, it and all that follow are stale."""
    first = ALL.index(stage)
    return {name: "fresh" if number < first else "stale" for number, name in enumerate(ALL)}


def times(work: Workspace) -> dict[str, int]:
    """Time of the last change of every derived file and link."""
    return {
        str(path.relative_to(work.build)): path.lstat().st_mtime_ns
        for path in work.build.rglob("*")
        if not path.is_dir() or path.is_symlink()
    }


def edit_spec(work: Workspace, change: Callable[[dict[str, Any]], None]) -> Workspace:
    """Change `cascade.yaml` and read it again."""
    path = work.cascade.folder / "cascade.yaml"
    content = yaml.safe_load(path.read_text())
    change(content)
    path.write_text(yaml.safe_dump(content))
    return Workspace(load_cascade(work.cascade.folder), work.build)


# Fresh and stale


def test_a_built_cascade_is_fresh(small: Workspace, report: Reporter) -> None:
    assert states(small, report) == dict.fromkeys(ALL, "fresh")


def test_before_anything_is_built_everything_is_missing(
    copied: Workspace, report: Reporter, tmp_path: Path
) -> None:
    empty = Workspace(copied.cascade, tmp_path / "nothing")
    assert states(empty, report) == dict.fromkeys(ALL, "missing")
    assert not empty.build.exists()


def test_the_second_run_does_nothing(copied: Workspace, report: Reporter) -> None:
    before = times(copied)
    run_all(copied, "embedded", report)
    after = times(copied)
    # The link to the current repository is renamed anew, over the same target.
    assert {n for n in after if before.get(n) != after[n]} <= {"repository/current"}
    assert states(copied, report) == dict.fromkeys(ALL, "fresh")


def test_a_copy_elsewhere_is_fresh_too(copied: Workspace, report: Reporter) -> None:
    assert states(copied, report) == dict.fromkeys(ALL, "fresh")


def test_new_times_without_new_content_leave_everything_fresh(copied: Workspace, report: Reporter) -> None:
    for path in copied.cascade.folder.rglob("*"):
        os.utime(path)
    assert states(copied, report) == dict.fromkeys(ALL, "fresh")


def test_new_weights_make_everything_stale(copied: Workspace, report: Reporter) -> None:
    path = copied.cascade.folder / "weights" / "near.safetensors"
    weights = {name: values * np.float16(0.9) for name, values in load_file(path).items()}
    save_file(weights, path)
    assert states(copied, report) == fresh_before("calibrate")


def test_a_changed_module_makes_everything_stale(copied: Workspace, report: Reporter) -> None:
    path = copied.cascade.folder / "ladder.py"
    path.write_text(path.read_text().replace("RIDGE = 1.0", "RIDGE = 2.0"))
    assert states(copied, report) == fresh_before("calibrate")


def test_a_missing_weights_file_makes_everything_stale(copied: Workspace, report: Reporter) -> None:
    (copied.cascade.folder / "weights" / "near.safetensors").unlink()
    assert states(copied, report) == fresh_before("calibrate")


@pytest.mark.parametrize(
    ("section", "fields", "first"),
    [
        ("calibration", {"signal": "margin"}, "calibrate"),
        ("serving", {"max_batch_size": 4, "probabilities": True}, "export"),
        ("profile", {"batches": [1, 2]}, "profile"),
        ("objective", {"max_accuracy_drop": 2.0}, "search"),
        ("gears", {"count": 3}, "gears"),
    ],
)
def test_a_changed_section_makes_the_stages_stale_that_read_it(
    copied: Workspace, report: Reporter, section: str, fields: dict[str, Any], first: str
) -> None:
    changed = edit_spec(copied, lambda content: content.setdefault(section, {}).update(fields))
    assert states(changed, report) == fresh_before(first)


def test_another_test_set_makes_nothing_stale(copied: Workspace, report: Reporter) -> None:
    changed = edit_spec(copied, lambda content: content["data"].update(test="ladder:validation"))
    assert states(changed, report) == dict.fromkeys(ALL, "fresh")


def test_a_changed_device_file_makes_profile_and_what_follows_stale(
    copied: Workspace, report: Reporter
) -> None:
    path = copied.cascade.folder / copied.cascade.devices
    path.write_text(path.read_text().replace("2048", "1024"))
    assert states(copied, report) == fresh_before("profile")


def test_a_new_objective_runs_only_what_depends_on_it(copied: Workspace, report: Reporter) -> None:
    before = times(copied)
    changed = edit_spec(copied, lambda content: content["objective"].update(max_accuracy_drop=0.0))
    run_all(changed, "embedded", report)
    after = times(changed)
    earlier = {file for stage in STAGES[:3] for file in stage.files} | {
        f"export/{tier}.onnx" for tier in copied.cascade.tier_names
    }
    assert {file for file in earlier if before[file] != after[file]} == set()
    assert states(changed, report) == dict.fromkeys(ALL, "fresh")
    policy = changed.load(POLICY_FILE, RoutingPolicy, "search")
    assert policy.max_accuracy_drop == 0.0
    assert policy.chosen.accuracy_drop <= 0.0, "nothing may be given up"


def test_a_cascade_in_a_folder_of_similar_name_is_not_mixed_up_with_this_one(
    copied: Workspace, report: Reporter, tmp_path: Path
) -> None:
    other = shutil.copytree(copied.cascade.folder, tmp_path / f"{copied.cascade.folder.name}-next")
    (other / "ladder.py").write_text("def validation():\n    return {}\n")
    assert load_callable(other, "ladder:validation", "data.validation")() == {}
    assert states(copied, report) == dict.fromkeys(ALL, "fresh"), "whatever else this process has loaded"
    assert load_rows(copied.cascade, "validation")


def test_a_module_of_the_same_name_elsewhere_makes_nothing_stale(
    copied: Workspace, report: Reporter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "ladder.py").write_text("raise ImportError('the wrong one')\n")
    monkeypatch.syspath_prepend(tmp_path / "elsewhere")
    assert states(copied, report) == dict.fromkeys(ALL, "fresh")


# What the stages promise


def test_the_policy_keeps_its_allowance_on_the_held_out_rows(small: Workspace) -> None:
    policy = small.load(POLICY_FILE, RoutingPolicy, "search")
    table = load_score_table(small.path("scores.npz"))
    assert policy.search_rows == (table.split != "fit").sum()
    assert not policy.certified
    assert policy.chosen.accuracy_drop <= small.cascade.objective.max_accuracy_drop
    assert policy.chosen.cost <= policy.reference.cost


def test_the_manifest_names_every_file_with_its_digest(small: Workspace) -> None:
    repository = small.path("repository") / "current"
    manifest = read_manifest(repository)
    found = {
        str(path.relative_to(repository)): digest_bytes(path.read_bytes())
        for path in repository.rglob("*")
        if path.is_file() and path.name != MANIFEST and "__pycache__" not in path.parts
    }
    assert manifest["files"] == found
    assert (manifest["cascade"], manifest["target"]) == ("small", "embedded")


# --check


def test_check_passes_after_a_build_and_writes_nothing(copied: Workspace, report: Reporter) -> None:
    before = times(copied)
    build_repo(copied, "embedded", check=True, report=report)
    assert times(copied) == before


@pytest.mark.parametrize("file", ["small/config.pbtxt", "small/1/router.py", "small_near/1/model.onnx"])
def test_check_names_a_file_that_was_changed_by_hand(copied: Workspace, report: Reporter, file: str) -> None:
    path = copied.path("repository") / "current" / file
    path.write_bytes(path.read_bytes() + b"#")
    with pytest.raises(CheckFailed, match=re.escape(file)):
        build_repo(copied, "embedded", check=True, report=report)
    assert states(copied, report) == fresh_before("build-repo")
    build_repo(copied, "embedded", check=False, report=report)
    build_repo(copied, "embedded", check=True, report=report)


def test_check_names_missing_and_superfluous_files(copied: Workspace, report: Reporter) -> None:
    repository = copied.path("repository") / "current"
    (repository / "small_near" / "config.pbtxt").unlink()
    (repository / "small" / "notes.txt").write_text("mine")
    with pytest.raises(CheckFailed) as caught:
        build_repo(copied, "embedded", check=True, report=report)
    assert "small_near/config.pbtxt" in caught.value.message
    assert "small/notes.txt" in caught.value.message


def test_compiled_python_that_servers_leave_behind_is_no_difference(
    copied: Workspace, report: Reporter
) -> None:
    compiled = copied.path("repository") / "current" / "small" / "1" / "__pycache__"
    compiled.mkdir(exist_ok=True)
    (compiled / "router.cpython-311.pyc").write_bytes(b"compiled")
    assert build_repo(copied, "embedded", check=True, report=report) == compiled.parents[2]


def test_the_repository_before_this_one_stays_readable(copied: Workspace, report: Reporter) -> None:
    old = (copied.path("repository") / "current").resolve()
    changed = edit_spec(copied, lambda content: content.update(gears={"count": 1, "target_busy_share": 0.5}))
    new = run_all(changed, "embedded", report).resolve()
    assert new != old
    assert (old / MANIFEST).is_file()
    assert {path.name for path in new.parent.iterdir()} == {old.name, new.name}


# Artifacts that do not fit

READERS = {
    "calibration.json": "export",
    "exported.json": "profile",
    "profile.json": "search",
    "scores.npz": "search",
    "policy.json": "place",
    "placement.json": "gears",
    "gear_plan.json": "build-repo",
    "export/near.onnx": "build-repo",
}


def run_reader(work: Workspace, file: str, report: Reporter) -> None:
    """Run the stage that reads a file first."""
    if READERS[file] == "build-repo":
        build_repo(work, "embedded", check=False, report=report)
    else:
        run_stage(READERS[file], work, report)


@pytest.mark.parametrize("damage", ["cut short", "empty", "missing", "not its kind"])
@pytest.mark.parametrize("file", READERS)
def test_a_damaged_artifact_is_named_with_the_verb_that_mends_it(
    copied: Workspace, report: Reporter, file: str, damage: str
) -> None:
    path = copied.path(file)
    content = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes(
            {"cut short": content[: len(content) // 2], "empty": b"", "not its kind": b"[1, 2]\n"}[damage]
        )
    with pytest.raises(ArtifactError) as caught:
        run_reader(copied, file, report)
    assert str(path) in caught.value.message
    assert "cascade-tools" in caught.value.hint
    assert states(copied, report) != dict.fromkeys(ALL, "fresh")


@pytest.mark.parametrize("file", [file for file in READERS if file.endswith(".json")])
def test_an_artifact_of_another_cascade_is_refused(copied: Workspace, report: Reporter, file: str) -> None:
    path = copied.path(file)
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "cascade": "other"}))
    with pytest.raises(ArtifactError, match="belongs to cascade 'other', not 'small'") as caught:
        run_reader(copied, file, report)
    assert str(path) in caught.value.message


def test_an_exported_graph_that_was_replaced_is_not_profiled(copied: Workspace, report: Reporter) -> None:
    shutil.copy(copied.path("export/near.onnx"), copied.path("export/linear.onnx"))
    with pytest.raises(UsageError, match=re.escape(str(copied.path("export/linear.onnx")))):
        run_stage("profile", copied, report)


def test_a_run_mends_an_artifact_that_was_damaged(copied: Workspace, report: Reporter) -> None:
    copied.path("policy.json").write_text("{")
    run_all(copied, "embedded", report)
    assert states(copied, report) == dict.fromkeys(ALL, "fresh")


def test_a_failing_stage_leaves_the_old_artifacts(copied: Workspace, report: Reporter) -> None:
    before = times(copied)
    (copied.cascade.folder / "weights" / "near.safetensors").write_bytes(b"not weights")
    with pytest.raises(CascadeError, match=re.escape("tiers.near.source.weights")):
        run_all(copied, "embedded", report)
    assert times(copied) == before
