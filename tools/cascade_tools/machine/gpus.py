"""The NVIDIA GPUs of this machine, by NVML."""

from __future__ import annotations

from dataclasses import dataclass

from cascade_tools.errors import EnvironmentLacks
from cascade_tools.machine.nvml import open_gpus


@dataclass(frozen=True)
class Gpu:
    """One GPU; `compute_capability` such as `9.0`."""

    name: str
    compute_capability: str


def find_gpus() -> tuple[Gpu, ...]:
    """All that CUDA sees, as it numbers them; none where there is no driver."""
    import pynvml

    try:
        handles = open_gpus(None)
    except EnvironmentLacks:
        return ()
    try:
        found = []
        for handle in handles:
            name = pynvml.nvmlDeviceGetName(handle)
            major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
            found.append(Gpu(name if isinstance(name, str) else name.decode(), f"{major}.{minor}"))
        return tuple(found)
    finally:
        pynvml.nvmlShutdown()


def gpu_ids() -> tuple[str, ...]:
    """The ids of the same, as Triton's metrics page names them; none where there is no driver."""
    import pynvml

    try:
        handles = open_gpus(None)
    except EnvironmentLacks:
        return ()
    try:
        found = [pynvml.nvmlDeviceGetUUID(handle) for handle in handles]
        return tuple(uuid if isinstance(uuid, str) else uuid.decode() for uuid in found)
    finally:
        pynvml.nvmlShutdown()
