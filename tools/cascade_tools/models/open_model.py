"""Opens an exported tier in this process, with the library that also serves it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from cascade_tools.artifacts import ExportedTier
from cascade_tools.errors import EnvironmentLacks, UsageError

Kind = Literal["cpu", "gpu"]
Inputs = Mapping[str, npt.NDArray[Any]]

THREADS = 1  # as the served tiers have
MIB = 2**20
NAMES = "cascade.json"  # inside a .pt2: the names of its inputs, in order


@dataclass(frozen=True)
class OpenModel:
    """A model that is ready to run.

    Attributes:
        run: takes a batch and returns once its outputs are there.
        device_mib: memory that it holds on its GPU; None on a CPU.
    """

    run: Callable[[Inputs], object]
    device_mib: Callable[[], float] | None = None


def open_model(exported: ExportedTier, path: Path, kind: Kind) -> OpenModel:
    """Open a tier's file for a kind of device.

    Raises:
        EnvironmentLacks: there is no such device, or nothing here runs the format on it.
        UsageError: the file cannot be read.
    """
    if exported.format == "tensorrt":
        raise EnvironmentLacks(
            f"tier {exported.tier}: a TensorRT plan runs on a Triton with the TensorRT backend only",
            "measure it there and take the figures over, or choose another format for this machine",
        )
    opened = _open_torch if exported.format == "pt2" else _open_onnx
    try:
        return opened(path, kind)
    except EnvironmentLacks:
        raise
    except Exception as error:  # the libraries have exceptions of their own
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UsageError(f"{path}: cannot be opened as {exported.format}: {first}") from error


def _open_onnx(path: Path, kind: Kind) -> OpenModel:
    import onnxruntime

    providers = ["CPUExecutionProvider"]
    if kind == "gpu":
        if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
            raise EnvironmentLacks(
                "ONNX Runtime has no CUDAExecutionProvider here",
                "install onnxruntime-gpu instead of onnxruntime, or profile on a machine that has it",
            )
        providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    options.inter_op_num_threads = 1
    before = _gpu_used_mib() if kind == "gpu" else 0.0
    session = onnxruntime.InferenceSession(path, options, providers=providers)
    if kind == "gpu" and "CUDAExecutionProvider" not in session.get_providers():
        raise EnvironmentLacks("ONNX Runtime fell back on the CPU: it found no usable GPU")
    wanted = {entry.name for entry in session.get_inputs()}

    def run(inputs: Inputs) -> object:
        return session.run(None, {name: values for name, values in inputs.items() if name in wanted})

    return OpenModel(run, (lambda: max(0.0, _gpu_used_mib() - before)) if kind == "gpu" else None)


def _open_torch(path: Path, kind: Kind) -> OpenModel:
    import torch

    if kind == "gpu" and not torch.cuda.is_available():
        raise EnvironmentLacks("torch finds no GPU here", "profile on a machine that has one")
    device = torch.device("cuda" if kind == "gpu" else "cpu")
    torch.set_num_threads(THREADS)
    before = _gpu_used_mib() if kind == "gpu" else 0.0
    found: dict[str, Any] = {NAMES: ""}
    program = torch.export.load(path, extra_files=found)
    names = json.loads(found[NAMES])["inputs"]
    if kind == "gpu":
        # Tensors that are made on the way name their device, too.
        from torch.export.passes import move_to_device_pass

        program = move_to_device_pass(program, "cuda")
    module: Any = program.module()

    def run(inputs: Inputs) -> object:
        tensors = [torch.from_numpy(np.ascontiguousarray(inputs[name])).to(device) for name in names]
        with torch.inference_mode():
            # Copied back, as whoever asks needs it; on a GPU this also waits for the kernels.
            return [output.cpu() for output in module(*tensors)]

    return OpenModel(run, (lambda: max(0.0, _gpu_used_mib() - before)) if kind == "gpu" else None)


def _gpu_used_mib() -> float:
    """Memory in use on the first GPU, by whomever."""
    import pynvml

    pynvml.nvmlInit()
    try:
        handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        return float(pynvml.nvmlDeviceGetMemoryInfo(handle).used) / MIB
    finally:
        pynvml.nvmlShutdown()
