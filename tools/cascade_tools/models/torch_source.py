"""A tier from a `torch.nn.Module`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from cascade_tools.artifacts import InputSpec
from cascade_tools.errors import UsageError
from cascade_tools.models.head import ServedOutputs, with_head
from cascade_tools.models.source import Inputs
from cascade_tools.models.state import load_state, read_state
from cascade_tools.models.to_onnx import to_onnx
from cascade_tools.models.usercode import blame_user_code, call

if TYPE_CHECKING:
    import torch

Body = Callable[[tuple[str, ...]], "torch.nn.Module"]


class TorchSource:
    """A `torch.nn.Module`, called with the inputs in the order of the data.

    Args:
        module: gives logits [rows, classes], or [rows, tokens, classes].
        field: of the cascade's spec, for messages.
        body: for a module that takes its inputs by name: makes one that takes the inputs of these names in
            this order, or raises a UsageError; default: the module itself.
    """

    def __init__(self, module: torch.nn.Module, field: str, body: Body | None = None) -> None:
        self._module = module.eval()
        self._field = field
        self._body: Body = body or (lambda names: self._module)
        self.parameters = sum(p.numel() for p in module.parameters())

    def logits(self, inputs: Inputs) -> npt.NDArray[np.float32]:
        """See `Source`."""
        import torch

        body = self._body(tuple(inputs))
        with torch.inference_mode(), blame_user_code(f"{self._field}: forward"):
            found = body(*[torch.from_numpy(values) for values in inputs.values()])
            if not isinstance(found, torch.Tensor):
                raise UsageError(
                    f"{self._field}: forward gives a {type(found).__name__}, not one tensor, the logits"
                )
            return np.asarray(found.float().numpy(), np.float32)

    def export(self, served: ServedOutputs, inputs: tuple[InputSpec, ...]) -> bytes:
        """See `Source`."""
        names = [spec.name for spec in inputs]
        mask = None if served.mask is None else names.index(served.mask)
        body = self._body(tuple(names))
        return to_onnx(with_head(body, len(names), mask, served), inputs, self._field)


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
