"""Kernel utilization: the share of a device that some work keeps busy (HybridServe's planner adds these).

    device  by         share
    CPU     cpu_time   CPU seconds of the processes over wall seconds and the device's cores
    GPU     cupti      time in which a kernel runs over wall time, from torch's profiler; this process only
    GPU     nvml       the driver's own samples of the same, of everything that runs on the GPU

The driver's samples look back up to a second, so the first second of the work is left out of them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import pynvml

from cascade_tools.artifacts import UtilizationBy
from cascade_tools.errors import CascadeError, EnvironmentLacks, UsageError
from cascade_tools.machine.kernel_trace import busy_s
from cascade_tools.machine.nvml import nvml_errors, open_gpus
from cascade_tools.machine.sampling import Sampler, Trapezoid
from cascade_tools.spec import DeviceGroup

SMALLEST_SHARE = 1e-6  # planning divides by it
NVML_PERIOD_S = 0.1
NVML_LOOKS_BACK_S = 1.0
NVML_SHORTEST_S = 2.0


class Utilization:
    """What was found; `share` is known once the block has ended.

    Attributes:
        by: what the share comes from.
    """

    def __init__(self, by: UtilizationBy) -> None:
        self.by: UtilizationBy = by
        self._share: float | None = None

    @property
    def share(self) -> float:
        """In (0, 1]."""
        if self._share is None:
            raise RuntimeError("the share is known when the block has ended, without an error")
        return self._share

    def set(self, share: float) -> None:
        """Take a share; clocks that differ a little may put it just outside."""
        self._share = min(1.0, max(share, SMALLEST_SHARE))


@contextmanager
def measured_utilization(
    device: DeviceGroup,
    *,
    processes: Sequence[int] | None = None,
    gpu: int = 0,
    by: UtilizationBy | None = None,
) -> Iterator[Utilization]:
    """Measure what the block keeps busy.

    Args:
        device: of which kind, and for a CPU how many cores count.
        processes: ids of those that do the work; None for this one alone.
        gpu: CUDA's number of the GPU.
        by: for a GPU `cupti` or `nvml`; None takes CUPTI where this process does the work, else NVML.

    Raises:
        EnvironmentLacks: no such GPU, or torch or NVML do not see it.
        UsageError: this device is not measured by that.
        CascadeError: a process ended, or no kernel ran, or the block was too short.
    """
    if device.kind == "cpu":
        chosen: UtilizationBy = "cpu_time"
    else:
        chosen = by or ("cupti" if processes is None else "nvml")
    if by not in (None, chosen) or (device.kind == "gpu" and chosen == "cpu_time"):
        raise UsageError(f"the utilization of a device of kind {device.kind} is not measured by {by}")
    found = Utilization(chosen)
    if chosen == "cpu_time":
        assert device.cores is not None
        measuring = _by_cpu_time(found, device.cores, processes or [os.getpid()])
    elif chosen == "cupti":
        measuring = _by_cupti(found, gpu)
    else:
        measuring = _by_nvml(found, gpu)
    with measuring:
        yield found


def cpu_seconds(process: int) -> float:
    """CPU time of a process so far; to the nanosecond for this one, in steps of 10 ms for others.

    Raises:
        CascadeError: there is no such process.
    """
    if process == os.getpid():
        return time.process_time()
    try:
        times = psutil.Process(process).cpu_times()
    except (psutil.NoSuchProcess, psutil.AccessDenied) as error:
        raise CascadeError(f"the CPU time of process {process} cannot be read: {error}") from None
    return float(times.user + times.system)


@contextmanager
def _by_cpu_time(found: Utilization, cores: int, processes: Sequence[int]) -> Iterator[None]:
    before_s, start_s = sum(map(cpu_seconds, processes)), time.perf_counter()
    yield
    wall_s = time.perf_counter() - start_s
    found.set((sum(map(cpu_seconds, processes)) - before_s) / (wall_s * cores))


@contextmanager
def _by_cupti(found: Utilization, gpu: int) -> Iterator[None]:
    import torch
    from torch.profiler import ProfilerActivity, profile

    if gpu >= torch.cuda.device_count():
        raise EnvironmentLacks(f"CUPTI: torch {torch.__version__} sees no GPU {gpu}")
    with profile(activities=[ProfilerActivity.CUDA]) as trace:
        torch.cuda.synchronize(gpu)
        start_s = time.perf_counter()
        yield
        torch.cuda.synchronize(gpu)
        wall_s = time.perf_counter() - start_s
    with TemporaryDirectory() as folder:
        file = Path(folder) / "trace.json"
        trace.export_chrome_trace(str(file))
        kernels_s = busy_s(file, device=gpu)
    if kernels_s <= 0.0:
        raise CascadeError(
            f"CUPTI saw no kernel on GPU {gpu}",
            "if other processes do the work, or a driver denies tracing, measure by nvml",
        )
    found.set(kernels_s / wall_s)


@contextmanager
def _by_nvml(found: Utilization, gpu: int) -> Iterator[None]:
    (handle,) = open_gpus(gpu)
    try:
        begins_s = time.monotonic() + NVML_LOOKS_BACK_S
        settled = Trapezoid()

        def share() -> float:
            with nvml_errors("the utilization"):
                busy = float(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu) / 100.0
            if time.monotonic() >= begins_s:
                settled.add(time.monotonic(), busy)
            return busy

        sampler = Sampler(share, NVML_PERIOD_S)
        start_s = time.monotonic()
        try:
            yield
            sampler.take()
        finally:
            sampler.close()
        settle(found, settled, time.monotonic() - start_s)
    finally:
        pynvml.nvmlShutdown()


def settle(found: Utilization, samples: Trapezoid, seconds: float) -> None:
    """Take the mean of NVML's samples, shares in 0..1 over time, of work that took some seconds.

    Raises:
        CascadeError: it was too short, or nothing ran.
    """
    if seconds < NVML_SHORTEST_S or samples.duration_s <= 0.0:
        raise CascadeError(
            f"NVML's utilization needs work of at least {NVML_SHORTEST_S:g} s, this took {seconds:.1f} s",
            "repeat it for longer, or measure by cupti",
        )
    if samples.area <= 0.0:
        raise CascadeError("NVML saw no kernel", "is it the GPU that does the work?")
    found.set(samples.area / samples.duration_s)
