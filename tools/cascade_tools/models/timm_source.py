"""A tier from a timm model: its name, and weights in a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cascade_tools.errors import UsageError
from cascade_tools.models.extras import import_extra
from cascade_tools.models.state import State, load_state, read_state
from cascade_tools.models.torch_source import TorchSource
from cascade_tools.models.usercode import one_line

if TYPE_CHECKING:
    import torch


def from_timm(name: str, path: Path, field: str) -> TorchSource:
    """The timm model with as many classes and input channels as its weights have; nothing is downloaded.

    Raises:
        EnvironmentLacks: timm is not installed.
        UsageError: no such model, no classifier, or the weights do not fit.
    """
    timm = import_extra("timm", "timm", f"{field}.timm")
    try:
        known = timm.get_pretrained_cfg(name)
    except RuntimeError:
        known = None
    if known is None or not timm.is_model(name):
        close = ", ".join(timm.list_models(f"*{name.partition('.')[0].partition('_')[0]}*")[:5])
        raise UsageError(
            f"{field}.timm: timm {timm.__version__} has no model {name!r}",
            f"close to it: {close}" if close else "`timm.list_models()` lists them",
        )
    state = read_state(path, f"{field}.weights")
    choice = {
        "num_classes": _size(state, known.classifier, 0),
        "in_chans": _size(state, known.first_conv, 1),
    }
    if choice["num_classes"] is None:
        raise UsageError(
            f"{field}.weights: {path}: hold no classifier {_first(known.classifier)!r} of {name}",
            "a tier needs the weights of a whole classifier, not of a backbone",
        )
    given = {option: size for option, size in choice.items() if size is not None}
    module = _create(timm.create_model, name, given, field)
    load_state(module, state, path, f"{field}.weights")
    return TorchSource(module, field, _one_input(module, field))


def _create(create: Callable[..., Any], name: str, given: dict[str, int], field: str) -> torch.nn.Module:
    try:
        module: torch.nn.Module = create(name, pretrained=False, exportable=True, **given)
    except Exception as error:  # each of the models refuses in its own way
        raise UsageError(
            f"{field}.timm: {name} with {given}: {type(error).__name__}: {one_line(error)}"
        ) from None
    return module.float()


def _one_input(module: torch.nn.Module, field: str) -> Callable[[tuple[str, ...]], torch.nn.Module]:
    def body(names: tuple[str, ...]) -> torch.nn.Module:
        if len(names) != 1:
            raise UsageError(
                f"{field}.timm: takes one input, images [rows, channels, height, width], "
                f"but the data has {sorted(names)}"
            )
        return module

    return body


def _size(state: State, layers: str | tuple[str, ...] | None, dimension: int) -> int | None:
    """One dimension of the first layer's weight, None where the state does not have it."""
    weight = state.get(f"{_first(layers)}.weight")
    if weight is None or weight.ndim <= dimension:
        return None
    return int(weight.shape[dimension])


def _first(layers: str | tuple[str, ...] | None) -> str:
    return "" if not layers else layers if isinstance(layers, str) else layers[0]
