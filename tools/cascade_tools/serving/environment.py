"""What this machine has, as `cascade-tools env` prints it."""

from __future__ import annotations

import platform
import shutil
import subprocess
from dataclasses import dataclass

import psutil

from cascade_tools.errors import CascadeError, EnvironmentLacks
from cascade_tools.machine.facts import machine
from cascade_tools.machine.meters import MeterKind, NoMeter, look_for_meter
from cascade_tools.serving.perf_analyzer import find_perf_analyzer
from cascade_tools.serving.triton_wheel import find_triton, wheel_version

COMMAND_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Fact:
    """One fact: `found` for people, `value` for machines (None where the thing is missing)."""

    key: str
    name: str
    found: str
    value: object


def describe_environment() -> list[Fact]:
    """All facts; never fails, a missing thing is a fact, too."""
    here = machine()
    memory_gib = psutil.virtual_memory().total / 2**30
    return [
        Fact("processor", "processor", f"{here['processor']}, {here['cores']} cores", here),
        Fact("memory_gib", "memory", f"{memory_gib:.1f} GiB", round(memory_gib, 1)),
        Fact("python", "Python", platform.python_version(), platform.python_version()),
        _libc(),
        _triton(),
        *_gpus(),
        _command("docker", "Docker", ["docker", "info", "--format", "{{.ServerVersion}}"]),
        _perf_analyzer(),
        _meter("energy_meter", "energy meter", "cpu"),
        _meter("gpu_energy_meter", "energy meter of the GPUs", "gpu"),
    ]


def _libc() -> Fact:
    name, found = platform.libc_ver()
    text = f"{name} {found}".strip() or "unknown"
    return Fact("libc", "C library", text, text)


def _triton() -> Fact:
    try:
        find_triton()
    except EnvironmentLacks as error:
        return Fact("triton", "embedded Triton", f"no: {error.message}", None)
    found = f"2.51.0 (nvidia-pytriton {wheel_version()})"
    return Fact("triton", "embedded Triton", found, found)


def _gpus() -> list[Fact]:
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return [Fact("gpus", "GPUs", f"none ({error})", [])]
    try:
        names = []
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            memory_mib = pynvml.nvmlDeviceGetMemoryInfo(handle).total // 2**20
            names.append(f"{pynvml.nvmlDeviceGetName(handle)}, {memory_mib} MiB")
        return [Fact("gpus", "GPUs", "; ".join(names) or "none", names)]
    finally:
        pynvml.nvmlShutdown()


def _command(key: str, name: str, command: list[str]) -> Fact:
    if shutil.which(command[0]) is None:
        return Fact(key, name, "no", None)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Fact(key, name, f"does not answer ({error})", None)
    lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    text = lines[0] if lines else "no answer"
    if done.returncode != 0:
        return Fact(key, name, f"client only: {text}", None)
    return Fact(key, name, text, text)


def _perf_analyzer() -> Fact:
    try:
        path = str(find_perf_analyzer())
    except CascadeError as error:
        return Fact(
            "perf_analyzer", "perf_analyzer", f"no: {error.message.removeprefix('perf_analyzer: ')}", None
        )
    return Fact("perf_analyzer", "perf_analyzer", path, path)


def _meter(key: str, name: str, kind: MeterKind) -> Fact:
    meter = look_for_meter(kind)
    if isinstance(meter, NoMeter):
        return Fact(key, name, f"none: {meter.why}", None)
    meter.close()
    return Fact(key, name, f"{meter.name} ({', '.join(meter.devices)})", meter.name)
