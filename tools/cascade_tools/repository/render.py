"""Every file of a repository, in memory: configs from templates, models and router code copied."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from cascade_tools import backends, resources, runtime
from cascade_tools.artifacts import GearPlan, Placement

Target = Literal["embedded", "ngc"]
SERVERS: dict[Target, str] = {
    "embedded": "2.51.0",
    "ngc": "nvcr.io/nvidia/tritonserver:26.07-py3",
}
VERSION = "1"


@dataclass(frozen=True)
class Output:
    """One output of a model, without the batch dimension."""

    name: str
    datatype: str
    dims: tuple[int, ...]


@dataclass(frozen=True)
class InstanceGroup:
    """`count` instances on each of `gpus`; no GPUs means the CPU."""

    count: int
    gpus: tuple[int, ...]


def render_configs(plan: GearPlan, placement: Placement, target: Target) -> dict[str, str]:
    """All `config.pbtxt` by relative path."""
    size = plan.limits.max_batch_size
    probs = [Output("PROBS", "FP32", (plan.classes,))] if plan.probabilities else []
    answer = [Output("LABEL", "INT64", (1,)), Output("CONFIDENCE", "FP32", (1,))]
    route = [Output("TIER", "INT32", (1,)), Output("FLAGS", "INT32", (1,))]
    common: dict[str, Any] = {
        "cascade": plan.cascade,
        "inputs": plan.inputs,
        "max_batch_size": size,
    }
    files = {
        f"{plan.cascade}/config.pbtxt": _render(
            "triton/router.pbtxt.j2", name=plan.cascade, outputs=[*answer, *route, *probs], **common
        )
    }
    template = {"embedded": "triton/python_tier.pbtxt.j2", "ngc": "triton/onnx_tier.pbtxt.j2"}
    for tier in plan.ladder:
        files[f"{tier.model}/config.pbtxt"] = _render(
            template[target],
            name=tier.model,
            tier=tier.tier,
            outputs=[*answer, *probs],
            groups=instance_groups(placement, tier.tier),
            **common,
        )
    return files


def instance_groups(placement: Placement, tier: str) -> list[InstanceGroup]:
    """Instances of a tier as Triton wants them: one group per count, GPUs of equal count together."""
    groups: dict[tuple[bool, int], list[int]] = {}
    for placed in placement.instances:
        if placed.tier == tier:
            gpu = placement.devices[placed.device].gpu
            on_gpu = groups.setdefault((gpu is not None, placed.count), [])
            if gpu is not None:
                on_gpu.append(gpu)
    return [InstanceGroup(count, tuple(gpus)) for (_, count), gpus in sorted(groups.items())]


def code_files(plan: GearPlan, target: Target) -> dict[str, Path]:
    """Python files of the repository by relative path, copied byte for byte."""
    files = {f"{plan.cascade}/{VERSION}/{path.name}": path for path in sorted(_folder(runtime).glob("*.py"))}
    if target == "embedded":
        tier = _folder(backends) / "onnx_tier.py"
        files |= {f"{info.model}/{VERSION}/model.py": tier for info in plan.ladder}
    return files


def _folder(package: Any) -> Path:
    return Path(package.__file__).parent


def _render(template: str, **values: Any) -> str:
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
