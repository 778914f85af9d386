"""Opens an exported tier in this process, with the library that also serves it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy.typing as npt

from cascade_tools.artifacts import ExportedTier
from cascade_tools.backends.onnx_session import OnnxSession
from cascade_tools.errors import EnvironmentLacks, UsageError
from cascade_tools.machine.nvml import open_gpus
from cascade_tools.spec import Format

Kind = Literal["cpu", "gpu"]
Inputs = Mapping[str, npt.NDArray[Any]]
Run = Callable[[Inputs], object]

THREADS = 1  # as the served tiers have
MIB = 2**20


@dataclass(frozen=True)
class OpenModel:
    """A model that is ready to run.

    Attributes:
        run: takes a batch and returns once its outputs are there.
        device_mib: memory that it holds on its GPU; None on a CPU.
    """

    run: Run
    device_mib: Callable[[], float] | None = None


def open_model(exported: ExportedTier, path: Path, kind: Kind) -> OpenModel:
    """Open a tier's file for a kind of device.

    Raises:
        EnvironmentLacks: there is no such device, or nothing here runs the format on it.
        UsageError: the file cannot be read.
    """
    before_mib = _gpu_used_mib() if kind == "gpu" else 0.0
    try:
        run = _OPEN[exported.format](path, kind)
    except EnvironmentLacks:
        raise
    except Exception as error:  # the libraries have exceptions of their own
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UsageError(f"{path}: cannot be opened as {exported.format}: {first}") from error
    if kind == "cpu":
        return OpenModel(run)
    return OpenModel(run, lambda: max(0.0, _gpu_used_mib() - before_mib))


def _open_onnx(path: Path, kind: Kind) -> Run:
    if kind == "cpu":  # the code that serves it
        served = OnnxSession(path, THREADS)
        return lambda inputs: served.run(None, {name: inputs[name] for name in served.inputs})
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        raise EnvironmentLacks(
            "ONNX Runtime has no CUDAExecutionProvider here",
            "install onnxruntime-gpu instead of onnxruntime, or profile on a machine that has it",
        )
    providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(path, providers=providers)
    if "CUDAExecutionProvider" not in session.get_providers():
        raise EnvironmentLacks("ONNX Runtime fell back on the CPU: it found no usable GPU")
    wanted = [entry.name for entry in session.get_inputs()]
    return lambda inputs: session.run(None, {name: inputs[name] for name in wanted})


def _open_torch(path: Path, kind: Kind) -> Run:
    import torch

    from cascade_tools.backends.torch_session import TorchSession

    if kind == "gpu" and not torch.cuda.is_available():
        raise EnvironmentLacks("torch finds no GPU here", "profile on a machine that has one")
    session = TorchSession(path, THREADS, "cuda:0" if kind == "gpu" else "cpu")
    return lambda inputs: session.run(None, inputs)


def _open_tensorrt(path: Path, kind: Kind) -> Run:
    from cascade_tools.models.tensorrt_session import TensorRTSession

    if kind == "cpu":
        raise EnvironmentLacks(
            f"{path}: a TensorRT plan runs on GPUs",
            "name devices of kind gpu in the device file, or take another format",
        )
    session = TensorRTSession(path)
    return lambda inputs: session.run(None, inputs)


_OPEN: dict[Format, Callable[[Path, Kind], Run]] = {
    "onnx": _open_onnx,
    "onnx_fp16": _open_onnx,
    "pt2": _open_torch,
    "tensorrt": _open_tensorrt,
}


def _gpu_used_mib() -> float:
    """Memory in use on the first GPU, by whomever."""
    import pynvml

    (handle,) = open_gpus(0)
    try:
        return float(pynvml.nvmlDeviceGetMemoryInfo(handle).used) / MIB
    finally:
        pynvml.nvmlShutdown()
