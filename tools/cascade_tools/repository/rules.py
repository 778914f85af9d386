"""Checks a rendered config.pbtxt before anything is written.

The schema is Triton's own (`model_config_pb2` of tritonclient). What the schema does not say, Triton's
core checks when it loads a model (ValidateModelConfig, ValidateInstanceGroup,
ValidateEnsembleSchedulingConfig); those rules that a rendered config can break are checked here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from cascade_tools.errors import CheckFailed

ENSEMBLE = "ensemble"


def check_config(path: str, text: str, *, router: bool) -> None:
    """Parse a config and hold it against the rules.

    Args:
        path: `<model>/config.pbtxt`, for the message and the model's name.
        text: the rendered file.
        router: the model calls other models, so further rules apply.

    Raises:
        CheckFailed: names the file and everything that is wrong with it.
    """
    config = _parsed(path, text)
    problems = list(_problems(config, path.partition("/")[0]))
    if router:
        problems += _router_problems(config)
    if problems:
        raise CheckFailed(f"{path}: " + "; ".join(problems))


def check_ensembles(texts: Mapping[str, str]) -> None:
    """Hold every ensemble of a repository against the models that it chains.

    Args:
        texts: all configs, by `<model>/config.pbtxt`; each has passed `check_config`.

    Raises:
        CheckFailed: names the ensemble's file and everything that is wrong with it.
    """
    models = {path.partition("/")[0]: _parsed(path, text) for path, text in texts.items()}
    for path in texts:
        ensemble = models[path.partition("/")[0]]
        problems = _chain_problems(ensemble, models) if ensemble.platform == ENSEMBLE else []
        if problems:
            raise CheckFailed(f"{path}: " + "; ".join(problems))


def _parsed(path: str, text: str) -> pb.ModelConfig:
    config = pb.ModelConfig()
    try:
        text_format.Parse(text, config)
    except text_format.ParseError as error:
        raise CheckFailed(f"{path}: Triton cannot read it: {error}") from None
    return config


def _problems(config: pb.ModelConfig, folder: str) -> list[str]:
    found = []
    if config.name != folder:
        found.append(f"name {config.name!r} differs from its folder {folder!r}")
    if not config.backend and config.platform != ENSEMBLE:
        found.append("backend is not given")
    if not config.input or not config.output:
        found.append("inputs and outputs must be given, or Triton loads the model to guess them")
    if config.max_batch_size < 1 and config.HasField("dynamic_batching"):
        found.append("dynamic_batching needs max_batch_size of at least 1")
    return (
        found
        + _tensor_problems("input", config.input)
        + _tensor_problems("output", config.output)
        + (_steps_problems(config) if config.platform == ENSEMBLE else _group_problems(config))
    )


def _steps_problems(config: pb.ModelConfig) -> list[str]:
    found = []
    if config.backend:
        found.append("an ensemble has no backend")
    if not config.ensemble_scheduling.step:
        found.append("an ensemble needs steps")
    if config.instance_group:
        found.append("instance_group belongs to the models of an ensemble, not to itself")
    return found


def _chain_problems(ensemble: pb.ModelConfig, models: Mapping[str, pb.ModelConfig]) -> list[str]:
    """What the steps make of each other's tensors."""
    made = {tensor.name: tensor for tensor in ensemble.input}
    found = []
    for number, step in enumerate(ensemble.ensemble_scheduling.step, start=1):
        where = f"step {number} ({step.model_name})"
        model = models.get(step.model_name)
        if model is None:
            found.append(f"{where}: the repository has no such model")
            continue
        if model.max_batch_size != ensemble.max_batch_size:
            found.append(
                f"{where}: max_batch_size {model.max_batch_size} is not the ensemble's "
                f"{ensemble.max_batch_size}"
            )
        found += [f"{where}: {problem}" for problem in _input_problems(step.input_map, model.input, made)]
        found += [f"{where}: {problem}" for problem in _output_problems(step.output_map, model.output, made)]
    for tensor in ensemble.output:
        found += _kind_problems(f"output {tensor.name!r}", tensor, made.get(tensor.name))
    return found


def _input_problems(names: Mapping[str, str], tensors: Any, made: Mapping[str, Any]) -> list[str]:
    found = []
    wanted = {tensor.name: tensor for tensor in tensors}
    for name in sorted(wanted.keys() - names.keys()):
        found.append(f"input {name!r} is not in the input_map")
    for name in sorted(names):
        if name not in wanted:
            found.append(f"the model has no input {name!r}")
        else:
            found += _kind_problems(f"input {name!r}", wanted[name], made.get(names[name]))
    return found


def _output_problems(names: Mapping[str, str], tensors: Any, made: dict[str, Any]) -> list[str]:
    """Also takes up what the step makes."""
    found = []
    given = {tensor.name: tensor for tensor in tensors}
    for name in sorted(names):
        if name not in given:
            found.append(f"the model has no output {name!r}")
        elif names[name] in made:
            found.append(f"tensor {names[name]!r} is made twice")
        else:
            made[names[name]] = given[name]
    return found


def _kind_problems(what: str, wanted: Any, found: Any) -> list[str]:
    if found is None:
        return [f"{what} is not made by any step before it"]
    if (wanted.data_type, list(wanted.dims)) != (found.data_type, list(found.dims)):
        kinds = [f"{pb.DataType.Name(t.data_type)} {list(t.dims)}" for t in (wanted, found)]
        return [f"{what} is {kinds[0]}, what it gets is {kinds[1]}"]
    return []


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
