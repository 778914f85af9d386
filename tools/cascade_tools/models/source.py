"""What every source of a model can do."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from cascade_tools.artifacts import InputSpec
from cascade_tools.models.head import ServedOutputs

Inputs = dict[str, npt.NDArray[Any]]


class Source(Protocol):
    """A tier's model as its owner made it."""

    def logits(self, inputs: Inputs) -> npt.NDArray[np.float32]:
        """Logits [rows, classes], or [rows, tokens, classes], of one batch."""


class ExportableSource(Source, Protocol):
    """One that becomes a graph with its head."""

    parameters: int

    def export(self, served: ServedOutputs, inputs: tuple[InputSpec, ...]) -> bytes:
        """An ONNX graph with outputs LABEL, CONFIDENCE and, where asked, PROBS."""
