"""Exports a torch module to ONNX with a free batch dimension."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from tritonclient.utils import triton_to_np_dtype

from cascade_tools.artifacts import InputSpec
from cascade_tools.models.usercode import blame_user_code

if TYPE_CHECKING:
    import torch

OPSET = 20


def zeros(spec: InputSpec, rows: int) -> npt.NDArray[Any]:
    """Zeros [rows, *dims] of one input."""
    return np.zeros((rows, *spec.dims), triton_to_np_dtype(spec.datatype))


def to_onnx(module: torch.nn.Module, inputs: tuple[InputSpec, ...], field: str) -> bytes:
    """The graph of a module that takes `inputs` in their order.

    Raises:
        UsageError: it does not export; the message begins with `field`.
    """
    import torch

    example = tuple(torch.from_numpy(zeros(spec, rows=2)) for spec in inputs)
    batch = torch.export.Dim("batch", min=1, max=4096)
    names = ["LABEL", "CONFIDENCE", "PROBS"]
    with _quiet(), blame_user_code(f"{field}: export to ONNX"):
        program = torch.onnx.export(
            module,
            example,
            dynamo=True,
            opset_version=OPSET,
            input_names=[spec.name for spec in inputs],
            output_names=names[: len(module(*example))],
            dynamic_shapes={"inputs": tuple({0: batch} for _ in inputs)},
            verbose=False,
        )
        assert program is not None
        graph: bytes = program.model_proto.SerializeToString()
        return graph


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter speaks of its own internals; what matters comes back as an exception."""
    chatty = logging.getLogger("torch.onnx")
    level = chatty.level
    chatty.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        chatty.setLevel(level)
