"""What `cascade.yaml` and the device file may say, and that every refusal names its field."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from cascade_tools.errors import UsageError
from cascade_tools.resources import shipped_cascade
from cascade_tools.spec import load_cascade, load_devices
from tests.helpers import Json, changed, spec_content, write_cascade

Change = Callable[[Json], object]


def refusal(folder: Path, content: Any) -> str:
    """What `load_cascade` says of a content."""
    text = content if isinstance(content, str) else yaml.safe_dump(content)
    (folder / "cascade.yaml").write_text(text)
    with pytest.raises(UsageError) as caught:
        load_cascade(folder)
    return caught.value.message


def adopt(content: Json, source: Json | None = None, where: Json | None = None) -> None:
    """Make the last tier an adopted one."""
    content["tiers"][1]["source"] = {"triton": "Giant.v2"} if source is None else source
    content["triton"] = {"repository": "models"} if where is None else where


def devices_refusal(folder: Path, content: Any) -> str:
    """What `load_devices` says of a content."""
    cascade = write_cascade(folder)
    (folder / "devices.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(UsageError) as caught:
        load_devices(cascade)
    return caught.value.message


def test_a_minimal_spec_gets_the_defaults(tmp_path: Path) -> None:
    cascade = write_cascade(tmp_path)
    assert cascade.tier_names == ("small", "large")
    assert cascade.calibration.method == "temperature"
    assert cascade.calibration.signal == "max_probability"
    assert cascade.objective.max_accuracy_drop == 1.0
    assert cascade.objective.minimise == "device_time"
    assert cascade.serving.max_batch_size == 32
    assert not cascade.serving.probabilities
    assert cascade.train is None


def test_the_folder_is_the_one_that_holds_the_file(tmp_path: Path) -> None:
    write_cascade(tmp_path / "pair")
    assert load_cascade(tmp_path / "pair").folder == tmp_path / "pair"
    assert load_cascade(tmp_path / "pair" / "cascade.yaml").folder == tmp_path / "pair"


def test_the_folder_stays_the_same_when_the_process_moves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_cascade(tmp_path / "pair")
    monkeypatch.chdir(tmp_path)
    assert load_cascade(Path("pair")).folder == tmp_path / "pair"


def test_models_are_named_after_cascade_and_tier(tmp_path: Path) -> None:
    assert write_cascade(tmp_path).model_name("large") == "pair_large"


def test_the_shipped_cascade_is_legal() -> None:
    cascade = load_cascade(shipped_cascade("digits"))
    assert cascade.tier_names == ("tiny", "small", "base", "giant")
    assert load_devices(cascade).devices[0].kind == "cpu"


def test_a_missing_file_is_named_with_what_writes_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        load_cascade(tmp_path)
    assert f"{tmp_path / 'cascade.yaml'}: no such file" in caught.value.message
    assert "cascade-tools init" in caught.value.hint


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nowhere: no such file"):
        load_cascade(tmp_path / "nowhere")


def test_a_missing_device_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"devices\.yaml: no such file"):
        load_devices(write_cascade(tmp_path))


def test_another_device_file_may_be_read_instead(tmp_path: Path) -> None:
    path = tmp_path / "other.yaml"
    path.write_text("devices: [{type: a30, kind: gpu, count: 2, memory_mib: 24000}]")
    assert load_devices(write_cascade(tmp_path), path).devices[0].count == 2


def test_what_is_not_yaml_is_refused(tmp_path: Path) -> None:
    assert "not valid YAML" in refusal(tmp_path, "name: [unclosed")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("- a\n- b", "must be a mapping of fields (`name: value`), found a list"),
        ("word", "must be a mapping of fields (`name: value`), found only 'word'"),
    ],
)
def test_what_is_not_a_mapping_is_refused(tmp_path: Path, text: str, message: str) -> None:
    assert message in refusal(tmp_path, text)


def test_what_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cascade.yaml").write_bytes(b"name: \xff\xfe")
    with pytest.raises(UsageError, match="cannot be read"):
        load_cascade(tmp_path)


def test_yaml_may_not_make_objects(tmp_path: Path) -> None:
    assert "not valid YAML" in refusal(tmp_path, "name: !!python/object/apply:os.getcwd []")


UNKNOWN = "unknown key; remove it or mend its spelling"
BROKEN: list[tuple[str, Change, str, str]] = [
    ("unknown key", lambda c: c.update(tier=1), "tier", UNKNOWN),
    ("unknown key of a tier", lambda c: c["tiers"][1].update(size=3), "tiers.1.size", UNKNOWN),
    (
        "unknown key of a source",
        lambda c: c["tiers"][0]["source"].update(url="x"),
        "tiers.0.source.url",
        UNKNOWN,
    ),
    ("unknown key of a section", lambda c: c.update(gears={"number": 2}), "gears.number", UNKNOWN),
    ("no name", lambda c: c.pop("name"), "name", "required"),
    ("no tiers", lambda c: c.pop("tiers"), "tiers", "required"),
    ("no data", lambda c: c.pop("data"), "data", "required"),
    ("no devices", lambda c: c.pop("devices"), "devices", "required"),
    ("empty tiers", lambda c: c.update(tiers=[]), "tiers", "at least 1"),
    ("tiers is a text", lambda c: c.update(tiers="small"), "tiers", "valid tuple"),
    ("a tier is a text", lambda c: c.update(tiers=["small"]), "tiers.0", "valid dictionary"),
    ("name is a number", lambda c: c.update(name=7), "name", "valid string"),
    ("name is a list", lambda c: c.update(name=["a"]), "name", "valid string"),
    (
        "a number is a text",
        lambda c: c.update(objective={"max_accuracy_drop": "much"}),
        "objective.max_accuracy_drop",
        "valid number",
    ),
    (
        "a count is a fraction",
        lambda c: c.update(gears={"count": 1.5}),
        "gears.count",
        "valid integer",
    ),
    (
        "a flag is a word",
        lambda c: c.update(serving={"probabilities": "perhaps"}),
        "serving.probabilities",
        "valid boolean",
    ),
    (
        "a drop below 0",
        lambda c: c.update(objective={"max_accuracy_drop": -0.1}),
        "objective.max_accuracy_drop",
        "greater than or equal to 0",
    ),
    (
        "a drop above 100",
        lambda c: c.update(objective={"max_accuracy_drop": 101}),
        "objective.max_accuracy_drop",
        "less than or equal to 100",
    ),
    (
        "a drop that is no number",
        lambda c: c.update(objective={"max_accuracy_drop": float("nan")}),
        "objective.max_accuracy_drop",
        "",
    ),
    (
        "certainty",
        lambda c: c.update(objective={"confidence": 1.0}),
        "objective.confidence",
        "less than 1",
    ),
    (
        "an unknown objective",
        lambda c: c.update(objective={"minimise": "worry"}),
        "objective.minimise",
        "'device_time', 'energy', 'latency' or 'money'",
    ),
    (
        "an unknown method",
        lambda c: c.update(calibration={"method": "histogram"}),
        "calibration.method",
        "'temperature', 'platt', 'isotonic', 'none' or 'auto'",
    ),
    (
        "everything for the fit",
        lambda c: c.update(calibration={"splits": {"fit": 1.0}}),
        "calibration.splits.fit",
        "less than 1",
    ),
    ("no gears", lambda c: c.update(gears={"count": 0}), "gears.count", "greater than or equal to 1"),
    (
        "an empty batch",
        lambda c: c.update(serving={"max_batch_size": 0}),
        "serving.max_batch_size",
        "greater than or equal to 1",
    ),
    (
        "more tiers than can be searched",
        lambda c: c.update(tiers=[{**c["tiers"][0], "name": f"tier{n}"} for n in range(9)]),
        "tiers",
        "at most 8",
    ),
    (
        "a batch that is never admitted",
        lambda c: c.update(serving={"max_batch_size": 32, "rows_in_flight": 31}),
        "serving",
        "rows_in_flight must not be below max_batch_size",
    ),
    *[
        (
            f"a path of {len(path)} characters that begins {path[:2]!r}",
            lambda c, path=path: c.update(devices=path),
            "devices",
            "at most 200 characters",
        )
        for path in ("a" * 201, "a\0b")
    ],
    (
        "tier names that repeat",
        lambda c: c["tiers"][1].update(name="small"),
        "tiers",
        "the name 'small' is given twice",
    ),
    *[
        (f"name {name!r}", lambda c, name=name: c.update(name=name), "name", "lower-case letters")
        for name in ("a/b", "..", "../x", "Digits", "a b", "", "-a", "a-", "a--b", "1a", "a_b", "ä", "a" * 41)
    ],
    *[
        (
            f"tier name {name!r}",
            lambda c, name=name: c["tiers"][0].update(name=name),
            "tiers.0.name",
            "lower-case letters",
        )
        for name in ("a/b", "..", "Big", "a\n", "a.b", '"')
    ],
    (
        "no source",
        lambda c: c["tiers"][0].update(source={}),
        "tiers.0.source",
        "exactly one of 'torch', 'onnx', 'hf', 'timm' and 'triton'",
    ),
    (
        "two sources",
        lambda c: c["tiers"][0].update(source={"torch": "a:b", "onnx": "a.onnx"}),
        "tiers.0.source",
        "exactly one of 'torch', 'onnx', 'hf', 'timm' and 'triton'",
    ),
    *[
        (
            f"a model called {name!r}",
            lambda c, name=name: adopt(c, source={"triton": name}),
            "tiers.1.source.triton",
            "must be the name of a Triton model",
        )
        for name in ("", ".", "..", "a/b", "../a", "a b", "-a", "a\n", "ä", "a" * 201)
    ],
    *[
        (
            f"{key} of a torch model",
            lambda c, key=key, value=value: c["tiers"][0]["source"].update({key: value}),
            "tiers.0.source",
            f"{key!r} belongs to 'triton'",
        )
        for key, value in (("inputs", {"A": "B"}), ("output", "B"), ("gives", "logits"))
    ],
    *[
        (
            f"{key} of an ONNX model",
            lambda c, key=key, value=value: c["tiers"][0].update(source={"onnx": "a.onnx", key: value}),
            "tiers.0.source",
            f"{key!r} belongs to 'triton'",
        )
        for key, value in (("inputs", {"A": "B"}), ("gives", "logits"))
    ],
    (
        "a timm model without weights",
        lambda c: c["tiers"][0].update(source={"timm": "resnet18"}),
        "tiers.0.source",
        "'timm' needs 'weights'",
    ),
    *[
        (
            f"the timm model {name!r}",
            lambda c, name=name: c["tiers"][0].update(source={"timm": name, "weights": "a.pt"}),
            "tiers.0.source.timm",
            "must be the name of a timm model",
        )
        for name in ("hf_hub:a/b", "local-dir:a", "../a", "")
    ],
    (
        "a folder of transformers outside",
        lambda c: c["tiers"][0].update(source={"hf": "../bert"}),
        "tiers.0.source.hf",
        "relative path inside the cascade's folder",
    ),
    (
        "one input of the model for two of the data",
        lambda c: adopt(c, source={"triton": "M", "inputs": {"A": "X", "B": "X"}}),
        "tiers.1.source",
        "inputs: an input of the model is named twice",
    ),
    (
        "no inputs for an adopted model",
        lambda c: adopt(c, source={"triton": "M", "inputs": {}}),
        "tiers.1.source.inputs",
        "at least 1",
    ),
    (
        "a tensor name with a space",
        lambda c: adopt(c, source={"triton": "M", "output": "a b"}),
        "tiers.1.source.output",
        "must be the name of a tensor",
    ),
    (
        "scores of another kind",
        lambda c: adopt(c, source={"triton": "M", "gives": "labels"}),
        "tiers.1.source.gives",
        "'logits' or 'probabilities'",
    ),
    *[
        (
            f"an adopted model that is at {list(where)}",
            lambda c, where=where: adopt(c, where=where),
            "triton",
            "exactly one of 'repository', 'external_repository' and 'url'",
        )
        for where in ({}, {"repository": "a", "url": "a:1"})
    ],
    (
        "a model repository outside the folder",
        lambda c: adopt(c, where={"repository": "../models"}),
        "triton.repository",
        "relative path inside the cascade's folder",
    ),
    (
        "an external model repository that is relative",
        lambda c: adopt(c, where={"external_repository": "models"}),
        "triton.external_repository",
        "must be an absolute path",
    ),
    *[
        (
            f"a server at {url!r}",
            lambda c, url=url: adopt(c, where={"url": url}),
            "triton.url",
            "must be host:port",
        )
        for url in ("http://a:8001", "a", "a:", "a:99999", "a:1/x", "a b:1")
    ],
    (
        "weights of an ONNX file",
        lambda c: c["tiers"][0].update(source={"onnx": "a.onnx", "weights": "a.pt"}),
        "tiers.0.source",
        "'weights' belongs to 'torch'",
    ),
    *[
        (
            f"{path!r} as {field}",
            lambda c, field=field, path=path: c["tiers"][0].update(
                source={**({"torch": "a:b"} if field == "weights" else {}), field: path}
            ),
            f"tiers.0.source.{field}",
            "relative path inside the cascade's folder",
        )
        for field in ("weights", "onnx")
        for path in ("/etc/passwd", "../other/a.pt", "a/../../b.pt", "..")
    ],
    *[
        (
            f"{path!r} as devices",
            lambda c, path=path: c.update(devices=path),
            "devices",
            "relative path inside the cascade's folder",
        )
        for path in ("/devices.yaml", "../devices.yaml")
    ],
    *[
        (
            f"callable {reference!r}",
            lambda c, reference=reference: c["tiers"][0].update(source={"torch": reference}),
            "tiers.0.source.torch",
            "must be 'module:callable'",
        )
        for reference in ("ladder", "ladder:", ":small", "lad der:small", "../ladder:small", "ladder:a.b")
    ],
    (
        "data of another form",
        lambda c: c["data"].update(validation="rows.csv"),
        "data",
        "validation: must be a path to an .npz file or 'module:callable'",
    ),
    (
        "test data of another form",
        lambda c: c["data"].update(test="rows.csv"),
        "data",
        "test: must be a path to an .npz file or 'module:callable'",
    ),
    *[
        (
            f"data from {path!r}",
            lambda c, path=path: c["data"].update(validation=path),
            "data",
            "relative path inside the cascade's folder",
        )
        for path in ("/rows.npz", "../rows.npz")
    ],
]


@pytest.mark.parametrize(
    ("change", "field", "what"), [entry[1:] for entry in BROKEN], ids=[entry[0] for entry in BROKEN]
)
def test_a_broken_spec_is_refused_with_the_field(
    tmp_path: Path, change: Change, field: str, what: str
) -> None:
    message = refusal(tmp_path, changed(spec_content(), change))
    path, _, problem = message.partition(": ")
    assert path == str(tmp_path / "cascade.yaml")
    assert problem.startswith(f"{field}: ")
    assert what in problem


def test_an_adopted_model_keeps_its_name(tmp_path: Path) -> None:
    cascade = write_cascade(tmp_path, changed(spec_content(), adopt))
    assert [cascade.model_name(name) for name in cascade.tier_names] == ["pair_small", "Giant.v2"]
    assert [tier.name for tier in cascade.adopted] == ["large"]
    assert cascade.adopted_repository == tmp_path / "models"


@pytest.mark.parametrize(
    ("where", "repository"),
    [({"external_repository": "/srv/m"}, Path("/srv/m")), ({"url": "[::1]:8001"}, None)],
)
def test_adopted_models_may_be_elsewhere(tmp_path: Path, where: Json, repository: Path | None) -> None:
    content = changed(spec_content(), lambda c: adopt(c, where=where))
    assert write_cascade(tmp_path, content).adopted_repository == repository


def test_an_adopted_model_needs_a_place(tmp_path: Path) -> None:
    content = changed(spec_content(), adopt)
    del content["triton"]
    assert "tiers.large.source.triton: say where that model is" in refusal(tmp_path, content)


@pytest.mark.parametrize("name", ["pair", "pair_small"])
def test_a_cascade_does_not_adopt_its_own_models(tmp_path: Path, name: str) -> None:
    content = changed(spec_content(), lambda c: adopt(c, source={"triton": name}))
    said = refusal(tmp_path, content)
    assert f"tiers.large.source.triton: {name} is a model of this cascade itself" in said


def test_several_problems_are_all_reported(tmp_path: Path) -> None:
    content = spec_content()
    content.update(name="A/B", colour="red", gears={"count": 0})
    content["tiers"][1]["source"] = {}
    message = refusal(tmp_path, content)
    for field in ("name: ", "colour: ", "gears.count: ", "tiers.1.source: "):
        assert field in message
    assert len(message.splitlines()) == 4


def test_npz_data_inside_the_folder_is_legal(tmp_path: Path) -> None:
    content = spec_content()
    content["data"] = {"validation": "data/rows.npz", "test": "rows:test"}
    assert write_cascade(tmp_path, content).data.validation == "data/rows.npz"


@pytest.mark.parametrize("name", ["a", "digits", "vit-b-16", "x1-y2", "a" * 40])
def test_plain_names_are_legal(tmp_path: Path, name: str) -> None:
    assert write_cascade(tmp_path, {**spec_content(), "name": name}).name == name


CPU = {"type": "host", "kind": "cpu", "cores": 2, "memory_mib": 4096}
GPU = {"type": "a30", "kind": "gpu", "count": 4, "memory_mib": 24000}


def test_cpus_and_gpus_may_stand_together(tmp_path: Path) -> None:
    cascade = write_cascade(tmp_path)
    (tmp_path / "devices.yaml").write_text(yaml.safe_dump({"devices": [CPU, GPU]}))
    devices = load_devices(cascade).devices
    assert [(d.kind, d.count, d.cores, d.reserved_mib) for d in devices] == [
        ("cpu", 1, 2, 0),
        ("gpu", 4, None, 0),
    ]


BROKEN_DEVICES: list[tuple[str, Any, str, str]] = [
    ("a CPU without cores", {k: v for k, v in CPU.items() if k != "cores"}, "devices.0", "'cores' is needed"),
    ("a GPU with cores", {**GPU, "cores": 2}, "devices.0", "not allowed for kind gpu"),
    ("two CPUs", {**CPU, "count": 2}, "devices.0", "'count' must be 1 for kind cpu"),
    ("no cores", {**CPU, "cores": 0}, "devices.0.cores", "greater than or equal to 1"),
    ("no memory", {**GPU, "memory_mib": 0}, "devices.0.memory_mib", "greater than 0"),
    ("less than no reserve", {**GPU, "reserved_mib": -1}, "devices.0.reserved_mib", "greater than or equal"),
    ("no devices of the type", {**GPU, "count": 0}, "devices.0.count", "greater than or equal to 1"),
    ("no watts", {**CPU, "busy_watts": 0}, "devices.0.busy_watts", "greater than 0"),
    ("another kind", {**CPU, "kind": "tpu"}, "devices.0.kind", "'cpu' or 'gpu'"),
    ("an odd name", {**CPU, "type": "A 30"}, "devices.0.type", "lower-case letters"),
    ("an unknown key", {**CPU, "speed": 3}, "devices.0.speed", UNKNOWN),
    ("a text", "gpu", "devices.0", "valid dictionary"),
]


@pytest.mark.parametrize(
    ("device", "field", "what"),
    [entry[1:] for entry in BROKEN_DEVICES],
    ids=[entry[0] for entry in BROKEN_DEVICES],
)
def test_a_broken_device_is_refused_with_the_field(
    tmp_path: Path, device: Any, field: str, what: str
) -> None:
    message = devices_refusal(tmp_path, {"devices": [device]})
    assert message.startswith(f"{tmp_path / 'devices.yaml'}: {field}: ")
    assert what in message


@pytest.mark.parametrize(
    ("devices", "what"),
    [
        ([GPU, GPU], "a type is given twice"),
        ([CPU, {**CPU, "type": "other"}], "one host has one device of kind cpu"),
    ],
)
def test_devices_that_exclude_each_other_are_refused(tmp_path: Path, devices: Any, what: str) -> None:
    assert f"devices: {what}" in devices_refusal(tmp_path, {"devices": devices})


def test_a_device_file_without_devices_is_refused(tmp_path: Path) -> None:
    assert "devices: " in devices_refusal(tmp_path, {"devices": []})
    assert "devices: " in devices_refusal(tmp_path, {"count": 1})


@pytest.mark.parametrize("field", ["validation", "test"])
def test_a_data_path_that_leaves_the_folder_names_its_field(tmp_path: Path, field: str) -> None:
    content = spec_content()
    content["data"][field] = "../rows.npz"
    with pytest.raises(UsageError, match=f"data: {field}: must be a relative path"):
        write_cascade(tmp_path, content)


def test_a_device_that_reserves_all_its_memory_is_refused(tmp_path: Path) -> None:
    cascade = write_cascade(tmp_path)
    (tmp_path / "devices.yaml").write_text(
        "devices: [{type: a, kind: gpu, memory_mib: 100, reserved_mib: 100}]"
    )
    with pytest.raises(UsageError, match="reserved_mib"):
        load_devices(cascade)
