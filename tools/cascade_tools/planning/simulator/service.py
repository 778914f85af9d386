"""Times, utilization and energy of a tier at every batch size, from its profile."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cascade_tools.artifacts import ProfilePoint
from cascade_tools.planning.curves import point_at
from cascade_tools.planning.simulator.system import ServiceTime


def service_time(points: Sequence[ProfilePoint], max_batch: int) -> ServiceTime:
    """What a batch of 1 to `max_batch` rows takes; between the points as `planning/curves.py` says.

    Args:
        points: of one tier on one type of device, by batch size.
        max_batch: rows of the largest batch.
    """
    found = [point_at(points, batch) for batch in range(1, max_batch + 1)]
    energy = [point.energy_j for point in found]
    known = [value for value in energy if value is not None]
    return ServiceTime(
        time_ms=np.array([point.latency_p50_ms for point in found]),
        utilization=np.array([point.kernel_utilization for point in found]),
        energy_j=np.arange(1, max_batch + 1) * np.array(known) if len(known) == len(energy) else None,
    )
