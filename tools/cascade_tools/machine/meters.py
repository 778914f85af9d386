"""Energy meters of this machine, and what is made of their readings.

    meter         covers                    reads
    rapl          all CPU packages          /sys/class/powercap, a counter that wraps around
    nvml          GPUs (Volta and newer)    their energy counters, millijoules
    nvml_power    older GPUs                their power, sampled on a thread and integrated

A server's own counter is in `serving/triton_energy.py`. A meter counts everything that its devices do, so
what they draw without work is measured first (`measure_idle_watts`) and taken off (`Spent.dynamic_j`).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from cascade_tools.errors import EnvironmentLacks
from cascade_tools.machine.nvml import gpu_meter

RAPL_ROOT = Path("/sys/class/powercap")
RAPL_PERIOD_S = 0.001
IDLE_S = 1.0
IDLE_PERIODS = 10  # an idle window must be long against the step of the counter

MeterKind = Literal["cpu", "gpu"]


class EnergyMeter(Protocol):
    """A counter of joules.

    Attributes:
        name: of the kind of meter, as figures name it.
        devices: what it covers.
        period_s: seconds between two steps of the counter; what is measured must last much longer.
    """

    name: str
    devices: tuple[str, ...]
    period_s: float

    def read_j(self) -> float:
        """Joules since some fixed moment; never falls."""

    def close(self) -> None:
        """Let go of what it holds; it is not read again."""


@dataclass(frozen=True)
class NoMeter:
    """Why there is no meter."""

    why: str


@dataclass(frozen=True)
class Spent:
    """What a meter counted in some seconds, and what its devices would have drawn without work."""

    total_j: float
    seconds: float
    idle_watts: float

    @property
    def dynamic_j(self) -> float:
        """What the work took: the total without the idle power."""
        return max(0.0, self.total_j - self.idle_watts * self.seconds)

    @property
    def idle_share(self) -> float | None:
        """Share of the total that is idle power, 0..1; None where nothing was counted."""
        if self.total_j <= 0.0:
            return None
        return min(1.0, self.idle_watts * self.seconds / self.total_j)


class EnergyWatch:
    """What a meter counts between `start` and `stop`.

    Args:
        meter: that is read.
        idle_watts: of its devices, from `measure_idle_watts`.
    """

    def __init__(self, meter: EnergyMeter, idle_watts: float) -> None:
        self._meter = meter
        self._idle_watts = idle_watts
        self.start()

    def start(self) -> None:
        """Count from now."""
        self._start_j, self._start_s = self._meter.read_j(), time.perf_counter()

    def stop(self) -> Spent:
        """What was counted until the counter has taken in everything up to now."""
        time.sleep(self._meter.period_s)
        joules, seconds = self._meter.read_j() - self._start_j, time.perf_counter() - self._start_s
        return Spent(joules, seconds, self._idle_watts)


class Rapl:
    """Sum of the CPU packages' energy counters, which wrap around at `max_energy_range_uj`.

    It must be read at least once per round of the counter, minutes at full power.
    """

    name = "rapl"
    period_s = RAPL_PERIOD_S

    def __init__(self, packages: list[Path]) -> None:
        self.devices = tuple((package / "name").read_text().strip() for package in packages)
        self._packages = packages
        self._ranges = [int((p / "max_energy_range_uj").read_text()) for p in packages]
        self._last = [self._raw(package) for package in packages]
        self._total_uj = 0

    def read_j(self) -> float:
        """Joules since this object was made.

        Raises:
            EnvironmentLacks: the counter can no longer be read.
        """
        try:
            for i, package in enumerate(self._packages):
                now = self._raw(package)
                self._total_uj += (now - self._last[i]) % self._ranges[i]
                self._last[i] = now
        except (OSError, ValueError) as error:
            raise EnvironmentLacks(f"RAPL: {error}") from None
        return self._total_uj / 1e6

    def close(self) -> None:
        """Nothing is held."""

    @staticmethod
    def _raw(package: Path) -> int:
        return int((package / "energy_uj").read_text())


def look_for_meter(
    kind: MeterKind = "cpu", *, gpu: int | None = None, root: Path = RAPL_ROOT
) -> EnergyMeter | NoMeter:
    """The meter of this machine's CPU or GPUs, or why there is none.

    Args:
        kind: of the devices.
        gpu: one GPU by CUDA's number; None for all that CUDA sees.
        root: the kernel's folder of power zones.
    """
    try:
        return _rapl(root) if kind == "cpu" else gpu_meter(gpu)
    except EnvironmentLacks as error:
        return NoMeter(error.message)


def find_meter(
    kind: MeterKind = "cpu", *, gpu: int | None = None, root: Path = RAPL_ROOT
) -> EnergyMeter | None:
    """As `look_for_meter`; None where there is none."""
    found = look_for_meter(kind, gpu=gpu, root=root)
    return None if isinstance(found, NoMeter) else found


def measure_idle_watts(meter: EnergyMeter | None) -> float:
    """What the meter's devices draw now; call it while nothing runs on them. 0 without a meter."""
    if meter is None:
        return 0.0
    start_j, start_s = meter.read_j(), time.perf_counter()
    time.sleep(max(IDLE_S, IDLE_PERIODS * meter.period_s))
    return (meter.read_j() - start_j) / (time.perf_counter() - start_s)


def _rapl(root: Path) -> Rapl:
    """The CPU packages' counters: all of them, or none, since a part would look like little energy."""
    packages = []
    for zone in sorted(root.glob("intel-rapl:*")):
        if zone.name.count(":") != 1:  # sub-zones count again what their package counts
            continue
        try:
            if not (zone / "name").read_text().startswith("package"):  # psys holds the packages
                continue
        except OSError as error:
            raise EnvironmentLacks(f"RAPL: {error}") from None
        packages.append(zone)
    if not packages:
        raise EnvironmentLacks(f"RAPL: the kernel shows no CPU package in {root}")
    try:
        return Rapl(packages)
    except (OSError, ValueError) as error:
        raise EnvironmentLacks(f"RAPL: {error} (only root may read it, unless root allows more)") from None
