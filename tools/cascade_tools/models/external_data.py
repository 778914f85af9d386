"""Weights of an ONNX graph that lie in files beside it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from cascade_tools.errors import UsageError

if TYPE_CHECKING:
    import onnx


def check_external_data(model: onnx.ModelProto, path: Path, field: str) -> None:
    """Check that every weight in another file is in the graph's own folder, and is there as a whole.

    Args:
        model: read from `path` without its external data.
        path: the graph's file.
        field: of the cascade's spec, for the message.

    Raises:
        UsageError: a path leaves the folder (absolute, `..`, or by a link), or a file is missing or short.
    """
    for tensor in _tensors(model):
        if tensor.data_location == tensor.EXTERNAL:
            _check_tensor(tensor, path, field)


def _check_tensor(tensor: onnx.TensorProto, path: Path, field: str) -> None:
    said = {entry.key: entry.value for entry in tensor.external_data}
    location = said.get("location", "")
    where = f"{field}: {path}: weights {tensor.name!r} are in {location!r}"
    folder = path.parent.resolve()
    # Backslashes separate folders for whoever wrote the graph on Windows.
    parts = Path(location.replace("\\", "/")).parts
    inside = bool(parts) and not parts[0].startswith("/") and ".." not in parts and "\0" not in location
    if not inside or not (file := (folder / location).resolve()).is_relative_to(folder):
        raise UsageError(
            f"{where}, which is not in the folder of the graph",
            "save both into one folder: onnx.save(model, path, save_as_external_data=True, location=NAME)",
        )
    if not file.is_file():
        raise UsageError(f"{where}: {file}: no such file", "copy it beside the graph")
    try:
        end = int(said.get("offset", 0)) + int(said.get("length", 0))
    except ValueError:
        raise UsageError(f"{where}: its offset and length must be whole numbers") from None
    if end > file.stat().st_size:
        raise UsageError(
            f"{where}: {file}: has {file.stat().st_size} bytes, the graph reads up to byte {end}",
            "copy the file again; it is cut off or belongs to another graph",
        )


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    yield from _of_graph(model.graph)
    for function in model.functions:
        yield from _of_nodes(function.node)


def _of_graph(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _of_nodes(graph.node)


def _of_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
    for attribute in (attribute for node in nodes for attribute in node.attribute):
        yield from (attribute.t, *attribute.tensors)
        for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
            yield from (sparse.values, sparse.indices)
        for graph in (attribute.g, *attribute.graphs):
            yield from _of_graph(graph)
