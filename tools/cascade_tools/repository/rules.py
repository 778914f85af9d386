"""Checks a rendered config.pbtxt before anything is written.

The schema is Triton's own (`model_config_pb2` of tritonclient). What the schema does not say, Triton's
core checks when it loads a model (ValidateModelConfig, ValidateInstanceGroup); those rules that a rendered
config can break are checked here.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from cascade_tools.errors import CheckFailed


def check_config(path: str, text: str, *, router: bool) -> None:
    """Parse a config and hold it against the rules.

    Args:
        path: `<model>/config.pbtxt`, for the message and the model's name.
        text: the rendered file.
        router: the model calls other models, so further rules apply.

    Raises:
        CheckFailed: names the file and everything that is wrong with it.
    """
    config = pb.ModelConfig()
    try:
        text_format.Parse(text, config)
    except text_format.ParseError as error:
        raise CheckFailed(f"{path}: Triton cannot read it: {error}") from None
    problems = list(_problems(config, path.partition("/")[0]))
    if router:
        problems += _router_problems(config)
    if problems:
        raise CheckFailed(f"{path}: " + "; ".join(problems))


def _problems(config: pb.ModelConfig, folder: str) -> list[str]:
    found = []
    if config.name != folder:
        found.append(f"name {config.name!r} differs from its folder {folder!r}")
    if not config.backend:
        found.append("backend is not given")
    if not config.input or not config.output:
        found.append("inputs and outputs must be given, or Triton loads the model to guess them")
    if config.max_batch_size < 1 and config.HasField("dynamic_batching"):
        found.append("dynamic_batching needs max_batch_size of at least 1")
    return (
        found
        + _tensor_problems("input", config.input)
        + _tensor_problems("output", config.output)
        + _group_problems(config)
    )


def _tensor_problems(kind: str, tensors: Any) -> list[str]:
    found = []
    names = [tensor.name for tensor in tensors]
    if len(set(names)) != len(names):
        found.append(f"{kind}: a name is given twice")
    for tensor in tensors:
        if not tensor.dims:
            found.append(f"{kind} {tensor.name!r}: dims must not be empty")
        if any(dim == 0 or dim < -1 for dim in tensor.dims):
            found.append(f"{kind} {tensor.name!r}: dims must be positive or -1")
    return found


def _group_problems(config: pb.ModelConfig) -> list[str]:
    found = []
    if not config.instance_group:
        found.append("instance_group is not given, so Triton would choose the GPUs")
    for number, group in enumerate(config.instance_group):
        on_gpu = group.kind == pb.ModelInstanceGroup.KIND_GPU
        if group.count < 1:
            found.append(f"instance_group {number}: count must be at least 1")
        if on_gpu != bool(group.gpus):
            found.append(f"instance_group {number}: gpus must be listed for KIND_GPU and only then")
        if len(set(group.gpus)) != len(group.gpus):
            found.append(f"instance_group {number}: a GPU is listed twice")
    return found


def _router_problems(config: pb.ModelConfig) -> list[str]:
    found = []
    if any(group.kind != pb.ModelInstanceGroup.KIND_CPU for group in config.instance_group):
        found.append("a router runs on KIND_CPU")
    if any(group.HasField("rate_limiter") for group in config.instance_group):
        found.append("a router must not take rate limiter resources: its calls could never start")
    if config.model_warmup:
        found.append("a router must not warm up: its tiers may not be loaded yet")
    return found
