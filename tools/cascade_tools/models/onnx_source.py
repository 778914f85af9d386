"""A tier from an ONNX graph of the user."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from cascade_tools.artifacts import InputSpec
from cascade_tools.errors import UsageError
from cascade_tools.models.external_data import check_external_data
from cascade_tools.models.head import ServedOutputs
from cascade_tools.models.join import join_head
from cascade_tools.models.source import Inputs
from cascade_tools.models.to_onnx import OPSET, zeros
from cascade_tools.models.to_pt2 import TorchProgram
from cascade_tools.models.usercode import blame_user_code, one_line
from cascade_tools.models.weights import weight_bytes
from cascade_tools.models.write_onnx import LIMIT_BYTES

if TYPE_CHECKING:
    import onnx

OLDEST_OPSET = 7
FLOATS = ("tensor(float)", "tensor(float16)", "tensor(double)")
NUMPY_NAMES = {"float": "float32", "double": "float64"}  # where onnxruntime calls a type otherwise


class OnnxSource:
    """An ONNX graph that gives logits.

    Args:
        path: the graph; weights may lie in files beside it and be of any size.
        field: of the cascade's spec, for messages.
        output: the name of the logits; default: the only output.
    """

    def __init__(self, path: Path, field: str, output: str | None = None) -> None:
        import onnx
        import onnxruntime

        self._path, self._field = path, field
        try:
            self._bare = onnx.load(path, load_external_data=False)
        except Exception as error:
            raise UsageError(f"{field}.onnx: {path}: not a usable ONNX graph: {one_line(error)}") from None
        check_external_data(self._bare, path, f"{field}.onnx")
        self._check_opset()
        try:
            # By path: no bytes object and no protobuf message holds more than 2 GiB.
            onnx.checker.check_model(str(path))
            self._session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        except Exception as error:
            raise UsageError(f"{field}.onnx: {path}: not a usable ONNX graph: {one_line(error)}") from None
        self._output, self._kind = self._choose(output)
        self._check_rows_are_free()
        if self._kind != FLOATS[0] and weight_bytes(self._model.graph) < LIMIT_BYTES:
            # With the cast that the exported graph has: onnxruntime rounds otherwise where there is none.
            self._output = self._model.graph.output[0].name
            self._session = onnxruntime.InferenceSession(
                self._model.SerializeToString(), providers=["CPUExecutionProvider"]
            )
        self.parameters = sum(int(np.prod(tensor.dims)) for tensor in self._bare.graph.initializer)

    def _check_opset(self) -> None:
        import onnx

        newest = onnx.defs.onnx_opset_version()
        own = next((o.version for o in self._bare.opset_import if o.domain in ("", "ai.onnx")), newest)
        if own < OLDEST_OPSET:
            raise UsageError(
                f"{self._field}.onnx: {self._path}: is of operator set {own}, "
                f"older than {OLDEST_OPSET}, the first that onnxruntime runs",
                f"export it again with operator set {OPSET}",
            )
        if own > newest:
            raise UsageError(
                f"{self._field}.onnx: {self._path}: is of operator set {own}, "
                f"newer than {newest}, the last that onnx {onnx.__version__} knows",
                f"export it with operator set {newest} or older, or install a newer onnx and onnxruntime",
            )

    def _choose(self, wanted: str | None) -> tuple[str, str]:
        """Name and type of the output that is the logits."""
        kinds = {output.name: output.type for output in self._session.get_outputs()}
        if wanted is None and len(kinds) != 1:
            raise UsageError(
                f"{self._field}.onnx: must have one output, the logits; has {list(kinds)}",
                "name the logits: `output: NAME` beside `onnx`",
            )
        name = wanted or next(iter(kinds))
        if name not in kinds:
            raise UsageError(
                f"{self._field}.output: {self._path} has no output {name!r}; it has {list(kinds)}"
            )
        if kinds[name] not in FLOATS:
            raise UsageError(
                f"{self._field}.onnx: its logits are {kinds[name]}, they must be one of {', '.join(FLOATS)}",
                "choose another output with `output: NAME`, or add a Cast to FLOAT",
            )
        return name, kinds[name]

    def _check_rows_are_free(self) -> None:
        for entry in self._session.get_inputs():
            if entry.shape and isinstance(entry.shape[0], int):
                raise UsageError(
                    f"{self._field}.onnx: its input {entry.name} is {entry.shape}: "
                    "the first dimension counts the rows of a batch and must be free",
                    "export it with a dynamic first dimension",
                )

    @cached_property
    def _model(self) -> onnx.ModelProto:
        """The graph with all its weights, whose one output is the logits in float32."""
        import onnx
        from onnx import TensorProto, external_data_helper, helper

        model = onnx.ModelProto()
        model.CopyFrom(self._bare)
        external_data_helper.load_external_data_for_model(model, str(self._path.parent))
        graph = model.graph
        logits = next(output for output in graph.output if output.name == self._output)
        shape = logits.type.tensor_type.shape if logits.type.tensor_type.HasField("shape") else None
        del graph.output[:]
        if self._kind == FLOATS[0]:
            graph.output.append(logits)
            return model
        name = f"{self._output}_float32"
        graph.node.append(helper.make_node("Cast", [self._output], [name], to=TensorProto.FLOAT))
        output = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        if shape is not None:
            output.type.tensor_type.shape.CopyFrom(shape)
        graph.output.append(output)
        return model

    def logits(self, inputs: Inputs) -> npt.NDArray[np.float32]:
        """See `Source`."""
        kinds = {entry.name: _numpy_name(entry.type) for entry in self._session.get_inputs()}
        if set(kinds) != set(inputs):
            raise UsageError(
                f"{self._field}.onnx: takes inputs {sorted(kinds)}, but the data has {sorted(inputs)}",
                "name the arrays of the .npz as the graph names its inputs",
            )
        for name, values in inputs.items():
            if values.dtype.name != kinds[name]:
                raise UsageError(
                    f"{self._field}.onnx: its input {name} takes {kinds[name]}, the data has {values.dtype}"
                )
        with blame_user_code(f"{self._field}: run"):
            return np.asarray(self._session.run([self._output], inputs)[0], np.float32)

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


def _numpy_name(kind: str) -> str:
    """The dtype of `tensor(kind)`."""
    inner = kind.removeprefix("tensor(").removesuffix(")")
    return NUMPY_NAMES.get(inner, inner)
