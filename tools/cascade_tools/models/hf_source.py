"""A tier from a folder of transformers: `config.json` and safetensors weights.

Nothing is downloaded, nothing is unpickled, and no code of the folder runs: the class comes from the
installed transformers, by the name that `config.json` gives.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cascade_tools.errors import UsageError
from cascade_tools.models.extras import import_extra
from cascade_tools.models.torch_source import TorchSource
from cascade_tools.models.usercode import one_line

if TYPE_CHECKING:
    import torch

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack")
SHOWN_NAMES = 3


@dataclass(frozen=True)
class Kind:
    """A family of architectures: the inputs that it needs, and those that it can do without.

    `options` are given with every call.
    """

    suffix: str
    needs: tuple[str, ...]
    takes: tuple[str, ...] = ()
    options: tuple[tuple[str, Any], ...] = ()


TEXT = ("attention_mask", "token_type_ids")
KINDS = (
    Kind("ForImageClassification", ("pixel_values",)),
    Kind("ForSequenceClassification", ("input_ids",), TEXT),
    Kind("ForTokenClassification", ("input_ids",), TEXT),
    Kind("ForCausalLM", ("input_ids",), ("attention_mask",), (("use_cache", False),)),
    Kind("GPT2LMHeadModel", ("input_ids",), ("attention_mask",), (("use_cache", False),)),
)
# What a folder may say that this tool cannot follow, and what to do instead.
REFUSED = {
    "auto_map": "its code is in the folder itself, and no code of a folder is run; "
    "wrap the model in a callable of your own and give that as `torch`",
    "quantization_config": "its weights are quantised; save it in float32, float16 or bfloat16",
}


def from_folder(folder: Path, field: str, mask: str | None) -> TorchSource:
    """The model of one folder, in float32.

    Args:
        folder: as `save_pretrained` writes it.
        field: of the cascade's spec, for messages.
        mask: `calibration.mask`, an input that the head reads even where the model does not.

    Raises:
        EnvironmentLacks: transformers is not installed.
        UsageError: files are missing or pickled, the architecture is unknown or none of the known kinds, or
            weights do not fit.
    """
    where = f"{field}.hf"
    architecture, kind = check_folder(folder, field)
    transformers = import_extra("transformers", "hf", where)
    model = _load(transformers, architecture, folder, where)
    return TorchSource(model, field, _by_name(model, kind, where, mask))


def check_folder(folder: Path, field: str) -> tuple[str, Kind]:
    """The architecture that a folder names, and its kind; nothing is loaded.

    Raises:
        UsageError: files are missing or pickled, or the architecture is none of the known kinds.
    """
    where = f"{field}.hf"
    config = _read_config(folder, where)
    architecture = _architecture(config, folder, where)
    kind = _kind(architecture, folder, where)
    _check_problem(config, folder, where)
    _check_weights(folder, where)
    return architecture, kind


def _read_config(folder: Path, where: str) -> dict[str, Any]:
    if not folder.is_dir():
        raise UsageError(f"{where}: {folder}: no such folder")
    config = _read_json(folder / "config.json", where, "a folder of transformers has one: save_pretrained")
    for name, why in REFUSED.items():
        if config.get(name):
            raise UsageError(f"{where}: {folder / 'config.json'}: has {name!r}: {why}")
    if (folder / "adapter_config.json").exists():
        raise UsageError(
            f"{where}: {folder}: holds an adapter, not a whole model",
            "merge it into its base model (merge_and_unload) and save that",
        )
    return config


def _read_json(path: Path, where: str, hint: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{where}: {path}: no such file", hint) from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise UsageError(f"{where}: {path}: cannot be read as JSON: {error}", hint) from None
    if not isinstance(content, dict):
        raise UsageError(f"{where}: {path}: must be a JSON object, found {type(content).__name__}", hint)
    return content


def _architecture(config: dict[str, Any], folder: Path, where: str) -> str:
    names = config.get("architectures")
    if not isinstance(names, list) or len(names) != 1 or not isinstance(names[0], str):
        raise UsageError(
            f"{where}: {folder / 'config.json'}: 'architectures' must name one class, found {names!r}",
            "save the model with save_pretrained, which writes it",
        )
    return names[0]


def _kind(architecture: str, folder: Path, where: str) -> Kind:
    for kind in KINDS:
        if architecture.endswith(kind.suffix):
            return kind
    raise UsageError(
        f"{where}: {folder / 'config.json'}: {architecture} is none of the known kinds: "
        f"{', '.join('*' + kind.suffix for kind in KINDS)}",
        "wrap it in a callable that returns logits and give that as `torch`",
    )


def _check_problem(config: dict[str, Any], folder: Path, where: str) -> None:
    problem = config.get("problem_type")
    if problem in ("regression", "multi_label_classification"):
        raise UsageError(
            f"{where}: {folder / 'config.json'}: problem_type is {problem!r}; "
            "a tier gives one of several labels that exclude each other"
        )
    labels = config.get("id2label")
    if isinstance(labels, dict) and len(labels) == 1:
        raise UsageError(
            f"{where}: {folder / 'config.json'}: has one label only; a tier chooses among several",
            "train it with two labels rather than with a threshold",
        )


def _check_weights(folder: Path, where: str) -> None:
    if (folder / WEIGHTS).is_file():
        return
    if (folder / INDEX).is_file():
        _check_index(folder, where)
        return
    pickled = sorted(path.name for pattern in PICKLED for path in folder.glob(pattern))
    if pickled:
        raise UsageError(
            f"{where}: {folder / pickled[0]}: weights must be safetensors, not a format that may hold code",
            f"load the model where you trust it and save it again: save_pretrained writes {WEIGHTS}",
        )
    raise UsageError(f"{where}: {folder}: no {WEIGHTS} and no {INDEX}", "save_pretrained writes them")


def _check_index(folder: Path, where: str) -> None:
    """Every part that the index names is a safetensors file in the folder itself."""
    path = folder / INDEX
    parts = _read_json(path, where, "save the model again").get("weight_map")
    if not isinstance(parts, dict) or not parts:
        raise UsageError(f"{where}: {path}: has no 'weight_map'", "save the model again")
    for part in sorted({str(name) for name in parts.values()}):
        if Path(part).name != part or not part.endswith(".safetensors"):
            raise UsageError(
                f"{where}: {path}: names {part!r}; its parts must be .safetensors files in the same folder"
            )
        if not (folder / part).is_file():
            raise UsageError(f"{where}: {folder / part}: no such file, {INDEX} names it")


def _load(transformers: Any, architecture: str, folder: Path, where: str) -> torch.nn.Module:
    try:
        with _quiet(transformers):
            kind = getattr(transformers, architecture, None)
            if not isinstance(kind, type) or not issubclass(kind, transformers.PreTrainedModel):
                raise UsageError(
                    f"{where}: {folder / 'config.json'}: transformers {transformers.__version__} "
                    f"has no model {architecture}",
                    "install the transformers that the folder was saved with",
                )
            model, found = kind.from_pretrained(  # type: ignore[attr-defined]
                folder,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                attn_implementation="eager",  # other ones branch on the values of the mask
                ignore_mismatched_sizes=True,  # told below, by name
                output_loading_info=True,
            )
    except UsageError:
        raise
    except Exception as error:  # a broken folder fails in many ways
        raise UsageError(
            f"{where}: {folder}: does not load: {type(error).__name__}: {one_line(error)}"
        ) from None
    _check_loaded(found, folder, where)
    loaded: torch.nn.Module = model.float().eval()
    return loaded


def _check_loaded(found: dict[str, Any], folder: Path, where: str) -> None:
    """Transformers makes up what the weights lack; a tier must not answer by chance."""
    for kind in ("missing_keys", "mismatched_keys"):
        names = sorted(str(key if isinstance(key, str) else key[0]) for key in found.get(kind, ()))
        if names:
            more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
            raise UsageError(
                f"{where}: {folder}: the weights do not fit config.json: {kind.partition('_')[0]} "
                f"{', '.join(names[:SHOWN_NAMES])}{more}",
                "save the model after it was trained for this task, not its backbone",
            )


@contextlib.contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Transformers draws bars and warns of training; what matters comes back as an exception."""
    log = transformers.utils.logging
    level, bar = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.set_verbosity(level)
        if bar:
            log.enable_progress_bar()


