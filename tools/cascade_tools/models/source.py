"""What every source of a model can do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from cascade_tools.artifacts import InputSpec
from cascade_tools.models.head import ServedOutputs
from cascade_tools.models.to_pt2 import TorchProgram

if TYPE_CHECKING:
    import onnx

Inputs = dict[str, npt.NDArray[Any]]


class Source(Protocol):
    """A tier's model as its owner made it."""

    def logits(self, inputs: Inputs) -> npt.NDArray[np.float32]:
        """Logits [rows, classes], or [rows, tokens, classes], of one batch."""


class ExportableSource(Source, Protocol):
    """One that becomes a model with its head, in any of several formats."""

    parameters: int

    def export(self, served: ServedOutputs, inputs: tuple[InputSpec, ...]) -> onnx.ModelProto:
        """An ONNX graph with outputs LABEL, CONFIDENCE and, where asked, PROBS."""

    def body(self, inputs: tuple[InputSpec, ...]) -> onnx.ModelProto:
        """An ONNX graph without the head, whose one output is the logits in float32."""

    def export_program(self, served: ServedOutputs, inputs: tuple[InputSpec, ...]) -> TorchProgram:
        """A torch program with the outputs of `export`.

        Raises:
            UsageError: the source is no torch module, or does not export.
        """
