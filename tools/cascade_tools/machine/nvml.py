"""NVIDIA's management library: the GPUs as CUDA numbers them, and their energy.

NVML knows all GPUs of the machine, in the order of the PCI bus, and nothing of `CUDA_VISIBLE_DEVICES`;
here a GPU's number is the one that CUDA gives it. (CUDA itself puts the fastest first unless
`CUDA_DEVICE_ORDER=PCI_BUS_ID` is set, which only matters where the GPUs differ.)
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pynvml

from cascade_tools.errors import CascadeError, EnvironmentLacks
from cascade_tools.machine.sampling import Sampler

COUNTER_PERIOD_S = 0.1  # the driver moves the counter every 20 to 100 ms
POWER_PERIOD_S = 0.05


def visible(setting: str | None, uuids: Sequence[str]) -> list[int]:
    """Positions in `uuids` of the GPUs that CUDA sees, in its order.

    Args:
        setting: `CUDA_VISIBLE_DEVICES`: numbers or beginnings of UUIDs; what follows the first entry that
            names no GPU is not seen. None sees all.
        uuids: of all GPUs, in the order of the PCI bus.
    """
    if setting is None:
        return list(range(len(uuids)))
    found: list[int] = []
    for entry in setting.split(","):
        name = entry.strip()
        matching = [int(name)] if name.isdecimal() else []
        if name.startswith("GPU-"):
            matching = [i for i, uuid in enumerate(uuids) if uuid.startswith(name)]
        if len(matching) != 1 or matching[0] >= len(uuids):
            break
        found.append(matching[0])
    return found


def open_gpus(gpu: int | None) -> list[Any]:
    """Handles of one GPU, or of all that CUDA sees; `pynvml.nvmlShutdown` belongs to each success.

    Raises:
        EnvironmentLacks: no NVIDIA driver, or no such GPU.
    """
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise EnvironmentLacks(f"no NVIDIA GPU here (NVML: {error})") from None
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        uuids = [pynvml.nvmlDeviceGetUUID(handle) for handle in handles]
    except pynvml.NVMLError as error:
        pynvml.nvmlShutdown()
        raise EnvironmentLacks(f"NVML: {error}") from None
    setting = os.environ.get("CUDA_VISIBLE_DEVICES")
    seen = [handles[i] for i in visible(setting, uuids)]
    chosen = seen if gpu is None else seen[gpu : gpu + 1]
    if not chosen:
        pynvml.nvmlShutdown()
        which = "no GPU" if gpu is None else f"no GPU {gpu}"
        raise EnvironmentLacks(
            f"{which} among the {len(seen)} that CUDA sees (CUDA_VISIBLE_DEVICES={setting})"
        )
    return chosen


@contextmanager
def nvml_errors(what: str) -> Iterator[None]:
    """Turn NVML's errors into ours.

    Raises:
        EnvironmentLacks: names `what` could not be read.
    """
    try:
        yield
    except pynvml.NVMLError as error:
        raise EnvironmentLacks(f"NVML: {what}: {error}") from None


class _Nvml:
    """What both meters share: the GPUs, and NVML open until `close`."""

    def __init__(self, handles: Sequence[Any]) -> None:
        self._handles = list(handles)
        self._open = True
        with nvml_errors("the GPUs' names"):
            self.devices = tuple(
                f"{pynvml.nvmlDeviceGetName(h)} {pynvml.nvmlDeviceGetUUID(h)}" for h in self._handles
            )

    def close(self) -> None:
        """Let NVML go."""
        if self._open:
            self._open = False
            pynvml.nvmlShutdown()


class NvmlEnergy(_Nvml):
    """The GPUs' own energy counters, millijoules since the driver was loaded (Volta and newer)."""

    name = "nvml"
    period_s = COUNTER_PERIOD_S

    def read_j(self) -> float:
        """Joules since the driver was loaded, all GPUs together.

        Raises:
            EnvironmentLacks: a GPU has no counter, or is gone.
        """
        with nvml_errors("the energy counter"):
            counted_mj = [float(pynvml.nvmlDeviceGetTotalEnergyConsumption(h)) for h in self._handles]
        return sum(counted_mj) / 1000.0


class NvmlPower(_Nvml):
    """The GPUs' power, sampled on a thread and integrated, where there is no counter."""

    name = "nvml_power"
    period_s = COUNTER_PERIOD_S

    def __init__(self, handles: Sequence[Any]) -> None:
        super().__init__(handles)
        self._sampler = Sampler(self._watts, POWER_PERIOD_S)

    def _watts(self) -> float:
        with nvml_errors("the power"):
            power_mw = [float(pynvml.nvmlDeviceGetPowerUsage(h)) for h in self._handles]
        return sum(power_mw) / 1000.0

    def read_j(self) -> float:
        """Joules since this object was made, all GPUs together.

        Raises:
            EnvironmentLacks: the power can no longer be read.
        """
        return self._sampler.take().area

    def close(self) -> None:
        """End the sampling and let NVML go."""
        self._sampler.close()
        super().close()


def gpu_meter(gpu: int | None) -> NvmlEnergy | NvmlPower:
    """The meter of one GPU or of all: its energy counter, or the integral of its power.

    Raises:
        EnvironmentLacks: no GPU, or neither can be read; says why.
    """
    handles = open_gpus(gpu)
    reasons = []
    kinds: tuple[type[NvmlEnergy | NvmlPower], ...] = (NvmlEnergy, NvmlPower)
    for kind in kinds:
        try:
            meter = kind(handles)
            meter.read_j()
            return meter
        except CascadeError as error:
            reasons.append(error.message)
    pynvml.nvmlShutdown()
    raise EnvironmentLacks("; ".join(reasons))
