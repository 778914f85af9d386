"""A tier whose model Triton already serves: holds what its server says against the spec and the rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tritonclient.grpc import model_config_pb2 as pb

from cascade_tools.artifacts import AdoptedInput, AdoptedTier, InputSpec
from cascade_tools.errors import UsageError
from cascade_tools.models.usercode import Rows
from cascade_tools.runtime import adopted as runtime_adopted
from cascade_tools.serving.adopted import AdoptedModels, digest_of_served
from cascade_tools.spec import Cascade, Tier
from cascade_tools.store import digest_files

SCORES = ("FP16", "FP32", "FP64")
ANY = -1
SUM_TOLERANCE = 0.02  # of probabilities in half precision


def adopt(cascade: Cascade, tier: Tier, models: AdoptedModels, rows: Rows) -> AdoptedTier:
    """How a tier's model is asked.

    Raises:
        UsageError: the model does not fit the spec or the rows; names the field and says what would do.
        CascadeError: the server does not have the model.
    """
    return match(cascade, tier, models.config(cascade.model_name(tier.name)), rows.specs())


def match(cascade: Cascade, tier: Tier, config: pb.ModelConfig, specs: tuple[InputSpec, ...]) -> AdoptedTier:
    """The same from the model's config; see `adopt`."""
    field, model = f"tiers.{tier.name}.source", cascade.model_name(tier.name)
    if config.model_transaction_policy.decoupled or config.HasField("sequence_batching"):
        raise UsageError(f"{field}.triton: {model} is decoupled or keeps sequences; a tier answers each row")
    _check_batch(cascade, config, field)
    output = _output(tier, config, field)
    inputs = _inputs(tier, config, specs, field)
    groups = [max(1, group.count) * (len(group.gpus) or 1) for group in config.instance_group]
    return AdoptedTier(
        tier=tier.name,
        model=model,
        sha256=model_digest(cascade, model),
        instances=sum(groups) or None,
        inputs=inputs,
        output=output,
        gives=tier.source.gives,
    )


def dims_of(tensor: Any, config: pb.ModelConfig) -> tuple[int, ...]:
    """Dims of an input or output without the batch; -1 for any size."""
    dims = tuple(int(size) for size in tensor.dims)
    return dims if config.max_batch_size > 0 else dims[1:]


def model_digest(cascade: Cascade, model: str) -> str:
    """One digest of a model's files; of what the server says where only a running one has them."""
    folder = cascade.adopted_repository
    if folder is None:
        assert cascade.triton is not None and cascade.triton.url is not None
        return digest_of_served(cascade.triton.url, model)
    return digest_files(_files(folder / model), folder)


def _files(folder: Path) -> list[Path]:
    found = folder.rglob("*")
    return [p for p in found if p.is_file() and "__pycache__" not in p.parts]


def served_inputs(
    cascade: Cascade, specs: tuple[InputSpec, ...], adopted: dict[str, tuple[AdoptedTier, pb.ModelConfig]]
) -> tuple[InputSpec, ...]:
    """The cascade's inputs: as the rows have them, with -1 where every tier takes any size.

    Args:
        cascade: a tier that is exported takes the rows' sizes alone.
        specs: of the rows.
        adopted: by tier, with the model's config.

    Raises:
        UsageError: no tier reads an input.
    """
    if len(adopted) < len(cascade.tiers):
        return specs
    found = []
    for spec in specs:
        taken = []
        for call, config in adopted.values():
            by_name = {tensor.name: tensor for tensor in config.input}
            taken += [
                dims_of(by_name[one.model_input], config) for one in call.inputs if one.name == spec.name
            ]
        if not taken:
            raise UsageError(f"data.validation: no tier reads the input {spec.name!r}", "leave it out")
        free = [all(dims[at] == ANY for dims in taken) for at in range(len(spec.dims))]
        dims = tuple(ANY if any_size else size for any_size, size in zip(free, spec.dims, strict=True))
        found.append(spec.model_copy(update={"dims": dims}))
    return tuple(found)


class AdoptedSource:
    """A served model as the stages run it; see `Source`."""

    def __init__(self, call: AdoptedTier, models: AdoptedModels, largest: int, lead: tuple[int, ...] | None):
        """`largest` rows a call; `lead`: dims of a row's labels, None where the rows have none yet."""
        self._call = call
        self._models = models
        self._largest = largest
        self._lead = lead
        self._wanted = tuple(runtime_adopted.AdoptedInput(**one.model_dump()) for one in call.inputs)

    def logits(self, inputs: dict[str, npt.NDArray[Any]]) -> npt.NDArray[np.float32]:
        """Logits [rows, classes], or [rows, tokens, classes], of one batch.

        Raises:
            UsageError: the scores have another shape, or are no probabilities where they should be.
        """
        rows = len(next(iter(inputs.values())))
        parts = []
        for start in range(0, rows, self._largest):
            part = {name: values[start : start + self._largest] for name, values in inputs.items()}
            parts.append(self._ask(part))
        return np.concatenate(parts)

    def _ask(self, inputs: dict[str, npt.NDArray[Any]]) -> npt.NDArray[np.float32]:
        call, rows = self._call, len(next(iter(inputs.values())))
        values = self._models.ask(call.model, runtime_adopted.model_inputs(inputs, self._wanted), call.output)
        lead = self._lead
        if lead is None:
            lead = tuple(size for size in values.shape[1:-1] if size != 1)
        where = f"tiers.{call.tier}.source: model {call.model}: output {call.output}"
        if call.gives == "probabilities" and not _are_probabilities(values):
            raise UsageError(f"{where}: its values are no probabilities that sum to 1", "say `gives: logits`")
        try:
            return runtime_adopted.as_logits(values, (rows, *lead), call.gives)
        except ValueError as error:
            raise UsageError(f"{where}: {error}") from None


