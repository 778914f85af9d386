"""An exported model, opened in this process; one way for every format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy.typing as npt

from cascade_tools.spec import Format


class Session(Protocol):
    """What runs a model with its head."""

    def run(self, outputs: Sequence[str] | None, inputs: Mapping[str, npt.NDArray[Any]]) -> list[Any]:
        """The wanted outputs of all rows, in the order of their names; None for all."""


def open_exported(path: Path, kind: Format, threads: int | None = None) -> Session:
    """Open a file that `export` wrote; its digest must have been compared with the recorded one.

    Args:
        path: with the files beside it.
        kind: its format.
        threads: on the CPU; None for what the library takes. Of torch it is that of the process.

    Raises:
        EnvironmentLacks: a TensorRT plan, on a machine that cannot run it.
        Exception: whatever the library raises for a file that is none of its own.
    """
    if kind == "pt2":
        from cascade_tools.backends.torch_session import TorchSession

        return TorchSession(path, threads)
    if kind == "tensorrt":
        from cascade_tools.models.tensorrt_session import TensorRTSession

        return TensorRTSession(path)
    from cascade_tools.backends.onnx_session import OnnxSession

    return OnnxSession(path, threads or 0)
