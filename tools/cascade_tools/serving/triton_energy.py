"""The energy that a running Triton counts: `nv_energy_consumption`, joules per GPU since its start."""

from __future__ import annotations

from cascade_tools.errors import CascadeError
from cascade_tools.machine.meters import NoMeter
from cascade_tools.serving.metrics_page import read_page, samples

METRIC = "nv_energy_consumption"
INTERVAL_S = 2.0  # Triton asks the GPUs this often; --metrics-interval-ms


class TritonEnergy:
    """All GPUs of a server together, by UUID."""

    name = "triton"
    period_s = INTERVAL_S

    def __init__(self, url: str) -> None:
        self._url = url
        self.devices = tuple(sorted(_joules(read_page(url))))

    def read_j(self) -> float:
        """Joules since the server's start.

        Raises:
            CascadeError: the page cannot be read, or names other GPUs than before.
        """
        found = _joules(read_page(self._url))
        if tuple(sorted(found)) != self.devices:
            raise CascadeError(
                f"{self._url}: counts the energy of {', '.join(sorted(found)) or 'no GPU'}, "
                f"but before of {', '.join(self.devices)}"
            )
        return sum(found.values())

    def close(self) -> None:
        """Nothing is held."""


def look_for_triton_meter(url: str) -> TritonEnergy | NoMeter:
    """The server's own meter, or why it has none.

    Args:
        url: of its metrics page.

    Raises:
        CascadeError: the page cannot be read.
    """
    meter = TritonEnergy(url)
    if not meter.devices:
        return NoMeter(f"{url}: no {METRIC} (no GPU that the server can read, or GPU metrics are off)")
    return meter


def _joules(text: str) -> dict[str, float]:
    return {labels.get("gpu_uuid", ""): joules for labels, joules in samples(text, METRIC)}
