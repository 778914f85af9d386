"""What `place` decided: instances on devices."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from cascade_tools.artifacts.base import Artifact, Value
from cascade_tools.artifacts.profile import Origin


class PlacedInstances(Value):
    """Instances of one tier, or of one stage of it, on one device, and the load that the plan predicts.

    Attributes:
        stages: into how many the tier is cut; 1 is whole.
        stage: which of them, from 1.
        batch: rows of a batch that the plan counts with; None for the tier's, `Placement.batch`.
        device: index into the devices, in the order of the device file.
        busy_instances: mean number of busy instances at the planned rate, 0..count.
        rows_rps: rows that they take at the planned rate; None in files of older plans.
    """

    tier: str
    stages: int = Field(default=1, ge=1)
    stage: int = Field(default=1, ge=1)
    batch: int | None = None
    device: int
    count: int = Field(ge=1)
    busy_instances: float
    rows_rps: float | None = None


class PlacedDevice(Value):
    """One device of the plan.

    Attributes:
        gpu: its index among the GPUs of its host, None on a CPU.
        host: number of the host that it is in.
        used_memory_mib: of the instances on it; `memory_mib` is all that it has.
        busy_share: at the planned rate, 0..1.
    """

    type: str
    kind: Literal["cpu", "gpu"]
    gpu: int | None
    host: int = 0
    memory_mib: int
    used_memory_mib: float
    busy_share: float


class Lost(Value):
    """What is left without one device, or without one host; the other instances are as they are.

    Attributes:
        what: of which kind each of `which` is.
        which: numbers of devices, or of hosts; the loss of any one of them leaves the same.
        homeless: tiers that have no instance, or no whole chain of stages, any more.
        by_routes: the homeless are done without by routes of their own, the fallback gears of the gear plan.
            Where there are no models the next larger tier takes their rows, as the router does without them;
            and of tiers that no rows reach, none have to be taken.
        router_gone: the router was on it: nobody asks the tiers any more.
        reach: share of all rows that each tier sees then; empty without a rate.
        rate_rps: the highest that is sustained so; None if nothing is left.
        busiest_share: the largest busy share of a device at the planned rate, or at all that is left.
        busy_share: of each device then, without the first of `which`; empty where there are many devices.
    """

    what: Literal["device", "host"]
    which: tuple[int, ...]
    homeless: tuple[str, ...] = ()
    by_routes: bool = False
    router_gone: bool = False
    reach: dict[str, float] = Field(default_factory=dict)
    rate_rps: float | None
    busiest_share: float | None = None
    busy_share: tuple[float, ...] = ()


class Taken(Value):
    """What a simpler way to place takes for the goal's rate.

    Attributes:
        devices: in use.
        value: what the goal counts, as `Placement.value`.
    """

    devices: int
    value: float


class Placement(Artifact):
    """Instances per tier, stage and device; verified after solving.

    Attributes:
        rate_rps: that the instances sustain, or the given one where the goal gives one.
        bound_rps: proven: no placement by this rule sustains more.
        gap: distance of `value` to `bound`, as a fraction of the larger.
        method: which search found it, or the baseline that nothing beats.
        minimise: what is least at a given rate; None for the highest rate.
        value: what the goal counts: rows/s, GPUs in use, or watts; None in files of older plans.
        bound: proven: no placement does better.
        could_rps: that the instances could sustain: `rate_rps`, or more where the goal gives that; None in
            files of older plans.
        giant_only_rps: rate of the last tier alone on all these devices; None where it does not fit.
        baselines: rows/s of simpler ways to place, by name; None where there is none.
        baselines_take: what these take, by name, where the goal gives a rate; None for one that does not
            sustain it.
        batch: rows of a batch, by tier: of the instances that do most of its work.
        figures: where the times, utilization and memory come from that this is predicted with; the least of
            them counts. `energy_figures` likewise, for the energy.
        energy_j: dynamic energy of one row; None where it is not known of every tier.
        giant_energy_j: likewise, of the last tier alone.
        energy_batches: of which batch these are, by tier, where they are of another than the planned one.
        losses: for every single device and host.
        router_rps: what the processes of the router take at most; None where it is not known.
        notes: what the figures leave out, in words.
    """

    kind: Literal["placement"] = "placement"
    rule: Literal["strict", "loose"] = "loose"
    closure: Literal["pool", "host"] = "pool"
    rate_rps: float
    bound_rps: float
    gap: float
    status: str
    method: str = "direct"
    minimise: Literal["gpus", "energy"] | None = None
    value: float | None = None
    bound: float | None = None
    could_rps: float | None = None
    giant_only_rps: float | None
    baselines: dict[str, float | None] = Field(default_factory=dict)
    baselines_take: dict[str, Taken | None] = Field(default_factory=dict)
    batch: dict[str, int]
    figures: Origin = "measured"
    energy_figures: Origin | None = None
    energy_j: float | None = None
    giant_energy_j: float | None = None
    energy_batches: dict[str, int] = Field(default_factory=dict)
    devices: tuple[PlacedDevice, ...]
    instances: tuple[PlacedInstances, ...]
    losses: tuple[Lost, ...] = ()
    router_rps: float | None = None
    notes: tuple[str, ...] = ()

    def count(self, tier: str) -> int:
        """Instances of one tier on all devices; of the first stage, where it is cut."""
        return sum(placed.count for placed in self.instances if placed.tier == tier and placed.stage == 1)
