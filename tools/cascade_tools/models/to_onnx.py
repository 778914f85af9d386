"""Exports a torch module to ONNX with a free batch dimension."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from tritonclient.utils import triton_to_np_dtype

from cascade_tools.artifacts import InputSpec
from cascade_tools.models.head import OUTPUTS
from cascade_tools.models.usercode import blame_user_code

if TYPE_CHECKING:
    import onnx
    import torch

OPSET = 20
IF_IT_FAILS = (
    "ONNX has no branches on values and not every operator: write that part in another way, "
    "or take format pt2"
)
LARGEST_BATCH = 4096  # of `serving.max_batch_size`


def zeros(spec: InputSpec, rows: int) -> npt.NDArray[Any]:
    """An input of a model without content, [rows, *dims]."""
    return np.zeros((rows, *spec.dims), triton_to_np_dtype(spec.datatype))


def to_onnx(
    module: torch.nn.Module, inputs: tuple[InputSpec, ...], field: str, outputs: Sequence[str] = OUTPUTS
) -> onnx.ModelProto:
    """The graph of a module in memory; see `write_onnx` for how it gets into a file.

    Args:
        module: called with one tensor per input; gives a tensor or a tuple of tensors.
        inputs: names, types and shapes without the batch.
        field: of the cascade's spec, for the message.
        outputs: names of what it gives; more than it gives do no harm.

    Raises:
        UsageError: the module does not run or does not export; its own line is named.
    """
    import torch

    example = tuple(torch.from_numpy(zeros(spec, rows=2)) for spec in inputs)
    batch = torch.export.Dim("batch", min=1, max=LARGEST_BATCH)
    with quiet(), blame_user_code(f"{field}: export to ONNX", IF_IT_FAILS):
        with torch.no_grad():
            found = module(*example)
        program = torch.onnx.export(
            module,
            example,
            dynamo=True,
            opset_version=OPSET,
            input_names=[spec.name for spec in inputs],
            output_names=list(outputs[: len(found) if isinstance(found, tuple) else 1]),
            dynamic_shapes={"inputs": tuple({0: batch} for _ in inputs)},
            verbose=False,
        )
        assert program is not None
        return program.model_proto


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """The exporters speak of their own internals; what matters comes back as an exception."""
    chatty = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript")]
    levels = [logger.level for logger in chatty]
    for logger in chatty:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(chatty, levels, strict=True):
            logger.setLevel(level)
