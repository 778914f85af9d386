"""What `place` decided: instances on devices."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from cascade_tools.artifacts.base import Artifact, Value


class PlacedInstances(Value):
    """Instances of one tier on one device, and the load that the plan predicts for them.

    Attributes:
        device: index into the devices, in the order of the device file.
        busy_instances: mean number of busy instances at the planned rate, 0..count.
    """

    tier: str
    device: int
    count: int = Field(ge=1)
    busy_instances: float


class PlacedDevice(Value):
    """One device of the plan; `gpu` is its index among the GPUs of its host, None on a CPU."""

    type: str
    kind: Literal["cpu", "gpu"]
    gpu: int | None
    memory_mib: int
    used_memory_mib: float
    busy_share: float


class Placement(Artifact):
    """Instances per tier and device; verified after solving."""

    kind: Literal["placement"] = "placement"
    rate_rps: float
    bound_rps: float
    gap: float
    status: str
    giant_only_rps: float | None
    batch: dict[str, int]
    devices: tuple[PlacedDevice, ...]
    instances: tuple[PlacedInstances, ...]

    def count(self, tier: str) -> int:
        """Instances of one tier on all devices."""
        return sum(placed.count for placed in self.instances if placed.tier == tier)
