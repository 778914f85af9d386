"""The files of a repository, and how they get into their place."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from cascade_tools import runtime
from cascade_tools.artifacts import GearPlan, PlacedDevice, PlacedInstances, Placement
from cascade_tools.errors import ArtifactError, CheckFailed, UsageError
from cascade_tools.repository import place
from cascade_tools.repository.manifest import (
    MANIFEST,
    Content,
    Files,
    make_manifest,
    read_manifest,
    refuse_other_target,
)
from cascade_tools.repository.render import (
    MODEL_FILES,
    SERVERS,
    TEMPLATES,
    TIER_CODE,
    InstanceGroup,
    Target,
    code_files,
    instance_groups,
    render_configs,
)
from cascade_tools.repository.rules import check_config
from cascade_tools.spec import Format
from tests.helpers import plan_content, run_in_threads, run_with_file_limit, thread_switches_inside

CPU = pb.ModelInstanceGroup.KIND_CPU
GPU = pb.ModelInstanceGroup.KIND_GPU
TARGETS: tuple[Target, ...] = ("embedded", "ngc")
Instances = list[tuple[str, int, int]]


def gear_plan(**changes: Any) -> GearPlan:
    content = plan_content(("tiny", "giant"))
    content["inputs"] = [
        {"name": "PIXELS", "datatype": "FP32", "dims": [1, 16, 16]},
        {"name": "MASK", "datatype": "BOOL", "dims": [4]},
    ]
    return GearPlan.model_validate({**content, **changes})


def placement(instances: Instances, gpus: int = 0) -> Placement:
    """Instances as (tier, device, count); device 0 is the CPU, the GPUs follow it."""

    def device(number: int) -> PlacedDevice:
        return PlacedDevice(
            type="a30" if number else "host",
            kind="gpu" if number else "cpu",
            gpu=number - 1 if number else None,
            memory_mib=1000,
            used_memory_mib=0.0,
            busy_share=0.0,
        )

    return Placement(
        cascade="digits",
        made_from={},
        rate_rps=1.0,
        bound_rps=1.0,
        gap=0.0,
        status="optimal",
        giant_only_rps=None,
        batch={"tiny": 1, "giant": 1},
        devices=tuple(device(number) for number in range(gpus + 1)),
        instances=tuple(
            PlacedInstances(tier=tier, device=number, count=count, busy_instances=0.0)
            for tier, number, count in instances
        ),
    )


ON_CPU = placement([("tiny", 0, 2), ("giant", 0, 3)])


def parsed(text: str) -> pb.ModelConfig:
    config = pb.ModelConfig()
    text_format.Parse(text, config)
    return config


def configs(plan: GearPlan, where: Placement, target: Target) -> dict[str, pb.ModelConfig]:
    return {
        name.removesuffix("/config.pbtxt"): parsed(text)
        for name, text in render_configs(plan, where, target).items()
    }


def tensors(entries: Any) -> list[tuple[str, str, list[int]]]:
    return [(t.name, pb.DataType.Name(t.data_type), list(t.dims)) for t in entries]


@pytest.mark.parametrize("target", TARGETS)
def test_every_model_has_a_config_of_its_name_that_triton_accepts(target: Target) -> None:
    for name, text in render_configs(gear_plan(), ON_CPU, target).items():
        check_config(name, text, router=name == "digits/config.pbtxt")
    assert set(configs(gear_plan(), ON_CPU, target)) == {"digits", "digits_tiny", "digits_giant"}


INPUTS = [("PIXELS", "TYPE_FP32", [1, 16, 16]), ("MASK", "TYPE_BOOL", [4])]
ANSWER = [("LABEL", "TYPE_INT64", [1]), ("CONFIDENCE", "TYPE_FP32", [1])]
ROUTE = [("TIER", "TYPE_INT32", [1]), ("FLAGS", "TYPE_INT32", [1])]
PROBS = [("PROBS", "TYPE_FP32", [10])]


@pytest.mark.parametrize("target", TARGETS)
def test_tiers_and_router_take_the_same_inputs(target: Target) -> None:
    for config in configs(gear_plan(), ON_CPU, target).values():
        assert tensors(config.input) == INPUTS


@pytest.mark.parametrize("target", TARGETS)
def test_the_router_also_says_who_answered(target: Target) -> None:
    found = configs(gear_plan(), ON_CPU, target)
    assert tensors(found["digits"].output) == ANSWER + ROUTE
    assert tensors(found["digits_tiny"].output) == ANSWER


@pytest.mark.parametrize("target", TARGETS)
def test_probabilities_are_an_output_where_they_are_asked_for(target: Target) -> None:
    found = configs(gear_plan(probabilities=True), ON_CPU, target)
    assert tensors(found["digits"].output) == ANSWER + ROUTE + PROBS
    assert tensors(found["digits_giant"].output) == ANSWER + PROBS


@pytest.mark.parametrize("target", TARGETS)
def test_all_models_batch_up_to_the_same_size(target: Target) -> None:
    for config in configs(gear_plan(), ON_CPU, target).values():
        assert config.max_batch_size == 32
        assert config.HasField("dynamic_batching")


@pytest.mark.parametrize(("target", "backend"), [("embedded", "python"), ("ngc", "onnxruntime")])
def test_each_target_has_its_backend(target: Target, backend: str) -> None:
    found = configs(gear_plan(), ON_CPU, target)
    assert found["digits"].backend == "python"
    assert found["digits_tiny"].backend == found["digits_giant"].backend == backend


@pytest.mark.parametrize("target", TARGETS)
def test_tiers_run_on_one_thread_each(target: Target) -> None:
    tier = configs(gear_plan(), ON_CPU, target)["digits_tiny"]
    assert tier.parameters["intra_op_thread_count"].string_value == "1"


@pytest.mark.parametrize("target", TARGETS)
def test_a_router_is_one_instance_on_the_cpu(target: Target) -> None:
    where = {"embedded": ON_CPU, "ngc": placement([("tiny", 1, 2), ("giant", 1, 1)], gpus=1)}[target]
    router = configs(gear_plan(), where, target)["digits"]
    assert [(group.kind, group.count) for group in router.instance_group] == [(CPU, 1)]


@pytest.mark.parametrize("target", TARGETS)
def test_tiers_on_the_cpu_have_the_placed_instances(target: Target) -> None:
    found = configs(gear_plan(), ON_CPU, target)
    groups = {name: found[name].instance_group for name in ("digits_tiny", "digits_giant")}
    assert [(g.kind, g.count) for g in groups["digits_tiny"]] == [(CPU, 2)]
    assert [(g.kind, g.count) for g in groups["digits_giant"]] == [(CPU, 3)]


def test_gpus_with_equally_many_instances_share_a_group() -> None:
    where = placement([("tiny", 1, 2), ("tiny", 2, 1), ("tiny", 3, 2), ("giant", 2, 1)], gpus=3)
    found = configs(gear_plan(), where, "ngc")
    groups = [(g.kind, g.count, list(g.gpus)) for g in found["digits_tiny"].instance_group]
    assert groups == [(GPU, 1, [1]), (GPU, 2, [0, 2])]
    groups = [(g.kind, g.count, list(g.gpus)) for g in found["digits_giant"].instance_group]
    assert groups == [(GPU, 1, [1])]


def test_cpu_and_gpu_instances_stand_in_groups_of_their_own() -> None:
    where = placement([("tiny", 0, 2), ("tiny", 1, 2), ("giant", 1, 1)], gpus=1)
    assert instance_groups(where, "tiny") == [InstanceGroup(2, ()), InstanceGroup(2, (0,))]
    kinds = [g.kind for g in configs(gear_plan(), where, "ngc")["digits_tiny"].instance_group]
    assert kinds == [CPU, GPU]


def test_a_tier_without_a_place_is_refused() -> None:
    text = render_configs(gear_plan(), placement([("tiny", 0, 1)]), "ngc")["digits_giant/config.pbtxt"]
    with pytest.raises(CheckFailed, match="instance_group is not given"):
        check_config("digits_giant/config.pbtxt", text, router=False)


def test_the_runtime_is_copied_for_the_router() -> None:
    folder = Path(str(runtime.__file__)).parent
    files = code_files(gear_plan(), "ngc")
    assert files == {f"digits/1/{path.name}": path for path in folder.glob("*.py")}
    assert "digits/1/model.py" in files


def test_only_the_embedded_server_needs_code_for_its_tiers() -> None:
    more = set(code_files(gear_plan(), "embedded")) - set(code_files(gear_plan(), "ngc"))
    names = ("model", "onnx_session", "joined")
    tiers = {f"digits_{tier}/1/{name}.py" for tier in ("tiny", "giant") for name in names}
    assert more == {*tiers, "digits/1/onnx_session.py"}


TORCH_GIANT: dict[str, Format] = {"giant": "pt2"}


def test_a_torch_program_brings_the_code_that_runs_it() -> None:
    files = code_files(gear_plan(), "embedded", TORCH_GIANT)
    found = {name: path.name for name, path in files.items() if not name.startswith("digits/")}
    assert found == {
        "digits_tiny/1/model.py": "onnx_tier.py",
        "digits_tiny/1/onnx_session.py": "onnx_session.py",
        "digits_tiny/1/joined.py": "joined.py",
        "digits_giant/1/model.py": "torch_tier.py",
        "digits_giant/1/torch_session.py": "torch_session.py",
        "digits_giant/1/joined.py": "joined.py",
    }


def test_a_torch_program_runs_where_it_is_placed() -> None:
    where = placement([("tiny", 0, 1), ("giant", 0, 2), ("giant", 1, 3), ("giant", 2, 3)], gpus=2)
    texts = render_configs(gear_plan(), where, "embedded", TORCH_GIANT)
    for name, text in texts.items():
        check_config(name, text, router=name == "digits/config.pbtxt")
    giant = parsed(texts["digits_giant/config.pbtxt"])
    groups = [(g.kind, g.count, list(g.gpus)) for g in giant.instance_group]
    assert groups == [(CPU, 2, []), (GPU, 3, [0, 1])]
    assert giant.backend == "python"
    assert giant.parameters["intra_op_thread_count"].string_value == "1"
    tiny = parsed(texts["digits_tiny/config.pbtxt"])
    assert [g.kind for g in tiny.instance_group] == [CPU]


def test_onnx_on_a_gpu_needs_the_container() -> None:
    where = placement([("tiny", 1, 1), ("giant", 0, 2)], gpus=2)
    with pytest.raises(
        UsageError, match=r"tiers\.tiny\.format: the embedded server runs onnx on the CPU alone"
    ):
        render_configs(gear_plan(), where, "embedded")


def test_a_tensorrt_plan_has_its_backend_and_its_gpus() -> None:
    where = placement([("tiny", 0, 1), ("giant", 1, 2)], gpus=1)
    text = render_configs(gear_plan(), where, "ngc", {"giant": "tensorrt"})["digits_giant/config.pbtxt"]
    check_config("digits_giant/config.pbtxt", text, router=False)
    giant = parsed(text)
    assert (giant.platform, giant.backend) == ("tensorrt_plan", "tensorrt")
    assert [(g.kind, g.count, list(g.gpus)) for g in giant.instance_group] == [(GPU, 2, [0])]
    assert giant.max_batch_size == 32
    assert tensors(giant.input) == INPUTS
    assert tensors(giant.output) == ANSWER


@pytest.mark.parametrize(
    ("kind", "target", "words"),
    [
        ("pt2", "ngc", ("target ngc does not serve pt2", "no torch", "--target embedded")),
        ("tensorrt", "embedded", ("target embedded does not serve tensorrt", "--target ngc")),
        ("tensorrt", "ngc", ("runs on GPUs", "on the CPU", "device file")),
    ],
)
def test_a_format_that_a_target_cannot_serve_is_named(
    kind: Format, target: Target, words: tuple[str, ...]
) -> None:
    with pytest.raises(UsageError) as caught:
        render_configs(gear_plan(), ON_CPU, target, {"giant": kind})
    assert caught.value.message.startswith("tiers.giant.format: ")
    assert all(word in f"{caught.value.message} {caught.value.hint}" for word in words)


def test_every_format_can_be_served_and_has_a_file() -> None:
    formats = set(get_args(Format))
    assert {kind for _, kind in TEMPLATES} == formats == set(MODEL_FILES)
    assert {kind for target, kind in TEMPLATES if target == "embedded"} == set(TIER_CODE)


def test_a_file_is_copied_as_its_content_would_be(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(b"weights")
    by_path: dict[str, Content] = {**OLD, "a/1/model.onnx": tmp_path / "weights"}
    manifest = make_manifest("digits", "embedded", by_path)
    assert manifest == make_manifest("digits", "embedded", OLD)
    current = place.put(tmp_path / "root", by_path, manifest)
    assert content(current) == OLD
    place.check(tmp_path / "root", by_path, manifest)
    (current / "a/1/model.onnx").write_bytes(b"Weights")
    with pytest.raises(CheckFailed, match=r"a/1/model\.onnx"):
        place.check(tmp_path / "root", by_path, manifest)
    assert (tmp_path / "weights").read_bytes() == b"weights", "a copy, not a link"


OLD: Files = {"a/config.pbtxt": b"old", "a/1/model.onnx": b"weights"}
NEW: Files = {"a/config.pbtxt": b"new", "b/1/model.onnx": b"other"}


def put(root: Path, files: Files, target: Target = "embedded") -> Path:
    return place.put(root, files, make_manifest("digits", target, files))


def content(repository: Path) -> Files:
    return {
        path.relative_to(repository).as_posix(): path.read_bytes()
        for path in sorted(repository.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }


def versions(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "versions").iterdir())


def test_a_repository_holds_exactly_its_files(tmp_path: Path) -> None:
    current = put(tmp_path, OLD)
    assert current == tmp_path / "current"
    assert content(current) == OLD


def test_the_manifest_names_cascade_target_server_and_digests(tmp_path: Path) -> None:
    manifest = read_manifest(put(tmp_path, OLD))
    assert (manifest["cascade"], manifest["target"]) == ("digits", "embedded")
    assert manifest["server"] == SERVERS["embedded"]
    assert list(manifest["files"]) == sorted(OLD)
    assert all(len(digest) == 64 for digest in manifest["files"].values())


def test_current_is_a_relative_link_that_moves_with_its_folder(tmp_path: Path) -> None:
    put(tmp_path / "here", OLD)
    assert not (tmp_path / "here" / "current").readlink().is_absolute()
    (tmp_path / "here").rename(tmp_path / "there")
    assert content(tmp_path / "there" / "current") == OLD


def test_a_new_version_replaces_the_current_one_and_the_old_stays_beside(tmp_path: Path) -> None:
    put(tmp_path, OLD)
    before = (tmp_path / "current").resolve()
    put(tmp_path, NEW)
    assert content(tmp_path / "current") == NEW
    assert content(before) == OLD
    assert sorted(path.name for path in tmp_path.iterdir()) == ["current", "versions"]


def test_at_most_two_versions_are_kept(tmp_path: Path) -> None:
    put(tmp_path, {"a": b"first"})
    first = (tmp_path / "current").resolve()
    os.utime(first, (1, 1))
    put(tmp_path, OLD)
    put(tmp_path, NEW)
    assert len(versions(tmp_path)) == place.KEPT_VERSIONS
    assert not first.exists()
    assert content(tmp_path / "current") == NEW


def test_the_version_that_a_server_may_still_read_stays(tmp_path: Path) -> None:
    for number, text in enumerate((b"A", b"B", b"A")):
        put(tmp_path, {"a": text})
        before = (tmp_path / "current").resolve()
        os.utime(before, (number + 1, number + 1))
    put(tmp_path, {"a": b"C"})
    assert (before / "a").read_bytes() == b"A"


def test_the_same_repository_is_not_written_again(tmp_path: Path) -> None:
    put(tmp_path, OLD)
    before = (tmp_path / "current" / "a" / "config.pbtxt").stat()
    put(tmp_path, OLD)
    after = (tmp_path / "current" / "a" / "config.pbtxt").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert len(versions(tmp_path)) == 1


def test_what_was_changed_by_hand_is_written_again(tmp_path: Path) -> None:
    current = put(tmp_path, OLD)
    (current / "a" / "config.pbtxt").write_bytes(b"mine")
    (current / "extra").write_bytes(b"too many")
    put(tmp_path, OLD)
    assert content(tmp_path / "current") == OLD


def test_a_failed_put_keeps_the_old_repository_current(tmp_path: Path) -> None:
    put(tmp_path, OLD)
    old = (tmp_path / "current").resolve()
    script = """
        from pathlib import Path
        from cascade_tools.errors import CascadeError
        from cascade_tools.repository import place
        from cascade_tools.repository.manifest import make_manifest
        files = {"a/config.pbtxt": b"new", "a/1/model.onnx": b"x" * 5000}
        try:
            place.put(Path(sys.argv[1]), files, make_manifest("digits", "embedded", files))
        except CascadeError as error:
            print(error.message)
    """
    said = run_with_file_limit(2000, script, str(tmp_path))
    assert said == f"{tmp_path}: could not be written: File too large\n"
    assert (tmp_path / "current").resolve() == old
    assert content(tmp_path / "current") == OLD
    assert versions(tmp_path) == [old.name]


def test_a_reader_finds_a_current_repository_at_every_moment(tmp_path: Path) -> None:
    put(tmp_path, OLD)
    done = threading.Event()
    missed = []

    def replace_often() -> None:
        for number in range(6):
            put(tmp_path, NEW if number % 2 else OLD)
        done.set()

    def look() -> None:
        while not done.is_set():
            if not (tmp_path / "current" / MANIFEST).is_file():
                missed.append(time.monotonic())

    with thread_switches_inside(place._point):
        run_in_threads([replace_often, look])
    assert missed == []


def check(root: Path, files: Files) -> None:
    place.check(root, files, make_manifest("digits", "embedded", files))


def test_check_accepts_what_was_put(tmp_path: Path) -> None:
    put(tmp_path, OLD)
    check(tmp_path, OLD)


def test_check_ignores_compiled_python(tmp_path: Path) -> None:
    cache = put(tmp_path, OLD) / "a" / "1" / "__pycache__"
    cache.mkdir()
    (cache / "model.pyc").write_bytes(b"")
    check(tmp_path, OLD)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda current: (current / "a/config.pbtxt").write_bytes(b"mine"), "a/config.pbtxt"),
        (lambda current: (current / "a/1/model.onnx").unlink(), "a/1/model.onnx"),
        (lambda current: (current / "a/extra").write_bytes(b""), "a/extra"),
        (lambda current: (current / MANIFEST).write_bytes(b"{}"), MANIFEST),
    ],
    ids=["changed", "missing", "too many", "manifest"],
)
def test_check_names_the_file_that_differs_and_writes_nothing(
    tmp_path: Path, change: Callable[[Path], object], named: str
) -> None:
    current = put(tmp_path, OLD)
    change(current)
    before = content(current)
    with pytest.raises(CheckFailed) as caught:
        check(tmp_path, OLD)
    assert caught.value.message.endswith(f"1 file(s) differ from the plan: {named}")
    assert content(current) == before


def test_check_counts_all_differences_and_shows_some(tmp_path: Path) -> None:
    put(tmp_path, {f"file{n}": b"old" for n in range(9)})
    with pytest.raises(CheckFailed, match=r"10 file\(s\) differ from the plan: .* \.\.\.$"):
        check(tmp_path, {f"file{n}": b"new" for n in range(9)})


def test_check_of_nothing_names_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(CheckFailed, match=r"3 file\(s\) differ"):
        check(tmp_path, OLD)
    assert list(tmp_path.iterdir()) == []


def test_kept_configs_are_compared_too(tmp_path: Path) -> None:
    shown: Files = {"digits/config.pbtxt": b"one", "digits_tiny/config.pbtxt": b"two"}
    for name, text in shown.items():
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(text)
    place.check_shown(tmp_path, shown)
    (tmp_path / "digits_tiny/config.pbtxt").write_bytes(b"mine")
    (tmp_path / "digits/config.pbtxt").unlink()
    with pytest.raises(CheckFailed, match=r"digits/config\.pbtxt, digits_tiny/config\.pbtxt"):
        place.check_shown(tmp_path, shown)


@pytest.mark.parametrize(("made_for", "served_by"), [("embedded", "ngc"), ("ngc", "embedded")])
def test_a_repository_of_another_target_is_refused(
    tmp_path: Path, made_for: Target, served_by: Target
) -> None:
    repository = put(tmp_path, OLD, made_for)
    assert refuse_other_target(repository, made_for)["target"] == made_for
    with pytest.raises(ArtifactError) as caught:
        refuse_other_target(repository, served_by)
    assert f"made for target '{made_for}'" in caught.value.message
    assert caught.value.hint.endswith(f"--target {served_by}`")


@pytest.mark.parametrize(("field", "other"), [("server", "tritonserver:24.01-py3"), ("target", "mine")])
def test_a_repository_of_another_server_version_is_refused(tmp_path: Path, field: str, other: str) -> None:
    manifest = {**json.loads(make_manifest("digits", "ngc", OLD)), field: other}
    (tmp_path / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match=other):
        refuse_other_target(tmp_path, "ngc")


@pytest.mark.parametrize("text", [None, "{", "[]", "{}", '{"kind": "policy"}'])
def test_without_a_manifest_there_is_no_repository(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(ArtifactError) as caught:
        read_manifest(tmp_path)
    assert str(tmp_path / MANIFEST) in caught.value.message
    assert "build-repo" in caught.value.hint
