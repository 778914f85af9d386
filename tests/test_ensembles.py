"""The models of a tier that is served in stages, and what Triton would refuse of an ensemble."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from cascade_tools.artifacts import (
    ExportedStage,
    GearPlan,
    InputSpec,
    Partition,
    PlacedDevice,
    PlacedInstances,
    Placement,
)
from cascade_tools.errors import CheckFailed
from cascade_tools.repository.manifest import has_process
from cascade_tools.repository.render import Target, code_files, render_configs
from cascade_tools.repository.rules import check_config, check_ensembles
from cascade_tools.spec import stage_models
from tests.helpers import plan_content

TARGETS: tuple[Target, ...] = ("embedded", "ngc")
GIANT = "digits_giant"
FIRST, SECOND, THIRD = stage_models(GIANT, 3)
IDS = InputSpec(name="IDS", datatype="INT64", dims=(12,))
MASK = InputSpec(name="MASK", datatype="BOOL", dims=(12,))
HIDDEN = tuple(InputSpec(name=f"HIDDEN_{k}", datatype="FP16", dims=(12, 32)) for k in range(2))
LABEL = InputSpec(name="LABEL", datatype="INT64", dims=(1,))
CONFIDENCE = InputSpec(name="CONFIDENCE", datatype="FP32", dims=(1,))


def stage(number: int, inputs: tuple[InputSpec, ...], outputs: tuple[InputSpec, ...]) -> ExportedStage:
    return ExportedStage(
        number=number,
        file=f"export/giant_s{number}of3.onnx",
        sha256="",
        inputs=inputs,
        outputs=outputs,
        weights_mib=1.0,
        time_ms=1.0,
        crossing_bytes=0,
    )


PARTITION = Partition(
    stages=(
        stage(1, (IDS, MASK), HIDDEN[:1]),
        stage(2, (HIDDEN[0], MASK), (HIDDEN[1],)),
        stage(3, HIDDEN, (LABEL, CONFIDENCE)),  # the first hidden tensor passes around the second stage
    ),
    batch=8,
    whole_ms=3.0,
    balance=1.0,
    label_mismatches=0,
    confidence_error=0.0,
)
STAGED = {"giant": PARTITION}


def plan() -> GearPlan:
    content = plan_content(("tiny", "giant"))
    content["inputs"] = [IDS.model_dump(), MASK.model_dump()]
    return GearPlan.model_validate(content)


def placement(target: Target) -> Placement:
    """Two instances of the giant on one device and one on another: GPUs where the target has ONNX on them."""
    kinds: list[tuple[Any, int | None]] = [("cpu", None), ("gpu", 0), ("gpu", 1)]
    if target == "embedded":
        kinds = [("cpu", None)] * 3
    return Placement(
        cascade="digits",
        made_from={},
        rate_rps=1.0,
        bound_rps=1.0,
        gap=0.0,
        status="optimal",
        giant_only_rps=None,
        batch={"tiny": 1, "giant": 1},
        devices=tuple(
            PlacedDevice(type="one", kind=kind, gpu=gpu, memory_mib=1000, used_memory_mib=0.0, busy_share=0.0)
            for kind, gpu in kinds
        ),
        instances=tuple(
            PlacedInstances(tier=tier, device=device, count=count, busy_instances=0.0)
            for tier, device, count in (("tiny", 0, 1), ("giant", 1, 2), ("giant", 2, 1))
        ),
    )


def texts(target: Target) -> dict[str, str]:
    return render_configs(plan(), placement(target), target, partitions=STAGED)


def parsed(text: str) -> pb.ModelConfig:
    config = pb.ModelConfig()
    text_format.Parse(text, config)
    return config


def config(target: Target, model: str) -> pb.ModelConfig:
    return parsed(texts(target)[f"{model}/config.pbtxt"])


def tensors(entries: Any) -> list[tuple[str, str, list[int]]]:
    return [(t.name, pb.DataType.Name(t.data_type), list(t.dims)) for t in entries]


@pytest.mark.parametrize("target", TARGETS)
def test_a_staged_tier_is_an_ensemble_and_its_stages(target: Target) -> None:
    found = texts(target)
    models = {"digits", "digits_tiny", GIANT, FIRST, SECOND, THIRD}
    assert {name.removesuffix("/config.pbtxt") for name in found} == models
    for name, text in found.items():
        check_config(name, text, router=name == "digits/config.pbtxt")
    check_ensembles(found)


def test_stages_are_named_by_number_and_count() -> None:
    assert stage_models("a_b", 2) == ("a_b_s1of2", "a_b_s2of2")
    assert stage_models("a_b", 1) == ()


@pytest.mark.parametrize("target", TARGETS)
def test_the_router_sees_the_ensemble_as_it_sees_any_tier(target: Target) -> None:
    ensemble, tiny = config(target, GIANT), config(target, "digits_tiny")
    assert tensors(ensemble.input) == tensors(tiny.input)
    assert tensors(ensemble.output) == tensors(tiny.output)
    assert ensemble.max_batch_size == tiny.max_batch_size
    assert (ensemble.platform, ensemble.backend) == ("ensemble", "")
    assert not ensemble.instance_group


@pytest.mark.parametrize(("target", "backend"), [("embedded", "python"), ("ngc", "onnxruntime")])
def test_every_stage_is_served_like_a_tier(target: Target, backend: str) -> None:
    second = config(target, SECOND)
    assert second.backend == backend
    assert tensors(second.input) == [("HIDDEN_0", "TYPE_FP16", [12, 32]), ("MASK", "TYPE_BOOL", [12])]
    assert tensors(second.output) == [("HIDDEN_1", "TYPE_FP16", [12, 32])]
    assert second.max_batch_size == 32
    assert second.HasField("dynamic_batching")


def test_stages_of_a_tier_that_was_placed_whole_have_its_instances() -> None:
    for name in (FIRST, SECOND, THIRD):
        groups = [(group.count, list(group.gpus)) for group in config("ngc", name).instance_group]
        assert groups == [(1, [1]), (2, [0])]


def test_every_stage_is_where_it_was_placed() -> None:
    where = placement("ngc").model_copy(
        update={
            "instances": (
                PlacedInstances(tier="tiny", device=0, count=1, busy_instances=0.0),
                *(
                    PlacedInstances(
                        tier="giant", stages=3, stage=stage, device=device, count=count, busy_instances=0.0
                    )
                    for stage, device, count in ((1, 1, 1), (2, 2, 2), (3, 1, 1), (3, 2, 1))
                ),
            )
        }
    )
    found = render_configs(plan(), where, "ngc", partitions=STAGED)
    groups = {
        model: [(g.count, list(g.gpus)) for g in parsed(found[f"{model}/config.pbtxt"]).instance_group]
        for model in (FIRST, SECOND, THIRD)
    }
    assert groups == {FIRST: [(1, [0])], SECOND: [(2, [1])], THIRD: [(1, [0, 1])]}


@pytest.mark.parametrize("target", TARGETS)
def test_the_steps_hand_on_what_the_next_ones_read(target: Target) -> None:
    steps = config(target, GIANT).ensemble_scheduling.step
    assert [step.model_name for step in steps] == [FIRST, SECOND, THIRD]
    assert [dict(step.input_map) for step in steps] == [
        {"IDS": "IDS", "MASK": "MASK"},
        {"HIDDEN_0": "HIDDEN_0", "MASK": "MASK"},
        {"HIDDEN_0": "HIDDEN_0", "HIDDEN_1": "HIDDEN_1"},
    ]
    assert [dict(step.output_map) for step in steps] == [
        {"HIDDEN_0": "HIDDEN_0"},
        {"HIDDEN_1": "HIDDEN_1"},
        {"LABEL": "LABEL", "CONFIDENCE": "CONFIDENCE"},
    ]


def test_stages_have_the_code_of_tiers_and_the_ensemble_has_none() -> None:
    files = code_files(plan(), "embedded", partitions=STAGED)
    manifest = {"files": dict.fromkeys(files, "")}
    assert [has_process(manifest, model) for model in (FIRST, SECOND, THIRD, "digits_tiny")] == [True] * 4
    assert not has_process(manifest, GIANT)
    assert files[f"{FIRST}/1/model.py"] == files["digits_tiny/1/model.py"]


# What Triton would refuse

PATH = f"{GIANT}/config.pbtxt"


def broken(old: str, new: str, model: str = GIANT) -> dict[str, str]:
    """The configs for the embedded server, with one of them changed."""
    found = texts("embedded")
    path = f"{model}/config.pbtxt"
    assert old in found[path]
    return {**found, path: found[path].replace(old, new)}


MAP = 'input_map {{ key: "{0}" value: "{0}" }}'
HIDDEN_0 = 'output_map { key: "HIDDEN_0" value: "HIDDEN_0" }'
BROKEN = {
    "a model that is not there": (
        broken(f'"{SECOND}"', '"digits_other"'),
        [
            "step 2 (digits_other): the repository has no such model",
            f"step 3 ({THIRD}): input 'HIDDEN_1' is not made by any step before it",
        ],
    ),
    "another batch": (
        broken("max_batch_size: 32", "max_batch_size: 16", SECOND),
        [f"step 2 ({SECOND}): max_batch_size 16 is not the ensemble's 32"],
    ),
    "an input that gets nothing": (
        broken(MAP.format("IDS"), ""),
        [f"step 1 ({FIRST}): input 'IDS' is not in the input_map"],
    ),
    "an input that the model has not": (
        broken(MAP.format("IDS"), MAP.format("IDS") + ' input_map { key: "TEXT" value: "IDS" }'),
        [f"step 1 ({FIRST}): the model has no input 'TEXT'"],
    ),
    "an output that the model has not": (
        broken(HIDDEN_0, HIDDEN_0 + ' output_map { key: "OTHER" value: "OTHER" }'),
        [f"step 1 ({FIRST}): the model has no output 'OTHER'"],
    ),
    "a tensor made twice": (
        broken(HIDDEN_0, 'output_map { key: "HIDDEN_0" value: "IDS" }'),
        [
            f"step 1 ({FIRST}): tensor 'IDS' is made twice",
            f"step 2 ({SECOND}): input 'HIDDEN_0' is not made by any step before it",
            f"step 3 ({THIRD}): input 'HIDDEN_0' is not made by any step before it",
        ],
    ),
    "another type": (
        broken("TYPE_FP16", "TYPE_FP32", FIRST),
        [
            f"step 2 ({SECOND}): input 'HIDDEN_0' is TYPE_FP16 [12, 32], what it gets is TYPE_FP32 [12, 32]",
            f"step 3 ({THIRD}): input 'HIDDEN_0' is TYPE_FP16 [12, 32], what it gets is TYPE_FP32 [12, 32]",
        ],
    ),
    "another shape of the answer": (
        broken("dims: [1]", "dims: [2]", THIRD),
        [
            "output 'LABEL' is TYPE_INT64 [1], what it gets is TYPE_INT64 [2]",
            "output 'CONFIDENCE' is TYPE_FP32 [1], what it gets is TYPE_FP32 [2]",
        ],
    ),
    "an answer that nobody gives": (
        broken('output_map { key: "CONFIDENCE" value: "CONFIDENCE" }', ""),
        ["output 'CONFIDENCE' is not made by any step before it"],
    ),
}


@pytest.mark.parametrize(("found", "problems"), BROKEN.values(), ids=BROKEN)
def test_a_broken_chain_is_named(found: dict[str, str], problems: list[str]) -> None:
    with pytest.raises(CheckFailed) as caught:
        check_ensembles(found)
    path, _, text = caught.value.message.partition(": ")
    assert path == PATH
    assert text.split("; ") == problems


BROKEN_ENSEMBLES = {
    "a backend": (
        broken('platform: "ensemble"', 'platform: "ensemble" backend: "python"'),
        "an ensemble has no backend",
    ),
    "no steps": (
        {PATH: texts("embedded")[PATH].partition("ensemble_scheduling")[0]},
        "an ensemble needs steps",
    ),
    "instances": (
        broken('platform: "ensemble"', 'platform: "ensemble" instance_group { count: 1 kind: KIND_CPU }'),
        "instance_group belongs to the models of an ensemble, not to itself",
    ),
    "two schedulers": (
        broken("ensemble_scheduling {", "dynamic_batching { } ensemble_scheduling {"),
        "Triton cannot read it: ",
    ),
}


@pytest.mark.parametrize(("found", "problem"), BROKEN_ENSEMBLES.values(), ids=BROKEN_ENSEMBLES)
def test_an_ensemble_has_what_ensembles_have(found: dict[str, str], problem: str) -> None:
    with pytest.raises(CheckFailed) as caught:
        check_config(PATH, found[PATH], router=False)
    assert caught.value.message.startswith(f"{PATH}: {problem}")
