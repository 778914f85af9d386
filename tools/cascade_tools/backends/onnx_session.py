"""An ONNX graph run by ONNX Runtime on the CPU; copied beside the tiers' model and beside the router."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

Arrays = Mapping[str, npt.NDArray[np.generic]]


class OnnxSession:
    """One session with `threads` threads, 0 for one per core; may be run from several threads at once.

    Attributes:
        inputs: names that the graph reads.
    """

    def __init__(self, model: Path, threads: int = 1) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self.inputs = tuple(entry.name for entry in self._session.get_inputs())

    def run(self, outputs: Sequence[str] | None, inputs: Arrays) -> list[Any]:
        """The wanted outputs of all rows, in the order of their names; None for all."""
        found: list[Any] = self._session.run(outputs, inputs)
        return found
