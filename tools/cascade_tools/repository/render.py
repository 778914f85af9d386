"""Every file of a repository, in memory: configs from templates, models and router code copied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from cascade_tools import backends, resources, runtime
from cascade_tools.artifacts import GearPlan, InputSpec, LadderTier, Partition, Placement
from cascade_tools.errors import UsageError
from cascade_tools.spec import Format, stage_models

Target = Literal["embedded", "ngc"]
SERVERS: dict[Target, str] = {
    "embedded": "2.51.0",
    "ngc": "nvcr.io/nvidia/tritonserver:26.07-py3",
}
VERSION = "1"
Formats = Mapping[str, Format]  # by tier
ALL_ONNX: Formats = MappingProxyType({})
Partitions = Mapping[str, Partition]  # by tier
ALL_WHOLE: Partitions = MappingProxyType({})
MODEL_FILES: dict[Format, str] = {
    "onnx": "model.onnx",
    "onnx_fp16": "model.onnx",
    "pt2": "model.pt2",
    "tensorrt": "model.plan",
}
TEMPLATES: dict[tuple[Target, Format], str] = {
    ("embedded", "onnx"): "triton/python_tier.pbtxt.j2",
    ("embedded", "onnx_fp16"): "triton/python_tier.pbtxt.j2",
    ("embedded", "pt2"): "triton/python_tier.pbtxt.j2",
    ("ngc", "onnx"): "triton/onnx_tier.pbtxt.j2",
    ("ngc", "onnx_fp16"): "triton/onnx_tier.pbtxt.j2",
    ("ngc", "tensorrt"): "triton/tensorrt_tier.pbtxt.j2",
}
ONNX_SESSION = "onnx_session.py"
# Of tiers on the Python backend: the first becomes model.py, the others lie beside it.
TIER_CODE: dict[Format, tuple[str, ...]] = {
    "onnx": ("onnx_tier.py", ONNX_SESSION, "joined.py"),
    "onnx_fp16": ("onnx_tier.py", ONNX_SESSION, "joined.py"),
    "pt2": ("torch_tier.py", "torch_session.py", "joined.py"),
}
LONG_WORK_NICE = 5  # scheduling priority of embedded tiers that take longer than `inline_entry_ms`


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a model, without the batch dimension."""

    name: str
    datatype: str
    dims: tuple[int, ...]


@dataclass(frozen=True)
class InstanceGroup:
    """`count` instances on each of `gpus`; no GPUs means the CPU."""

    count: int
    gpus: tuple[int, ...]


def render_configs(
    plan: GearPlan,
    placement: Placement,
    target: Target,
    formats: Formats = ALL_ONNX,
    partitions: Partitions = ALL_WHOLE,
    *,
    router: bool = True,
) -> dict[str, str]:
    """All `config.pbtxt` by relative path; adopted models have theirs already.

    Args:
        plan: names the models.
        placement: says where they run.
        target: the server.
        formats: of the tiers that are not ONNX in float32.
        partitions: of the tiers that are served in stages.
        router: whether the router is in this repository.

    Raises:
        UsageError: the target cannot serve a tier's format, or not on the device where it is placed.
    """
    size = plan.limits.max_batch_size
    answer = answer_tensors(plan.classes, plan.tokens, probabilities=plan.probabilities)
    route = [TensorSpec("TIER", "INT32", (1,)), TensorSpec("FLAGS", "INT32", (1,))]
    common: dict[str, Any] = {
        "cascade": plan.cascade,
        "inputs": plan.inputs,
        "max_batch_size": size,
    }
    files = {}
    if router:
        files[f"{plan.cascade}/config.pbtxt"] = render_template(
            "triton/router.pbtxt.j2",
            name=plan.cascade,
            instances=plan.limits.router_instances,
            outputs=[*answer[:2], *route, *answer[2:]],
            **common,
        )
    for tier in rendered(plan):
        kind = formats.get(tier.tier, "onnx")
        for model in _models(tier, plan.inputs, answer, partitions.get(tier.tier)):
            groups = instance_groups(placement, tier.tier, model.stage)
            files[f"{model.name}/config.pbtxt"] = render_tier(
                target,
                kind,
                groups,
                name=model.name,
                tier=tier.tier,
                nice=nice_of(plan, tier),
                **{**common, "inputs": model.inputs, "outputs": model.outputs, "steps": model.steps},
            )
    return files


