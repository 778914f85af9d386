"""A tier from a `torch.nn.Module`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from cascade_tools.artifacts import InputSpec
from cascade_tools.errors import UsageError
from cascade_tools.models.head import ServedOutputs, with_head, without_head
from cascade_tools.models.join import LOGITS
from cascade_tools.models.source import Inputs
from cascade_tools.models.to_onnx import to_onnx
from cascade_tools.models.to_pt2 import TorchProgram, to_pt2
from cascade_tools.models.usercode import blame_user_code, call

if TYPE_CHECKING:
    import onnx
    import torch


class TorchSource:
    """A `torch.nn.Module` from a callable, with its weights."""

    def __init__(self, folder: Path, reference: str, weights: str | None, field: str) -> None:
        import torch

        module = call(folder, reference, f"{field}.torch")
        if not isinstance(module, torch.nn.Module):
            raise UsageError(
                f"{field}.torch: {reference} returned {type(module).__name__}, not a torch.nn.Module"
            )
        if weights is not None:
            _load_weights(module, folder / weights, f"{field}.weights")
        self._module = module.eval()
        self._field = field
        self.parameters = sum(p.numel() for p in module.parameters())

    def logits(self, inputs: Inputs) -> npt.NDArray[np.float32]:
        """See `Source`."""
        import torch

        with torch.inference_mode(), blame_user_code(f"{self._field}: forward"):
            found = self._module(*[torch.from_numpy(values) for values in inputs.values()])
            return np.asarray(found.float().numpy(), np.float32)

    def export(self, served: ServedOutputs, inputs: tuple[InputSpec, ...]) -> onnx.ModelProto:
        """See `ExportableSource`."""
        return to_onnx(self._with_head(served, inputs), inputs, self._field)

    def body(self, inputs: tuple[InputSpec, ...]) -> onnx.ModelProto:
        """See `ExportableSource`."""
        return to_onnx(without_head(self._module), inputs, self._field, (LOGITS,))

    def export_program(self, served: ServedOutputs, inputs: tuple[InputSpec, ...]) -> TorchProgram:
        """See `ExportableSource`."""
        return to_pt2(self._with_head(served, inputs), inputs, self._field)

    def _with_head(self, served: ServedOutputs, inputs: tuple[InputSpec, ...]) -> torch.nn.Module:
        names = [spec.name for spec in inputs]
        mask = None if served.mask is None else names.index(served.mask)
        return with_head(self._module, len(names), mask, served)


def _load_weights(module: torch.nn.Module, path: Path, field: str) -> None:
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
        module.load_state_dict(state)
    except (SafetensorError, RuntimeError, OSError, ValueError, EOFError, TypeError) as error:
        text = " ".join(str(error).split())[:300] or type(error).__name__
        raise UsageError(f"{field}: {path}: do not fit the module: {text}") from None
    except Exception as error:  # what unpickling refuses has no common class
        raise UsageError(
            f"{field}: {path}: not loadable as plain weights ({type(error).__name__})",
            "save a state_dict as .safetensors",
        ) from None
