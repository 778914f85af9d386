"""Writes an ONNX graph into files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cascade_tools.models.weights import weight_bytes

if TYPE_CHECKING:
    import onnx

LIMIT_BYTES = 2**31 - 2**24  # protobuf ends at 2 GiB; the graph itself needs some of it


def write_onnx(model: onnx.ModelProto, path: Path, limit_bytes: int = LIMIT_BYTES) -> tuple[Path, ...]:
    """Write a graph; return the further files that it refers to.

    Args:
        model: spent afterwards if its weights were written beside it.
        path: a new file.
        limit_bytes: of weights inside the file; from there on they go to `<name>.weights` beside it, which
            the graph refers to by that name.
    """
    import onnx

    if weight_bytes(model.graph) < limit_bytes:
        onnx.save(model, path)
        return ()
    beside = path.with_suffix(".weights")
    onnx.save(model, path, save_as_external_data=True, location=beside.name)
    return (beside,)