def _by_name(
    model: torch.nn.Module, kind: Kind, where: str, mask: str | None
) -> Callable[[tuple[str, ...]], torch.nn.Module]:
    """Makes modules that take tensors in the order of some names."""
    accepted = {*kind.needs, *kind.takes} & set(inspect.signature(model.forward).parameters)

    @cache
    def body(names: tuple[str, ...]) -> torch.nn.Module:
        if kind.needs == ("pixel_values",) and len(names) == 1:
            return _positional(model, kind, ("pixel_values",))
        lacking = [name for name in kind.needs if name not in names]
        stray = [name for name in names if name not in (*kind.needs, *kind.takes, mask)]
        if lacking or stray:
            optional = f" and optionally {', '.join(kind.takes)}" if kind.takes else ""
            raise UsageError(
                f"{where}: takes inputs {', '.join(kind.needs)}{optional}, but the data has {sorted(names)}"
            )
        # Of a ladder only some models may tell segments apart; the others do without token_type_ids.
        return _positional(model, kind, tuple(n if n in accepted else None for n in names))

    return body


def _positional(model: torch.nn.Module, kind: Kind, names: tuple[str | None, ...]) -> torch.nn.Module:
    import torch

    class Positional(torch.nn.Module):
        """The model, called with one tensor per name; gives bare logits."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *values: torch.Tensor) -> torch.Tensor:
            given = {n: _as_taken(n, value) for n, value in zip(names, values, strict=True) if n is not None}
            logits: torch.Tensor = self.model(**given, **dict(kind.options), return_dict=True).logits
            return logits

    return Positional().eval()


def _as_taken(name: str, value: torch.Tensor) -> torch.Tensor:
    """Pixels as float32, ids and masks as int64, whatever of either kind the data has.

    Raises:
        UsageError: the data has the other kind.
    """
    pixels = name == "pixel_values"
    if value.is_floating_point() != pixels:
        kinds = "floating point numbers, as the image processor gives them" if pixels else "whole numbers"
        raise UsageError(f"data.validation: {name} must be {kinds}, found {value.dtype}")
    return value.float() if pixels else value.long()
