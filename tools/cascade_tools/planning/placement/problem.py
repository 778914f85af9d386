"""What is placed, where, by which rule and towards which goal; and the answer.

A *variant* is one way to run a tier: whole or cut into equal stages, in batches of one size. A tier may run
as several variants at once, each of them complete. A *unit* is one stage of one variant of one tier: what
instances are made of. Counts and loads are arrays [units, devices].
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

Rule = Literal["strict", "loose"]
Closure = Literal["pool", "host"]
FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Variant:
    """One way to run a tier. Mappings are by device type; a type that is missing cannot run it.

    Attributes:
        stages: into how many equal models it is cut; 1 is the whole model.
        batch: rows of one batch.
        seconds_per_row: of one instance of one stage: its time for a batch over the batch.
        utilization: kernel utilization of one busy instance, (0, 1].
        memory_mib: what the first instance of one stage takes on a device, headroom included.
        further_mib: what each further one takes there: `memory_mib` where every instance holds its own
            weights (ONNX Runtime, dynamic TensorRT plans), less where they are shared (static plans).
        energy_j: dynamic energy of one row in one stage; empty where it is not known.
    """

    stages: int
    batch: int
    seconds_per_row: dict[str, float]
    utilization: dict[str, float]
    memory_mib: int
    further_mib: int
    energy_j: dict[str, float] = field(default_factory=dict)

    def held_mib(self, count: int) -> int:
        """What `count` instances of one stage take on one device."""
        return self.memory_mib + (count - 1) * self.further_mib if count > 0 else 0


@dataclass(frozen=True)
class TierLoad:
    """One tier's needs.

    Attributes:
        reach: share of all rows that it sees, 0..1.
        variants: the ways to run it, at least one.
        instances: no device may hold more, where somebody else has set them; None for any number.
        overhead: it is none of the tiers, but what serving them takes of a host beside them. It has one
            variant, one instance on one device, and is not resident: under the strict rule it counts as it
            is busy.
        alone: what of an overhead there is where the last tier answers alone; None for nothing.
    """

    name: str
    reach: float
    variants: tuple[Variant, ...]
    instances: int | None = None
    overhead: bool = False
    alone: Variant | None = None


@dataclass(frozen=True)
class Device:
    """One device.

    Attributes:
        memory_mib: that instances may take: what is reserved is off.
        host: number of the host that it is in; all stages of one chain are in one host.
        idle_w: what it draws while it is in use and has nothing to do.
    """

    type: str
    memory_mib: int
    host: int = 0
    idle_w: float = 0.0


@dataclass(frozen=True)
class Goal:
    """The highest rate, or the least of something at a given rate (rows/s); then the fewest transfers."""

    rate_rps: float | None = None
    minimise: Literal["gpus", "energy"] = "gpus"


class Unit(NamedTuple):
    """One stage, counted from 0, of one variant of one tier, as positions in the problem."""

    tier: int
    variant: int
    stage: int


@dataclass(frozen=True)
class Problem:
    """A whole placement problem.

    Attributes:
        rule: `strict`: kernel utilizations of the resident instances of a device sum to at most 1
            (HybridServe); `loose`: its busy share is at most 1 (CascadeServe).
        closure: `pool`: a tier may live on other hosts than the others; `host`: each host in use holds all.
        at_least: instances [units, devices] that are wanted anyhow, if they fit beside the others.
    """

    tiers: tuple[TierLoad, ...]
    devices: tuple[Device, ...]
    rule: Rule = "loose"
    goal: Goal = Goal()
    closure: Closure = "pool"
    at_least: IntArray | None = None

    @cached_property
    def units(self) -> tuple[Unit, ...]:
        """All units: tiers in order, then their variants, then the stages."""
        return tuple(
            Unit(i, v, s)
            for i, tier in enumerate(self.tiers)
            for v, variant in enumerate(tier.variants)
            for s in range(variant.stages)
        )

    @cached_property
    def hosts(self) -> IntArray:
        """Host of each device, counted from 0, [devices]."""
        hosts = [device.host for device in self.devices]
        return np.unique(hosts, return_inverse=True)[1].astype(np.int64)

    def variant(self, unit: Unit) -> Variant:
        """The variant that a unit is a stage of."""
        return self.tiers[unit.tier].variants[unit.variant]


@dataclass(frozen=True)
class Solution:
    """Instances and their load.

    Attributes:
        count: instances, int64 [units, devices].
        busy: mean number of busy instances at `rate_rps`, float64 [units, devices].
        rate_rps: what `count` sustains, by a linear program over the loads; the goal's, where it gives one.
        bound: proven: no placement has a higher rate, or uses fewer GPUs or less power, by the goal.
        value: what the goal counts: rows/s, GPUs in use, or watts (idle and dynamic).
        status: `optimal`, or why the search ended.
        method: which search found it: `direct`, `patterns`, or the name of a baseline.
    """

    count: IntArray
    busy: FloatArray
    rate_rps: float
    value: float
    bound: float
    status: str
    method: str

    @property
    def gap(self) -> float:
        """Distance of the value to the proven bound, as a fraction of the larger of both."""
        larger = max(abs(self.value), abs(self.bound))
        return abs(self.value - self.bound) / larger if larger > 0.0 else 0.0
