"""A tier from an ONNX graph of the user."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from cascade_tools.artifacts import InputSpec
from cascade_tools.errors import UsageError
from cascade_tools.models.head import ServedOutputs
from cascade_tools.models.join import join_head
from cascade_tools.models.source import Inputs
from cascade_tools.models.to_onnx import zeros
from cascade_tools.models.to_pt2 import TorchProgram
from cascade_tools.models.usercode import blame_user_code

if TYPE_CHECKING:
    import onnx


class OnnxSource:
    """An ONNX graph whose only output is the logits."""

    def __init__(self, path: Path, field: str) -> None:
        import onnx
        import onnxruntime

        try:
            self._model = onnx.load(path)
            onnx.checker.check_model(self._model)
            self._session = onnxruntime.InferenceSession(
                self._model.SerializeToString(), providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise UsageError(f"{field}.onnx: {path}: not a usable ONNX graph: {error}") from None
        outputs = [output.name for output in self._session.get_outputs()]
        if len(outputs) != 1:
            raise UsageError(f"{field}.onnx: must have one output, the logits; has {outputs}")
        kind = self._session.get_outputs()[0].type
        if kind != "tensor(float)":
            raise UsageError(
                f"{field}.onnx: its logits are {kind}, they must be tensor(float)", "add a Cast to FLOAT"
            )
        self._output = outputs[0]
        self._field = field
        self.parameters = sum(int(np.prod(tensor.dims)) for tensor in self._model.graph.initializer)

    def logits(self, inputs: Inputs) -> npt.NDArray[np.float32]:
        """See `Source`."""
        names = {entry.name for entry in self._session.get_inputs()}
        if names != set(inputs):
            raise UsageError(f"{self._field}.onnx: inputs {sorted(names)} but the data has {sorted(inputs)}")
        with blame_user_code(f"{self._field}: run"):
            return np.asarray(self._session.run(None, inputs)[0], np.float32)

    def export(self, served: ServedOutputs, inputs: tuple[InputSpec, ...]) -> onnx.ModelProto:
        """See `ExportableSource`."""
        row = {spec.name: zeros(spec, rows=1) for spec in inputs}
        dims = self.logits(row).shape[1:]
        return join_head(self.body(inputs), dims, served, inputs, f"{self._field}.onnx")

    def body(self, inputs: tuple[InputSpec, ...]) -> onnx.ModelProto:
        """See `ExportableSource`."""
        return self._model

    def export_program(self, served: ServedOutputs, inputs: tuple[InputSpec, ...]) -> TorchProgram:
        """See `ExportableSource`."""
        raise UsageError(
            f"{self._field}.onnx: an ONNX graph cannot become a torch program",
            "take format onnx or onnx_fp16, or give the model as a torch module",
        )
