"""The weights of an ONNX graph apart from it: much that works on graphs stops at 2 GiB."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

HEAVY_BYTES = 2**16  # below it a tensor may be a shape or an axis, which tools must see


def tensor_bytes(tensor: onnx.TensorProto) -> int:
    """What a tensor takes as raw data."""
    from onnx import helper

    return math.prod(tensor.dims) * int(helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)


def weight_bytes(graph: onnx.GraphProto) -> int:
    """What all weights of a graph take as raw data."""
    return sum(tensor_bytes(tensor) for tensor in graph.initializer)


@contextmanager
def lifted(graph: onnx.GraphProto) -> Iterator[list[onnx.TensorProto]]:
    """Heavy weights become inputs of a graph for the length of a block; gives them.

    A graph that was made from it gets them back by `lower`.
    """
    from onnx import helper

    heavy = [tensor for tensor in graph.initializer if tensor_bytes(tensor) >= HEAVY_BYTES]
    light = [tensor for tensor in graph.initializer if tensor_bytes(tensor) < HEAVY_BYTES]
    known = {entry.name for entry in graph.input}
    added = [tensor for tensor in heavy if tensor.name not in known]
    graph.input.extend(helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in added)
    del graph.initializer[:]
    graph.initializer.extend(light)
    try:
        yield heavy
    finally:
        lower(graph, heavy)


def lower(graph: onnx.GraphProto, heavy: list[onnx.TensorProto]) -> None:
    """Make lifted weights initializers again."""
    names = {tensor.name for tensor in heavy}
    for position in reversed(range(len(graph.input))):
        if graph.input[position].name in names:
            del graph.input[position]
    graph.initializer.extend(heavy)
