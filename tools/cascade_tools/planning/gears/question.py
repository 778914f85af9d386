"""What is asked of the gears, what is known of one at a rate, and the answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from cascade_tools.artifacts import PredictedPolicy
from cascade_tools.planning.gears.rates import FloatArray, RateBins
from cascade_tools.planning.placement.problem import IntArray, Problem
from cascade_tools.spec import Slo

TIME_LIMIT_S = 5.0
MOST_NEIGHBOURS = 40


class Trigger(NamedTuple):
    """The batch trigger: rows that the first tier waits for (CascadeServe), and how long at most."""

    min_queue: int = 1
    max_wait_ms: float = 0.0


@dataclass(frozen=True)
class Forecast:
    """What the simulator says of one policy on one placement at one steady rate.

    Attributes:
        rate_rps: the rate of the arrivals, and `throughput_rps` that of the answers.
        p50_ms: latency of the answers, and `p95_ms` and `p99_ms` likewise; infinite without answers.
        energy_j: of one answer; None where it is not known.
        busy_share: of the busiest device.
    """

    rate_rps: float
    throughput_rps: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    energy_j: float | None
    busy_share: float


Simulation = Callable[[IntArray, PredictedPolicy, float, Trigger], Forecast]
"""Instances [units, devices], a policy, a rate (rows/s), a batch trigger."""


@dataclass(frozen=True)
class GearQuestion:
    """All that the gears are planned from.

    Attributes:
        policies: a frontier; each with its accuracy, and its modelled energy and latency where known.
        reach_of: what a policy asks of each tier of `problem`, [tiers].
        problem: the placement problem; its own reach and goal play no part.
        target_busy_share: no device may be busier at any planned rate.
        forecast: must be a function of its arguments alone.
        largest_trigger: rows that a batch trigger may wait for at most.
        placement: instances [units, devices] that cannot be changed; None where they are to be found.
        time_limit_s: of one placement.
        most_neighbours: placements near the best one that are tried.
    """

    policies: tuple[PredictedPolicy, ...]
    reach_of: Callable[[PredictedPolicy], tuple[float, ...]]
    problem: Problem
    rates: RateBins
    slo: Slo
    target_busy_share: float
    forecast: Simulation
    largest_trigger: int = 32
    placement: IntArray | None = None
    time_limit_s: float = TIME_LIMIT_S
    most_neighbours: int = MOST_NEIGHBOURS


@dataclass(frozen=True)
class PlannedGear:
    """One gear; it serves one or several bins of rates, `up_to_rps` None for the last.

    `forecast` is for the highest rate that is planned for it.
    """

    policy: PredictedPolicy
    up_to_rps: float | None
    trigger: Trigger
    forecast: Forecast


@dataclass(frozen=True)
class PlannedGears:
    """One placement, and the gears that it serves; means are over the requests of all bins.

    Attributes:
        count: instances [units, devices].
        busy_share: of the busiest device at the planned rates if its rows are shared evenly, 0..1.
        sustains_rps: with the last gear's policy.
        p95_ms: mean of the bins' p95 at their highest rates, and `p99_ms` likewise.
        rounds: how often the cycle went round.
    """

    count: IntArray
    gears: tuple[PlannedGear, ...]
    accuracy: float
    p95_ms: float
    p99_ms: float
    energy_j: float | None
    busy_share: float
    sustains_rps: float
    rounds: int


def means(weights: FloatArray, found: tuple[Forecast, ...]) -> tuple[float, float, float | None]:
    """Means of p95, p99 and energy over the requests of all bins."""
    joule = [one.energy_j for one in found]
    known = [j for j in joule if j is not None]
    return (
        float(sum(w * f.p95_ms for w, f in zip(weights.tolist(), found, strict=True))),
        float(sum(w * f.p99_ms for w, f in zip(weights.tolist(), found, strict=True))),
        float(weights @ known) if len(known) == len(joule) else None,
    )
