"""The machines that are planned for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

from pydantic import Field, model_validator

from cascade_tools.spec.base import Spec
from cascade_tools.spec.names import Name


class DeviceGroup(Spec):
    """Equal devices.

    Attributes:
        type: `cpu` or a name of the GPU type.
        kind: what Triton calls it in an instance group.
        count: how many; a CPU device is one host's cores.
        cores: CPU only: cores that the tiers may keep busy.
        memory_mib: memory of one device.
        reserved_mib: memory that the plan leaves alone.
        busy_watts: power of one busy core (CPU) or of the busy device (GPU), dynamic part; only used
            where no meter is readable, and then shown as modelled.
        per_host: GPU only: how many are in one host. Without it they are in the host of the CPU.
        idle_watts: GPU only: what one that is used draws while it has nothing to do; default: what `profile`
            read from its meter.
        price_per_hour: of the whole device, in any currency; for `minimise: money`.
    """

    type: Name
    kind: Literal["cpu", "gpu"]
    count: int = Field(default=1, ge=1)
    cores: int | None = Field(default=None, ge=1)
    memory_mib: int = Field(gt=0)
    reserved_mib: int = Field(default=0, ge=0)
    busy_watts: float | None = Field(default=None, gt=0.0)
    per_host: int | None = Field(default=None, ge=1)
    idle_watts: float | None = Field(default=None, ge=0.0)
    price_per_hour: float | None = Field(default=None, gt=0.0)

    @model_validator(mode="after")
    def _cores_fit_kind(self) -> DeviceGroup:
        if (self.kind == "cpu") != (self.cores is not None):
            raise ValueError("'cores' is needed for kind cpu and not allowed for kind gpu")
        if self.kind == "cpu" and self.count != 1:
            raise ValueError("'count' must be 1 for kind cpu: one host is one device")
        stray = [name for name in ("per_host", "idle_watts") if getattr(self, name) is not None]
        if self.kind == "cpu" and stray:
            raise ValueError(f"{stray[0]!r} is for kind gpu")
        if self.reserved_mib >= self.memory_mib:
            raise ValueError("'reserved_mib' must be below 'memory_mib'")
        return self


class Devices(Spec):
    """The machine that is planned for: a file of its own, so that one cascade fits several machines."""

    devices: tuple[DeviceGroup, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _one_host(self) -> Devices:
        types = [group.type for group in self.devices]
        if len(set(types)) < len(types):
            raise ValueError("devices: a type is given twice")
        if sum(group.kind == "cpu" for group in self.devices) > 1:
            raise ValueError("devices: one host has one device of kind cpu")
        return self


class Grouped(Protocol):
    """Equal devices, so many in one host."""

    @property
    def count(self) -> int:
        """How many."""

    @property
    def per_host(self) -> int | None:
        """How many are in one host; None for all, with all others of which it is not known."""


def host_numbers(groups: Sequence[Grouped]) -> tuple[int, ...]:
    """The host of every single device, from 0, group by group.

    Devices without `per_host` are together in host 0. Where all GPUs have a host of their own, the first of
    these is host 0, and the CPU (one device, without `per_host`) belongs to it.
    """
    apart = [group for group in groups if group.per_host is None and getattr(group, "kind", "gpu") == "gpu"]
    first = 1 if apart else 0
    found: list[int] = []
    for group in groups:
        if group.per_host is None:
            found += [0] * group.count
            continue
        found += [first + number // group.per_host for number in range(group.count)]
        first += -(-group.count // group.per_host)
    return tuple(found)
