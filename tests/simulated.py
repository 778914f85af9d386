"""Small systems for the tests of the simulator: every figure can be worked out by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from cascade_tools.planning.simulator.engine import simulate
from cascade_tools.planning.simulator.result import Simulated
from cascade_tools.planning.simulator.system import (
    Recorded,
    ServiceTime,
    SimDevice,
    SimGear,
    SimRouter,
    SimTier,
    System,
)
from cascade_tools.runtime.plan import parse_policy
from cascade_tools.runtime.policy import Policy

GPU = "gpu"


def service(
    time_ms: float | Sequence[float], utilization: float = 1.0, energy_j: float | None = None, most: int = 8
) -> ServiceTime:
    """The same time for every batch size, or one for each."""
    times = np.full(most, time_ms) if isinstance(time_ms, int | float) else np.asarray(time_ms, np.float64)
    energy = None if energy_j is None else energy_j * np.arange(1, len(times) + 1)
    return ServiceTime(times, np.full(len(times), utilization), energy)


def tier(name: str, work: ServiceTime, *stages: tuple[int, ...], **more: Any) -> SimTier:
    return SimTier(name, {GPU: work}, stages or ((0,),), **more)


def chain(*names: str) -> Policy:
    """Every tier but the last answers from .5 up, else asks the next."""
    last = len(names) - 1
    routes = [{"cuts": [0.5], "to": [level + 1, -1]} for level in range(last)]
    table = {"tiers": list(names), "routes": [*routes, {"cuts": [], "to": [-1]}]}
    return parse_policy(table, "policy")


def system(*tiers: SimTier, devices: int = 1, gears: tuple[SimGear, ...] = (), **more: Any) -> System:
    """All tiers in a chain, a router that costs nothing, batches of up to 8."""
    router = {"max_batch_size": 8, "rows_in_flight": 10**6, "inline_entry_ms": 0.0} | more.pop("router", {})
    return System(
        tiers=tiers,
        devices=tuple(SimDevice(GPU) for _ in range(devices)),
        router=SimRouter(**router),
        gears=gears or (SimGear(None, chain(*(entry.name for entry in tiers))),),
        **more,
    )


def recorded(*confidence: Sequence[float]) -> Recorded:
    """Rows by what the tiers say; a tier is right where it is sure."""
    table = np.asarray(confidence, np.float32)
    correct = table >= 0.5
    correct[:, -1] = True
    return Recorded(table, correct)


def run(
    system: System, arrival_ms: Sequence[float], said: Recorded, rows: Sequence[int] | None = None
) -> Simulated:
    arrival = np.asarray(arrival_ms, np.float64) / 1000.0
    which: npt.NDArray[np.int64] = (
        np.zeros(len(arrival), np.int64) if rows is None else np.asarray(rows, np.int64)
    )
    return simulate(system, arrival, which, said)


def latency_ms(found: Simulated) -> list[float]:
    """To the microsecond; -1 for none."""
    return [float(x) for x in np.round(np.nan_to_num(found.outcomes.latency_ms, nan=-1.0), 3)]
