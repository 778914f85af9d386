"""Energy meters of this machine: RAPL for the CPU packages, where the kernel lets us read it."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

RAPL_ROOT = Path("/sys/class/powercap")


class EnergyMeter(Protocol):
    """A counter of joules."""

    name: str

    def read_j(self) -> float:
        """Joules since some fixed moment; never falls."""


class Rapl:
    """Sum of the CPU packages' energy counters, which wrap around at `max_energy_range_uj`."""

    name = "rapl"

    def __init__(self, packages: list[Path]) -> None:
        self._packages = packages
        self._ranges = [int((p / "max_energy_range_uj").read_text()) for p in packages]
        self._last = [self._raw(package) for package in packages]
        self._total_uj = 0

    def read_j(self) -> float:
        """Joules since this object was made."""
        for i, package in enumerate(self._packages):
            now = self._raw(package)
            self._total_uj += (now - self._last[i]) % self._ranges[i]
            self._last[i] = now
        return self._total_uj / 1e6

    @staticmethod
    def _raw(package: Path) -> int:
        return int((package / "energy_uj").read_text())


def find_meter(root: Path = RAPL_ROOT) -> EnergyMeter | None:
    """The meter of this machine's CPU, or None where none is readable."""
    packages = []
    for path in sorted(root.glob("intel-rapl:*")):
        if path.name.count(":") != 1:  # sub-domains count again what their package counts
            continue
        try:
            (path / "energy_uj").read_text()
            (path / "max_energy_range_uj").read_text()
        except OSError:
            continue
        packages.append(path)
    return Rapl(packages) if packages else None
