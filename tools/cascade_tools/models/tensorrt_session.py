"""A TensorRT plan run in this process, to compare it with its source and to measure it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cascade_tools.errors import EnvironmentLacks
from cascade_tools.models.to_tensorrt import require_tensorrt

Arrays = Mapping[str, npt.NDArray[Any]]


class TensorRTSession:
    """One plan on the first GPU; torch holds its tensors.

    Attributes:
        inputs: names that the plan reads.
        outputs: names of what it gives.

    Raises:
        EnvironmentLacks: TensorRT, a GPU or torch for CUDA is missing, or another TensorRT built the plan.
    """

    def __init__(self, plan: Path) -> None:
        trt = require_tensorrt()
        self._runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
        engine = self._runtime.deserialize_cuda_engine(plan.read_bytes())
        if engine is None:
            raise EnvironmentLacks(
                f"{plan}: TensorRT {trt.__version__} cannot read this plan", "export it again on this machine"
            )
        self._engine, self._context = engine, engine.create_execution_context()
        names = [engine.get_tensor_name(number) for number in range(engine.num_io_tensors)]
        reads = {name: engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT for name in names}
        self.inputs = tuple(name for name in names if reads[name])
        self.outputs = tuple(name for name in names if not reads[name])
        self._types = {name: np.dtype(trt.nptype(engine.get_tensor_dtype(name))) for name in names}

    def run(self, outputs: Sequence[str] | None, inputs: Arrays) -> list[Any]:
        """The wanted outputs of all rows, in the order of their names; None for all."""
        import torch

        device = torch.device("cuda:0")
        stream = torch.cuda.Stream(device)
        with torch.cuda.stream(stream):
            # Held until the stream is done: the context knows their addresses alone.
            tensors = {
                name: torch.from_numpy(np.ascontiguousarray(inputs[name], self._types[name])).to(device)
                for name in self.inputs
            }
            for name, tensor in tensors.items():
                self._context.set_input_shape(name, tuple(tensor.shape))
            for name in self.outputs:
                like = torch.from_numpy(np.empty(0, self._types[name])).dtype
                shape = tuple(self._context.get_tensor_shape(name))
                tensors[name] = torch.empty(shape, dtype=like, device=device)
            for name, tensor in tensors.items():
                self._context.set_tensor_address(name, tensor.data_ptr())
            if not self._context.execute_async_v3(stream.cuda_stream):
                raise RuntimeError("TensorRT could not run the plan")
            found = {name: tensors[name].cpu().numpy() for name in self.outputs}
        stream.synchronize()
        return [found[name] for name in outputs or self.outputs]
