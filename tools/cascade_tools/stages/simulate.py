"""Simulates a planned cascade under load and says what came of it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from cascade_tools.artifacts import Origin
from cascade_tools.errors import UsageError
from cascade_tools.planning.outcomes import FloatArray
from cascade_tools.planning.simulator.engine import simulate
from cascade_tools.planning.simulator.result import Simulated
from cascade_tools.planning.simulator.system import Loss, System
from cascade_tools.stages.place import ORIGINS
from cascade_tools.stages.planned_slo import slo_of
from cascade_tools.stages.simulated import Planned, load_planned, make_system, recorded_of, with_losses
from cascade_tools.store import Workspace

NO_ROUTER_COSTS = "the profile does not know what router and front end cost, so they cost nothing here"
NO_HOP = "the profile does not know what a call of a tier costs, so it costs nothing here"


@dataclass(frozen=True)
class SimulationReport:
    """What is simulated; every figure is.

    Attributes:
        offered_rps: requests over the time in which they come.
        goodput: share of all requests that is answered within the SLO.
        shares: of the answers, by tier.
        asked: rows that each tier sees.
        mean_batch: rows of a batch, by tier; None for one that is not asked.
        refused: requests that admission refuses; `failed` are those that no tier answers.
        gear_shares: of the admitted requests, by gear; those of fallbacks have a name.
        gear_timeline: since when (s) which gear.
        busy_share: by device.
        dynamic_j: energy of the batches, None where it is not known; `idle_j` what the devices draw anyway.
        dynamic_j_per_answer: likewise, over the answers.
        energy_figures: where the profile has the energy of the placed tiers from; the least of them counts.
    """

    cascade: str
    requests: int
    seconds: float
    offered_rps: float
    throughput_rps: float
    slo_ms: float
    slo_from: str
    goodput: float
    accuracy: float | None
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    shares: dict[str, float]
    asked: dict[str, int]
    mean_batch: dict[str, float | None]
    refused: int
    failed: int
    gear_shares: dict[str, float]
    gear_changes: int
    gear_timeline: list[tuple[float, str]]
    busy_share: dict[str, float]
    dynamic_j: float | None
    dynamic_j_per_answer: float | None
    energy_figures: Origin | None
    idle_j: float | None
    energy_j: float | None
    warnings: list[str]


def simulate_load(
    work: Workspace,
    arrival_s: FloatArray,
    losses: tuple[Loss, ...] = (),
    slo_ms: float | None = None,
    seed: int = 0,
    client_here: bool = False,
) -> SimulationReport:
    """Run arrivals through a planned cascade, with rows drawn from its held-out ones.

    Args:
        work: with all stages up to the gears.
        arrival_s: float64 [requests], ascending, at least one.
        losses: devices that are lost meanwhile.
        slo_ms: None for three times what the plan gives the last tier.
        seed: of the rows.
        client_here: the client is on the router's machine and takes of its CPU time, too.

    Raises:
        ArtifactError: a stage has not run.
        UsageError: the cascade has no models; a loss names no device, or the router's.
    """
    if not work.cascade.has_models:
        raise UsageError(
            f"{work.cascade.name}: has no models, so there are no rows to simulate and no gears",
            f"`{work.command('place')}` says what it sustains, and what is left without each device",
        )
    planned = load_planned(work)
    recorded = recorded_of(work)
    system = with_losses(make_system(planned, client_here), losses)
    rows = np.random.default_rng(seed).integers(0, len(recorded.confidence), len(arrival_s))
    found = simulate(system, arrival_s, rows, recorded)
    warnings = [NO_ROUTER_COSTS] if planned.profile.router is None else []
    warnings += [NO_HOP] if planned.profile.hop is None else []
    return _report(planned, system, found, slo_of(planned.plan, slo_ms), warnings)


def _report(
    planned: Planned, system: System, found: Simulated, slo: tuple[float, str], warnings: list[str]
) -> SimulationReport:
    plan, outcomes = planned.plan, found.outcomes
    answered = int(outcomes.answered.sum())
    tiers = [tier.name for tier in system.tiers]
    gears = [str(number) for number in range(len(plan.gears))] + [
        f"without {' '.join(entry.without)}" for entry in plan.fallbacks for _ in entry.gears
    ]
    served = outcomes.gear[outcomes.gear >= 0]
    count = np.bincount(served, minlength=len(gears)) / max(1, len(served))
    return SimulationReport(
        cascade=plan.cascade,
        requests=len(outcomes.arrival_s),
        seconds=found.duration_s,
        offered_rps=len(outcomes.arrival_s) / max(float(outcomes.arrival_s[-1]), 1e-9),
        throughput_rps=outcomes.throughput_rps(),
        slo_ms=slo[0],
        slo_from=slo[1],
        goodput=outcomes.goodput(slo[0]),
        accuracy=_known(outcomes.accuracy()),
        p50_ms=_known(outcomes.latency_quantile_ms(0.5)),
        p95_ms=_known(outcomes.latency_quantile_ms(0.95)),
        p99_ms=_known(outcomes.latency_quantile_ms(0.99)),
        shares=dict(zip(tiers, outcomes.shares(len(tiers)).tolist(), strict=True)),
        asked=dict(zip(tiers, found.asked.tolist(), strict=True)),
        mean_batch=dict(zip(tiers, map(_known, found.mean_batch.tolist()), strict=True)),
        refused=found.refused,
        failed=found.failed,
        gear_shares={gear: share for gear, share in zip(gears, count.tolist(), strict=True) if share > 0.0},
        gear_changes=max(0, len(found.gears) - 1),
        gear_timeline=[(time_s, gears[number]) for time_s, number in found.gears],
        busy_share={
            f"{number} ({device.type})": share
            for number, (device, share) in enumerate(
                zip(system.devices, found.busy_share.tolist(), strict=True)
            )
        },
        dynamic_j=found.dynamic_j,
        dynamic_j_per_answer=None if found.dynamic_j is None or not answered else found.dynamic_j / answered,
        energy_figures=None if found.dynamic_j is None else _energy_figures(planned),
        idle_j=found.idle_j,
        energy_j=found.energy_j,
        warnings=warnings,
    )


def _energy_figures(planned: Planned) -> Origin | None:
    """The least origin of what is known of the energy of the placed tiers."""
    devices = planned.placement.devices
    there = {(placed.tier, devices[placed.device].type) for placed in planned.placement.instances}
    origins = {
        point.energy_origin
        for point in planned.profile.points
        if (point.tier, point.device) in there and point.energy_origin is not None
    }
    return max(origins, key=ORIGINS.index, default=None)


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
