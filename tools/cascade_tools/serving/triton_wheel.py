"""Finds the tritonserver that the nvidia-pytriton wheel brings, and what it needs to run.

The wheel's server is Triton 2.51 with the Python backend. Its stub for this Python must lie in the
backend's folder, the wheel's own libraries and the shared libpython on LD_LIBRARY_PATH.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
import sysconfig
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from cascade_tools.errors import EnvironmentLacks

STUB = "triton_python_backend_stub"
MIN_GLIBC = (2, 35)


@dataclass(frozen=True)
class TritonWheel:
    """What is needed to start the server."""

    binary: Path
    backend: Path
    stub: Path
    libraries: tuple[Path, ...]

    def backend_directory(self, folder: Path) -> Path:
        """Lay the Python backend and this Python's stub side by side below `folder`."""
        target = folder / "backends" / "python"
        target.mkdir(parents=True, exist_ok=True)
        for path in (*self.backend.iterdir(), self.stub):
            copy = target / path.name
            if path.is_file() and not copy.exists():
                shutil.copy2(path, copy)
        return target.parent

    def environment(self) -> dict[str, str]:
        """The server's environment: its libraries, and this interpreter first on the PATH."""
        known = dict(os.environ)
        known["LD_LIBRARY_PATH"] = os.pathsep.join(str(path) for path in self.libraries)
        known["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), known.get("PATH", "")])
        # One thread per tier instance is planned; BLAS must not start more.
        known["OMP_NUM_THREADS"] = "1"
        return known


def find_triton() -> TritonWheel:
    """The server of the installed wheel.

    Raises:
        EnvironmentLacks: the wheel, the processor, the C library or libpython is missing or too old.
    """
    if platform.machine() != "x86_64" or sys.platform != "linux":
        raise EnvironmentLacks("the embedded Triton runs on x86-64 Linux only")
    name, found = platform.libc_ver()
    if name != "glibc" or tuple(int(part) for part in found.split(".")[:2]) < MIN_GLIBC:
        raise EnvironmentLacks(
            f"the embedded Triton needs glibc 2.35 or later, this machine has {name} {found}",
            "use Debian 12, Ubuntu 22.04 or later, or serve with `docker compose up`",
        )
    spec = find_spec("pytriton")
    if spec is None or spec.origin is None:
        raise EnvironmentLacks(
            "the embedded Triton is not installed", "run `pip install 'cascade-tools[embedded]'`"
        )
    package = Path(spec.origin).parent
    server = package / "tritonserver"
    minor = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = server / "python_backend_stubs" / minor / STUB
    if not stub.is_file():
        raise EnvironmentLacks(
            f"the embedded Triton has no stub for Python {minor}", "use Python 3.11 or 3.12"
        )
    return TritonWheel(
        binary=server / "bin" / "tritonserver",
        backend=server / "backends" / "python",
        stub=stub,
        libraries=(package.parent / "nvidia_pytriton.libs", _libpython_folder()),
    )


def wheel_version() -> str | None:
    """Version of the installed nvidia-pytriton, None if there is none."""
    try:
        return version("nvidia-pytriton")
    except PackageNotFoundError:
        return None


def _libpython_folder() -> Path:
    library = f"libpython{sys.version_info.major}.{sys.version_info.minor}.so.1.0"
    folders = [
        Path(str(sysconfig.get_config_var("LIBDIR") or "")),
        Path(sys.base_prefix) / "lib",
        Path("/usr/lib/x86_64-linux-gnu"),
        Path("/usr/lib64"),
        Path("/usr/lib"),
    ]
    for folder in folders:
        if (folder / library).is_file():
            return folder
    raise EnvironmentLacks(
        f"the embedded Triton needs the shared library {library}",
        f"install it (Debian, Ubuntu: apt-get install libpython{sys.version_info.major}."
        f"{sys.version_info.minor}), or build Python with --enable-shared",
    )
