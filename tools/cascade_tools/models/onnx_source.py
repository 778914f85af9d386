"""A tier from an ONNX graph of the user."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from cascade_tools.artifacts import InputSpec
from cascade_tools.errors import UsageError
from cascade_tools.models.head import ServedOutputs, with_head
from cascade_tools.models.source import Inputs
from cascade_tools.models.to_onnx import OPSET, to_onnx, zeros
from cascade_tools.models.usercode import blame_user_code

if TYPE_CHECKING:
    import onnx

PREFIX = "cascade_"  # of everything in a head that is joined to a graph


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

    def export(self, served: ServedOutputs, inputs: tuple[InputSpec, ...]) -> bytes:
        """See `Source`."""
        import onnx
        import torch
        from onnx import compose, version_converter

        row = {spec.name: zeros(spec, rows=1) for spec in inputs}
        logits = InputSpec(name="LOGITS", datatype="FP32", dims=self.logits(row).shape[1:])
        masks = tuple(spec for spec in inputs if spec.name == served.mask)
        head = with_head(torch.nn.Identity(), 1, 1 if masks else None, served)
        head_graph = onnx.load_from_string(to_onnx(head, (logits, *masks), self._field))
        with blame_user_code(f"{self._field}.onnx: joining the graph with its head"):
            own = next(o.version for o in self._model.opset_import if o.domain in ("", "ai.onnx"))
            opset = max(own, OPSET)
            bottom = version_converter.convert_version(self._model, opset)
            top = version_converter.convert_version(head_graph, opset)
            bottom.ir_version = top.ir_version = max(bottom.ir_version, top.ir_version)
            top = compose.add_prefix(top, PREFIX, rename_outputs=False)
            merged = compose.merge_models(bottom, top, io_map=[(self._output, f"{PREFIX}LOGITS")])
            for spec in masks:  # the model and its head read the same input
                _join_inputs(merged.graph, spec.name, f"{PREFIX}{spec.name}")
            graph: bytes = merged.SerializeToString()
        return graph


def _join_inputs(graph: onnx.GraphProto, kept: str, other: str) -> None:
    """Feed what reads the graph's input `other` from its input `kept`."""
    for node in graph.node:
        node.input[:] = [kept if name == other else name for name in node.input]
    graph.input.remove(next(entry for entry in graph.input if entry.name == other))
