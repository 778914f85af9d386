"""Half precision: the body in float16, the head and everything that a client sees in float32.

The converter of ONNX Runtime works on a graph, so it does for ONNX files what it does for torch modules. It is
given the body alone; the head is joined to the result, so softmax, confidence and label stay in float32.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from cascade_tools.artifacts import InputSpec
from cascade_tools.models.head import ServedOutputs
from cascade_tools.models.join import join_head
from cascade_tools.models.source import ExportableSource
from cascade_tools.models.usercode import blame_user_code
from cascade_tools.models.weights import lifted

if TYPE_CHECKING:
    import onnx

# What masks add to a score is often the smallest float32. As the smallest float16 it would overflow when
# something is added; this is far enough from any score, and adds up.
LARGEST = 1e4


def export_half(
    source: ExportableSource,
    logits_dims: tuple[int, ...],
    served: ServedOutputs,
    inputs: tuple[InputSpec, ...],
    field: str,
) -> onnx.ModelProto:
    """The graph of a source in half precision with its head; see `join_head`.

    Raises:
        UsageError: it does not export, or not to half precision.
    """
    body = to_half(source.body(inputs), field)
    return join_head(body, logits_dims, served, inputs, field)


def to_half(body: onnx.ModelProto, field: str) -> onnx.ModelProto:
    """A graph that computes in float16; its inputs and outputs keep their types.

    Args:
        body: unchanged.
        field: of the cascade's spec, for the message.

    Raises:
        UsageError: the converter cannot do it.
    """
    import onnx
    from onnx import inliner, shape_inference
    from onnxscript import ir

    before = list(sys.path)
    try:
        from onnxruntime.transformers.float16 import convert_float_to_float16
    finally:
        sys.path[:] = before  # the package puts itself there
    with blame_user_code(f"{field}: to half precision"):
        if body.functions:
            body = inliner.inline_local_functions(body)
        with lifted(body.graph):
            typed = shape_inference.infer_shapes(body)
        copy = onnx.ModelProto()
        copy.CopyFrom(body)
        del copy.graph.value_info[:]
        copy.graph.value_info.extend(typed.graph.value_info)
        half = convert_float_to_float16(
            copy, max_finite_val=LARGEST, keep_io_types=True, disable_shape_infer=True
        )
        # The casts of the inputs come last; a graph must be in order.
        ordered = ir.from_proto(half)
        ordered.graph.sort()
        return ir.to_proto(ordered)
