"""Half precision: the body in float16, the head and everything that a client sees in float32.

The converter of ONNX Runtime works on a graph, so it serves ONNX files and torch modules alike. It is given
the body alone; the head is joined to the result, so softmax, confidence and label stay in float32.

On a CPU, ONNX Runtime computes such a graph in float32 and only its weights are rounded; on a GPU all values
are. So that a machine without a GPU can tell what half precision changes, there is a second graph to judge
by, in which every value between operators is rounded to float16 and back.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cascade_tools.artifacts import InputSpec
from cascade_tools.models.head import ServedOutputs
from cascade_tools.models.join import head_graph, join
from cascade_tools.models.source import ExportableSource
from cascade_tools.models.usercode import blame_user_code
from cascade_tools.models.weights import lifted

if TYPE_CHECKING:
    import onnx

# What masks add to a score is often the smallest float32. As the smallest float16 it would overflow when
# something is added; this is far enough from any score, and adds up.
LARGEST = 1e4


class HalfGraphs(NamedTuple):
    """`served` computes in float16; `judged` computes the same in float32, rounded after every operator."""

    served: onnx.ModelProto
    judged: onnx.ModelProto


def export_half(
    source: ExportableSource,
    logits_dims: tuple[int, ...],
    served: ServedOutputs,
    inputs: tuple[InputSpec, ...],
    field: str,
) -> HalfGraphs:
    """The graphs of a source in half precision with its head; see `join_head`.

    Raises:
        UsageError: it does not export, or not to half precision.
    """
    body = source.body(inputs)
    head = head_graph(logits_dims, served, inputs, field)
    return HalfGraphs(
        join(to_half(body, field), head, served, field), join(rounded(body, field), head, served, field)
    )


def to_half(body: onnx.ModelProto, field: str) -> onnx.ModelProto:
    """A graph that computes in float16; its inputs and outputs keep their types.

    Args:
        body: unchanged.
        field: of the cascade's spec, for the message.

    Raises:
        UsageError: the converter cannot do it.
    """
    from onnxscript import ir

    with blame_user_code(f"{field}: to half precision"):
        half = _converter().convert_float_to_float16(
            _typed(body), max_finite_val=LARGEST, keep_io_types=True, disable_shape_infer=True
        )
        # The casts of the inputs come last; a graph must be in order.
        ordered = ir.from_proto(half)
        ordered.graph.sort()
        found: onnx.ModelProto = ir.to_proto(ordered)
        return found


def rounded(body: onnx.ModelProto, field: str) -> onnx.ModelProto:
    """A graph in float32 whose weights and values between operators are those of float16.

    Values inside the branches of control flow are not rounded.

    Args:
        body: unchanged.
        field: of the cascade's spec, for the message.

    Raises:
        UsageError: the graph cannot be read.
    """
    from onnx import TensorProto

    with blame_user_code(f"{field}: to half precision"):
        found = _typed(body)
        graph = found.graph
        entries = (*graph.input, *graph.output, *graph.value_info)
        floats = {e.name for e in entries if e.type.tensor_type.elem_type == TensorProto.FLOAT}
        for tensor in graph.initializer:
            _round_tensor(tensor)
        inputs = {entry.name: f"{entry.name}/rounded" for entry in graph.input if entry.name in floats}
        nodes = [node for name, new in inputs.items() for node in _casts(name, new)]
        for node in graph.node:
            node.input[:] = [inputs.get(name, name) for name in node.input]
            nodes += _rounding(node, floats)
        del graph.node[:]
        graph.node.extend(nodes)
        return found


def _rounding(node: onnx.NodeProto, floats: set[str]) -> Iterator[onnx.NodeProto]:
    """A node, and the casts that round what it gives."""
    yield node
    if node.op_type == "Constant":
        for attribute in node.attribute:
            _round_tensor(attribute.t)
        return
    for number, name in enumerate(node.output):
        if name in floats:
            node.output[number] = f"{name}/wide"
            yield from _casts(f"{name}/wide", name)


def _casts(old: str, new: str) -> Iterator[onnx.NodeProto]:
    from onnx import TensorProto, helper

    yield helper.make_node("Cast", [old], [f"{new}/half"], to=TensorProto.FLOAT16)
    yield helper.make_node("Cast", [f"{new}/half"], [new], to=TensorProto.FLOAT)


def _round_tensor(tensor: onnx.TensorProto) -> None:
    from onnx import TensorProto, numpy_helper

    if tensor.data_type == TensorProto.FLOAT:
        values: npt.NDArray[Any] = numpy_helper.to_array(tensor)
        near = _converter().convert_np_to_float16(values.reshape(-1), max_finite_val=LARGEST)
        wide = np.asarray(near, np.float32).reshape(values.shape)
        tensor.CopyFrom(numpy_helper.from_array(wide, tensor.name))


def _typed(body: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a graph in one piece, with the types of all values."""
    import onnx
    from onnx import inliner, shape_inference

    if body.functions:
        body = inliner.inline_local_functions(body)
    with lifted(body.graph):
        typed = shape_inference.infer_shapes(body)
    copy = onnx.ModelProto()
    copy.CopyFrom(body)
    del copy.graph.value_info[:]
    copy.graph.value_info.extend(typed.graph.value_info)
    return copy


def _converter() -> Any:
    before = list(sys.path)
    try:
        from onnxruntime.transformers import float16
    finally:
        sys.path[:] = before  # the package puts itself there
    return float16