def nice_of(plan: GearPlan, tier: LadderTier) -> int:
    """Scheduling priority of an embedded tier: long work on a CPU lets short work pass."""
    return LONG_WORK_NICE if tier.p50_ms > plan.limits.inline_entry_ms else 0


def answer_tensors(classes: int, tokens: int | None, *, probabilities: bool) -> list[TensorSpec]:
    """What a tier returns: LABEL, CONFIDENCE and, where asked for, PROBS."""
    probs = [TensorSpec("PROBS", "FP32", (classes,))] if probabilities else []
    return [TensorSpec("LABEL", "INT64", (tokens or 1,)), TensorSpec("CONFIDENCE", "FP32", (1,)), *probs]


def render_tier(
    target: Target, kind: Format, groups: list[InstanceGroup], *, tier: str, **values: Any
) -> str:
    """The `config.pbtxt` of one tier of a format; `values` are the template's.

    Raises:
        UsageError: the target cannot serve the format, or not on those devices.
    """
    return render_template(
        "triton/ensemble.pbtxt.j2" if values.get("steps") else _template(tier, kind, target, groups),
        tier=tier,
        groups=groups,
        runs="torch" if kind == "pt2" else "ONNX Runtime",
        **values,
    )


@dataclass(frozen=True)
class _Model:
    """One model of a tier; an ensemble has steps, and `stage` numbers these, from 1."""

    name: str
    inputs: Sequence[TensorSpec | InputSpec]
    outputs: Sequence[TensorSpec | InputSpec]
    steps: tuple[_Model, ...] = ()
    stage: int | None = None


def _models(
    tier: LadderTier,
    inputs: Sequence[InputSpec],
    outputs: Sequence[TensorSpec],
    partition: Partition | None,
) -> tuple[_Model, ...]:
    """The tier's model; where it is cut, its stages, and the ensemble that chains them in its place."""
    if partition is None:
        return (_Model(tier.model, inputs, outputs),)
    stages = tuple(
        _Model(name, stage.inputs, stage.outputs, stage=stage.number)
        for name, stage in zip(stage_models(tier.model, len(partition.stages)), partition.stages, strict=True)
    )
    return (_Model(tier.model, inputs, outputs, stages), *stages)


def _template(tier: str, kind: Format, target: Target, groups: list[InstanceGroup]) -> str:
    template = TEMPLATES.get((target, kind))
    if template is None:
        able = next(other for other, known in TEMPLATES if known == kind)
        why = {
            "pt2": f"the Python of {SERVERS['ngc']} has no torch",
            "tensorrt": "the embedded server has no TensorRT backend",
        }[kind]
        raise UsageError(
            f"tiers.{tier}.format: target {target} does not serve {kind}: {why}",
            f"use --target {able}, or take format onnx or onnx_fp16",
        )
    if target == "embedded" and kind != "pt2" and any(group.gpus for group in groups):
        raise UsageError(
            f"tiers.{tier}.format: the embedded server runs {kind} on the CPU alone, and the placement has "
            "this tier on a GPU",
            "use --target ngc, take format pt2, or name devices of kind cpu in the device file",
        )
    if kind == "tensorrt" and not all(group.gpus for group in groups):
        raise UsageError(
            f"tiers.{tier}.format: a TensorRT plan runs on GPUs, and the placement has this tier on the CPU",
            "name devices of kind gpu in the device file, or take format onnx_fp16",
        )
    return template


