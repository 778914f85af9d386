"""What measured figures depend on."""

from __future__ import annotations

import platform
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil


def machine() -> dict[str, str]:
    """What the figures depend on: the processor and the versions that ran."""
    return {
        "processor": _processor_name(),
        "cores": str(psutil.cpu_count(logical=True)),
        "python": platform.python_version(),
        "onnxruntime": onnxruntime_version(),
        "numpy": version("numpy"),
    }


def onnxruntime_version() -> str:
    """Of whichever of its two packages is installed."""
    for name in ("onnxruntime", "onnxruntime-gpu"):
        with suppress(PackageNotFoundError):
            return version(name)
    return "missing"


def _processor_name() -> str:
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.machine()
