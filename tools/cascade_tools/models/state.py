"""Loads a module's state from a file of plain tensors; nothing is unpickled."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cascade_tools.errors import UsageError
from cascade_tools.models.usercode import one_line

if TYPE_CHECKING:
    import torch

State = dict[str, "torch.Tensor"]
SAFETENSORS = ".safetensors"
SHOWN_NAMES = 3


def read_state(path: Path, field: str) -> State:
    """Tensors by name, from `.safetensors` or from a `.pt` that loads with `weights_only=True`.

    Raises:
        UsageError: another kind of file, cut off, or a pickle of more than tensors.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == SAFETENSORS:
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, OSError, ValueError, EOFError, TypeError) as error:
        raise UsageError(f"{field}: {path}: do not fit the module: {one_line(error)}") from None
    except Exception as error:  # what unpickling refuses has no common class
        raise UsageError(
            f"{field}: {path}: not loadable as plain weights ({type(error).__name__})",
            "save a state_dict as .safetensors",
        ) from None
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise UsageError(
            f"{field}: {path}: do not fit the module: must be tensors by name, as state_dict() gives them",
            "a checkpoint of a training run holds more; save its state_dict alone as .safetensors",
        )
    return state


def load_state(module: torch.nn.Module, state: State, path: Path, field: str) -> None:
    """Put a state into a module; of tied weights one name is enough.

    Raises:
        UsageError: a name is missing or unknown, or a shape differs.
    """
    own = module.state_dict(keep_vars=True)
    given = {id(own[name]) for name in state if name in own}
    missing = [name for name, value in own.items() if name not in state and id(value) not in given]
    unknown = [name for name in state if name not in own]
    try:
        if missing or unknown:
            raise ValueError(
                "; ".join(filter(None, [_names("missing", missing), _names("unknown", unknown)]))
            )
        module.load_state_dict(state, strict=False)
    except (RuntimeError, ValueError) as error:
        raise UsageError(f"{field}: {path}: do not fit the module: {one_line(error)}") from None


def _names(what: str, names: list[str]) -> str:
    more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
    shown = ", ".join(f'"{name}"' for name in names[:SHOWN_NAMES])
    return f"{what} {shown}{more}" if names else ""