def looks_like_probabilities(logits: npt.NDArray[np.float32]) -> bool:
    """Scores that are called logits and are not: all of them sum to 1."""
    return logits.shape[-1] > 1 and _are_probabilities(logits)


def _are_probabilities(values: npt.NDArray[Any]) -> bool:
    wide = values.astype(np.float64)
    return bool((wide >= -SUM_TOLERANCE).all() and (np.abs(wide.sum(axis=-1) - 1.0) <= SUM_TOLERANCE).all())


def _check_batch(cascade: Cascade, config: pb.ModelConfig, field: str) -> None:
    wanted = cascade.serving.max_batch_size
    if 0 < config.max_batch_size < wanted:
        raise UsageError(
            f"serving.max_batch_size: {wanted}, but model {config.name} of {field}.triton takes at most "
            f"{config.max_batch_size} rows",
            f"set it to {config.max_batch_size} or less",
        )
    tensors = [*config.input, *config.output]
    if config.max_batch_size == 0 and any(not t.dims or t.dims[0] != ANY for t in tensors):
        raise UsageError(
            f"{field}.triton: {config.name} takes no batches: its max_batch_size is 0, and not all of its "
            "first dimensions are -1"
        )


def _output(tier: Tier, config: pb.ModelConfig, field: str) -> str:
    outputs = {tensor.name: pb.DataType.Name(tensor.data_type) for tensor in config.output}
    name = tier.source.output
    if name is None and len(outputs) > 1:
        raise UsageError(f"{field}.output: {config.name} has {_listed(outputs)}; say which holds the scores")
    name = name or next(iter(outputs))
    if name not in outputs:
        raise UsageError(f"{field}.output: {config.name} has no {name!r}; it has {_listed(outputs)}")
    kind = outputs[name].removeprefix("TYPE_")
    if kind not in SCORES:
        raise UsageError(
            f"{field}.output: {name} of {config.name} is {kind}, scores must be {' or '.join(SCORES)}"
        )
    return name


def _inputs(
    tier: Tier, config: pb.ModelConfig, specs: tuple[InputSpec, ...], field: str
) -> tuple[AdoptedInput, ...]:
    field = f"{field}.inputs"
    data = {spec.name: spec for spec in specs}
    takes = {tensor.name: tensor for tensor in config.input}
    mapping = tier.source.inputs or {name: name for name in data if name in takes}
    for name, model_input in mapping.items():
        if name not in data:
            raise UsageError(f"{field}: {name!r} is none of the data's inputs {_listed(data)}")
        if model_input not in takes:
            raise UsageError(f"{field}: {config.name} has no input {model_input!r}; it has {_listed(takes)}")
    needed = [t.name for t in config.input if not t.optional and t.name not in mapping.values()]
    if needed or not mapping:
        raise UsageError(
            f"{field}: {config.name} takes {_listed(takes)}, the data has {_listed(data)}: nothing is for "
            f"{_listed(needed or takes)}",
            "write {DATA_INPUT: MODEL_INPUT} for each",
        )
    found = []
    for name, model_input in mapping.items():
        kind = pb.DataType.Name(takes[model_input].data_type).removeprefix("TYPE_")
        kind = "BYTES" if kind == "STRING" else kind
        _check_input(data[name], model_input, kind, dims_of(takes[model_input], config), config.name, field)
        found.append(AdoptedInput(name=name, model_input=model_input, datatype=kind))
    return tuple(found)


def _check_input(
    spec: InputSpec, model_input: str, kind: str, dims: tuple[int, ...], model: str, field: str
) -> None:
    known = runtime_adopted.DATATYPES
    texts = [spec.datatype, kind].count("BYTES")
    if kind not in known or texts == 1 or not np.can_cast(known[spec.datatype], known[kind], "same_kind"):
        raise UsageError(
            f"{field}: {spec.name} is {spec.datatype}, {model_input} of {model} takes {kind}",
            f"give the data as {kind}" if kind in known else "the router cannot make that",
        )
    fits = len(dims) == len(spec.dims) and all(a in (ANY, b) for a, b in zip(dims, spec.dims, strict=True))
    if not fits:
        raise UsageError(
            f"{field}: rows of {spec.name} have shape {list(spec.dims)}, {model_input} of {model} takes "
            f"{list(dims)}"
        )


def _listed(names: Any) -> str:
    return ", ".join(str(name) for name in names)
