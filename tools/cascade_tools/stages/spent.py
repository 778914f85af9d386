"""What serving took while something ran: joules of a meter, or modelled from CPU time; and the CPU time."""

from __future__ import annotations

from dataclasses import dataclass

from cascade_tools.artifacts import Origin
from cascade_tools.machine.meters import EnergyMeter, EnergyWatch, NoMeter, look_for_meter, measure_idle_watts
from cascade_tools.serving.embedded import Server
from cascade_tools.serving.triton_energy import look_for_triton_meter
from cascade_tools.spec import load_devices
from cascade_tools.store import Workspace


@dataclass(frozen=True)
class Cost:
    """Of everything between `start` and `stop`.

    Attributes:
        energy_j: without the devices' idle power; None where there is neither a meter nor a model.
        origin: of the energy.
        why_none: why there is no energy, or no measured one.
        server_cpu_s: CPU time of all processes of the server; None where it was not started here.
    """

    energy_j: float | None
    origin: Origin | None
    why_none: str | None
    server_cpu_s: float | None


class CostWatch:
    """Counts what a server takes.

    A server that was started here: this machine's meter of GPUs where they serve, else of the CPU; without
    one, CPU time of the server times `busy_watts` of the device file. Another server: what it counts itself.

    Args:
        work: the cascade that is served.
        server: None where it was not started here.
        metrics_url: its metrics page.

    Raises:
        CascadeError: the metrics page cannot be read.
    """

    def __init__(self, work: Workspace, server: Server | None, metrics_url: str) -> None:
        self._server = server
        groups = load_devices(work.cascade).devices
        self._busy_watts = next((group.busy_watts for group in groups if group.kind == "cpu"), None)
        found: EnergyMeter | NoMeter
        if server is None:
            found = look_for_triton_meter(metrics_url)
        else:
            found = look_for_meter("gpu" if any(group.kind == "gpu" for group in groups) else "cpu")
        self._meter = found
        self._watch = None if isinstance(found, NoMeter) else EnergyWatch(found, measure_idle_watts(found))
        self._cpu_s = 0.0

    def start(self) -> None:
        """Count from now."""
        self._cpu_s = self._server_cpu_s() or 0.0
        if self._watch is not None:
            self._watch.start()

    def stop(self) -> Cost:
        """What it took since `start`; the meter is let go."""
        now_s = self._server_cpu_s()
        cpu_s = None if now_s is None else now_s - self._cpu_s
        if self._watch is not None and not isinstance(self._meter, NoMeter):
            spent = self._watch.stop()
            self._meter.close()
            return Cost(spent.dynamic_j, "measured", None, cpu_s)
        why = self._meter.why if isinstance(self._meter, NoMeter) else None
        if cpu_s is None or self._busy_watts is None:
            return Cost(None, None, why, cpu_s)
        return Cost(self._busy_watts * cpu_s, "modelled", why, cpu_s)

    def _server_cpu_s(self) -> float | None:
        return None if self._server is None else sum(self._server.cpu_seconds().values())
