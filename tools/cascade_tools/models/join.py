"""Joins an ONNX graph that ends in logits with a fitted head."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cascade_tools.artifacts import InputSpec
from cascade_tools.models.head import ServedOutputs, with_head
from cascade_tools.models.to_onnx import OPSET, to_onnx
from cascade_tools.models.usercode import blame_user_code
from cascade_tools.models.weights import lifted, lower

if TYPE_CHECKING:
    import onnx

PREFIX = "cascade_"  # of everything in the head
LOGITS = "LOGITS"  # what the head reads; the output of a body that we made


def join_head(
    body: onnx.ModelProto,
    logits_dims: tuple[int, ...],
    served: ServedOutputs,
    inputs: tuple[InputSpec, ...],
    field: str,
) -> onnx.ModelProto:
    """The body followed by its head: LABEL, CONFIDENCE and, where asked, PROBS.

    Args:
        body: its one output is the logits, float32 [rows, *logits_dims]; unchanged.
        logits_dims: [classes], or [tokens, classes].
        served: the head.
        inputs: of the body.
        field: of the cascade's spec, for the message.

    Raises:
        UsageError: the two do not fit together.
    """
    import torch
    from onnx import compose, version_converter

    logits = InputSpec(name=LOGITS, datatype="FP32", dims=logits_dims)
    masks = tuple(spec for spec in inputs if spec.name == served.mask)
    head = with_head(torch.nn.Identity(), 1, 1 if masks else None, served)
    top = to_onnx(head, (logits, *masks), field)
    with blame_user_code(f"{field}: joining the graph with its head"), lifted(body.graph) as heavy:
        own = next(o.version for o in body.opset_import if o.domain in ("", "ai.onnx"))
        opset = max(own, OPSET)
        bottom = version_converter.convert_version(body, opset)
        top = version_converter.convert_version(top, opset)
        bottom.ir_version = top.ir_version = max(bottom.ir_version, top.ir_version)
        top = compose.add_prefix(top, PREFIX, rename_outputs=False)
        joint = [(body.graph.output[0].name, f"{PREFIX}{LOGITS}")]
        merged: onnx.ModelProto = compose.merge_models(bottom, top, io_map=joint)
        for spec in masks:  # the model and its head read the same input
            _join_inputs(merged.graph, spec.name, f"{PREFIX}{spec.name}")
        lower(merged.graph, heavy)
    return merged


def _join_inputs(graph: onnx.GraphProto, kept: str, other: str) -> None:
    """Feed what reads the graph's input `other` from its input `kept`."""
    for node in graph.node:
        node.input[:] = [kept if name == other else name for name in node.input]
    graph.input.remove(next(entry for entry in graph.input if entry.name == other))
