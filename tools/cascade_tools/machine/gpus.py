"""The NVIDIA GPUs of this machine, by NVML."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Gpu:
    """One GPU; `compute_capability` such as `9.0`."""

    name: str
    compute_capability: str


def find_gpus() -> tuple[Gpu, ...]:
    """All of them in NVML's order, that of the bus; none where there is no driver."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return ()
    try:
        found = []
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            name = pynvml.nvmlDeviceGetName(handle)
            major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
            found.append(Gpu(name if isinstance(name, str) else name.decode(), f"{major}.{minor}"))
        return tuple(found)
    finally:
        pynvml.nvmlShutdown()
