"""A tier from a `torch.nn.Module`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from cascade_tools.artifacts import InputSpec
from cascade_tools.errors import UsageError
from cascade_tools.models.head import ServedOutputs, with_head, without_head
from cascade_tools.models.join import LOGITS
from cascade_tools.models.source import Inputs
from cascade_tools.models.state import load_state, read_state
from cascade_tools.models.to_onnx import to_onnx
from cascade_tools.models.to_pt2 import TorchProgram, to_pt2
from cascade_tools.models.usercode import blame_user_code, call

if TYPE_CHECKING:
    import onnx
    import torch

ByName = Callable[[tuple[str, ...]], "torch.nn.Module"]


class TorchSource:
    """A `torch.nn.Module`, called with the inputs in the order of the data.

    Args:
        module: gives logits [rows, classes], or [rows, tokens, classes].
        field: of the cascade's spec, for messages.
        by_name: for a module that takes its inputs by name: makes one that takes the inputs of these names in
            this order, or raises a UsageError; default: the module itself.
    """

    def __init__(self, module: torch.nn.Module, field: str, by_name: ByName | None = None) -> None:
        self._module = module.eval()
        self._field = field
        self._for: ByName = by_name or (lambda names: self._module)
        self.parameters = sum(p.numel() for p in module.parameters())

    def logits(self, inputs: Inputs) -> npt.NDArray[np.float32]:
        """See `Source`."""
        import torch

        body = self._for(tuple(inputs))
        with torch.inference_mode(), blame_user_code(f"{self._field}: forward"):
            found = body(*[torch.from_numpy(values) for values in inputs.values()])
            if not isinstance(found, torch.Tensor):
                raise UsageError(
                    f"{self._field}: forward gives a {type(found).__name__}, not one tensor, the logits"
                )
            return np.asarray(found.float().numpy(), np.float32)

    def export(self, served: ServedOutputs, inputs: tuple[InputSpec, ...]) -> onnx.ModelProto:
        """See `ExportableSource`."""
        return to_onnx(self._with_head(served, inputs), inputs, self._field)

    def body(self, inputs: tuple[InputSpec, ...]) -> onnx.ModelProto:
        """See `ExportableSource`."""
        module = self._for(tuple(spec.name for spec in inputs))
        return to_onnx(without_head(module), inputs, self._field, (LOGITS,))

    def export_program(self, served: ServedOutputs, inputs: tuple[InputSpec, ...]) -> TorchProgram:
        """See `ExportableSource`."""
        return to_pt2(self._with_head(served, inputs), inputs, self._field)

    def _with_head(self, served: ServedOutputs, inputs: tuple[InputSpec, ...]) -> torch.nn.Module:
        names = [spec.name for spec in inputs]
        mask = None if served.mask is None else names.index(served.mask)
        return with_head(self._for(tuple(names)), len(names), mask, served)


def from_callable(folder: Path, reference: str, weights: str | None, field: str) -> TorchSource:
    """The module that `module:callable` returns, with its weights.

    Raises:
        UsageError: the callable fails or gives no module, or the weights do not fit.
    """
    import torch

    module = call(folder, reference, f"{field}.torch")
    if not isinstance(module, torch.nn.Module):
        raise UsageError(
            f"{field}.torch: {reference} returned {type(module).__name__}, not a torch.nn.Module"
        )
    if weights is not None:
        path = folder / weights
        load_state(module, read_state(path, f"{field}.weights"), path, f"{field}.weights")
    return TorchSource(module, field)