def rendered(plan: GearPlan) -> list[LadderTier]:
    """The tiers whose models belong to the repository."""
    return [tier for tier in plan.ladder if tier.adopted is None]


def instance_groups(placement: Placement, tier: str, stage: int | None = None) -> list[InstanceGroup]:
    """Instances of a tier as Triton wants them: one group per count, GPUs of equal count together.

    Triton knows no batch of an instance, so instances that are planned in other batches are as good.

    Args:
        placement: on one host.
        tier: its name.
        stage: one of the models that it is cut into, from 1; all where the placement has it whole.
    """
    on_device: dict[int, int] = {}
    for placed in placement.instances:
        if placed.tier == tier and (stage is None or placed.stages == 1 or placed.stage == stage):
            on_device[placed.device] = on_device.get(placed.device, 0) + placed.count
    groups: dict[tuple[bool, int], list[int]] = {}
    for device, count in on_device.items():
        gpu = placement.devices[device].gpu
        on_gpu = groups.setdefault((gpu is not None, count), [])
        if gpu is not None:
            on_gpu.append(gpu)
    return [InstanceGroup(count, tuple(gpus)) for (_, count), gpus in sorted(groups.items())]


def model_folders(tier: LadderTier, partitions: Partitions = ALL_WHOLE) -> tuple[str, ...]:
    """Where the files of a tier's model belong: one folder, or one of each stage."""
    partition = partitions.get(tier.tier)
    names = (tier.model,) if partition is None else stage_models(tier.model, len(partition.stages))
    return tuple(f"{name}/{VERSION}" for name in names)


def code_files(
    plan: GearPlan,
    target: Target,
    formats: Formats = ALL_ONNX,
    partitions: Partitions = ALL_WHOLE,
    *,
    router: bool = True,
) -> dict[str, Path]:
    """Python files of the repository by relative path, copied byte for byte."""
    files = _router_files(plan.cascade, target) if router else {}
    if target == "embedded":
        for info in rendered(plan):
            model, *others = TIER_CODE[formats.get(info.tier, "onnx")]
            for folder in model_folders(info, partitions):
                files[f"{folder}/model.py"] = _folder(backends) / model
                files |= {f"{folder}/{name}": _folder(backends) / name for name in others}
    return files


def _router_files(cascade: str, target: Target) -> dict[str, Path]:
    files = {path.name: path for path in sorted(_folder(runtime).glob("*.py"))}
    if target == "embedded":
        # With it the router runs cheap tiers itself; see `runtime/local.py`.
        files[ONNX_SESSION] = _folder(backends) / ONNX_SESSION
    return {f"{cascade}/{VERSION}/{name}": path for name, path in files.items()}


def hop_files() -> dict[str, bytes]:
    """A repository that measures the cost of one call between models; see `serving/hop.py`."""
    models = {
        "hop_echo": (1, [TensorSpec("ROW", "FP32", (256,))], [TensorSpec("ECHO", "FP32", (256,))]),
        "hop_probe": (
            0,
            [TensorSpec("CALLS", "INT32", (1,)), TensorSpec("THREADS", "INT32", (1,))],
            [TensorSpec("SECONDS", "FP64", (-1,))],
        ),
    }
    files = {}
    for name, (size, inputs, outputs) in models.items():
        text = render_template(
            "triton/probe.pbtxt.j2", name=name, max_batch_size=size, inputs=inputs, outputs=outputs
        )
        files[f"{name}/config.pbtxt"] = text.encode()
        files[f"{name}/{VERSION}/model.py"] = (_folder(backends) / f"{name}.py").read_bytes()
    return files


def _folder(package: Any) -> Path:
    return Path(package.__file__).parent


def render_template(template: str, **values: Any) -> str:
    """A template of `templates/`, strictly: what it names must be given."""
    return _environment().get_template(template).render(**values)


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(resources.templates()),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
