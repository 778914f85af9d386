"""Simulates a served cascade, event by event and batch by batch.

What happens is told by `router.py` (admission, gears, threads), `model.py` (Triton's queues and instances),
`device.py` (what runs at the same time), `front.py` (how requests come in), `answers.py` (how they leave) and
`paths.py` (what tiers say).
"""

from __future__ import annotations

import gc
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from cascade_tools.planning.outcomes import Outcomes
from cascade_tools.planning.simulator.check import check
from cascade_tools.planning.simulator.clock import Clock
from cascade_tools.planning.simulator.device import Device
from cascade_tools.planning.simulator.front import Front
from cascade_tools.planning.simulator.ledger import Ledger
from cascade_tools.planning.simulator.model import Model, make_instance
from cascade_tools.planning.simulator.result import Simulated
from cascade_tools.planning.simulator.router import Router
from cascade_tools.planning.simulator.system import Recorded, ServiceTime, SimGear, SimTier, System
from cascade_tools.planning.simulator.thread import Thread
from cascade_tools.planning.simulator.tier import Tier
from cascade_tools.runtime.gears import Gears
from cascade_tools.runtime.plan import Fallback, GearInfo, Limits, Plan, TierInfo

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
REST_SEED = 0


def simulate(system: System, arrival_s: FloatArray, rows: IntArray, recorded: Recorded) -> Simulated:
    """Run a trace through a system; the same arguments give the same result.

    Args:
        system: what serves.
        arrival_s: when every request comes, from the beginning of the trace, ascending, float64 [requests].
        rows: which recorded row each of them is, int64 [requests].
        recorded: what the tiers say of the recorded rows.

    Raises:
        ValueError: the arguments do not fit together; the message names the field.
    """
    check(system, arrival_s, rows, recorded)
    with _no_collector():
        return _Run(system, arrival_s, rows, recorded).run()


@contextmanager
def _no_collector() -> Iterator[None]:
    """Millions of events and no cycles among them: looking for some takes a tenth of the time."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


class _Run:
    def __init__(self, system: System, arrival_s: FloatArray, rows: IntArray, recorded: Recorded) -> None:
        self._system = system
        self._arrival_s = arrival_s
        self._rows = rows
        self._recorded = recorded
        self._clock = Clock()
        self._devices = [Device(self._clock) for _ in system.devices]
        plan = _plan(system)
        every = [*plan.gears, *(gear for fallback in plan.fallbacks for gear in fallback.gears)]
        ladder = [tier.name for tier in system.tiers]
        self._ledger = Ledger(ladder, recorded, rows, every)
        self._models = [self._stages(tier) for tier in system.tiers]
        costs = system.router
        device = Device(self._clock) if costs.device is None else self._devices[costs.device]
        self._front = Front(self._clock, arrival_s.tolist(), lambda: self._router.wake())
        self._tiers = [
            self._tier(tier, models) for tier, models in zip(system.tiers, self._models, strict=True)
        ]
        self._router = Router(
            self._clock, costs, device, self._tiers, Gears(plan), self._ledger, self._front.come
        )

    def run(self) -> Simulated:
        for loss in self._system.losses:
            self._clock.at(loss.at_s, self._lose, loss.device)
        self._router.wake()
        self._clock.run()
        return self._result()

    def _lose(self, place: int) -> None:
        """All models see the loss before anybody asks again."""
        lost = [ask for models in self._models for model in models for ask in model.lose(place)]
        self._router.failed(lost)

    def _stages(self, tier: SimTier) -> list[Model]:
        """The models of a tier: none where the router runs it, several where it is cut into stages."""
        if tier.local:
            return []
        router = self._system.router
        models: list[Model] = []
        stages = len(tier.instances)
        parts = tier.stage_shares or (1.0 / stages,) * stages

        def following(number: int) -> Any:
            return self._done if number == stages - 1 else lambda asks: models[number + 1].put_all(asks)

        for number, places in enumerate(tier.instances):
            kinds = {place: tier.service[self._system.devices[place].type] for place in places}
            models.append(
                Model(
                    self._clock,
                    [
                        make_instance(place, self._devices[place], kinds[place], parts[number], tier.weight)
                        for place in places
                    ],
                    min([router.max_batch_size, *(len(kind.time_ms) for kind in kinds.values())]),
                    tier.preferred,
                    tier.queue_delay_ms / 1000.0,
                    following(number),
                    self._failed,
                )
            )
        return models

    def _done(self, asks: list[Thread]) -> None:
        self._router.done(asks)

    def _failed(self, asks: list[Thread]) -> None:
        self._router.failed(asks)

    def _tier(self, tier: SimTier, models: list[Model]) -> Tier:
        service = local_service(self._system, tier)
        planned_ms = float(service.time_ms[0]) if tier.planned_ms is None else tier.planned_ms
        energy = np.zeros(len(service.time_ms)) if service.energy_j is None else service.energy_j
        return Tier(
            name=tier.name,
            model=None if tier.local else models[0],
            alive=lambda: all(model.alive for model in models),
            local_s=[0.0, *(service.time_ms / 1000.0).tolist()],
            local_j=[0.0, *energy.tolist()],
            ask_s=tier.ask_ms / 1000.0,
            ask_core=tier.ask_cpu_ms / tier.ask_ms * self._system.router.core if tier.ask_ms > 0.0 else 0.0,
            planned_s=planned_ms / 1000.0,
            further_row_s=tier.further_row_ms / 1000.0,
        )

    def _result(self) -> Simulated:
        system, arrival_s = self._system, self._arrival_s
        done_s, tier, gear = self._ledger.outcomes()
        answered = tier >= 0
        rest_ms = np.random.default_rng(REST_SEED).choice(np.array(system.router.rest_ms), len(arrival_s))
        latency_ms = (done_s - arrival_s) * 1000.0 + rest_ms
        correct = np.zeros(len(tier), bool)
        correct[answered] = self._recorded.correct[self._rows[answered], tier[answered]]
        last_s = float(np.max(arrival_s + latency_ms / 1000.0, where=answered, initial=0.0))
        duration_s = max(last_s, float(arrival_s[-1]) if len(arrival_s) else 0.0, 1e-12)
        runs = [models[0] if models else own for models, own in zip(self._models, self._tiers, strict=True)]
        batches = np.array([run.batches for run in runs], np.int64)
        mean = np.array([run.rows for run in runs], np.float64)
        mean /= np.where(batches > 0, batches, np.nan)
        refused = int((gear < 0).sum())
        return Simulated(
            outcomes=Outcomes(arrival_s, latency_ms, tier, correct, gear),
            duration_s=duration_s,
            refused=refused,
            failed=int((~answered).sum()) - refused,
            busy_share=np.array([device.work_s for device in self._devices]) / duration_s,
            dynamic_j=self._dynamic_j(),
            idle_j=_idle_j(system, duration_s),
            gears=tuple(self._router.gears),
            mean_batch=mean,
            batches=batches,
            asked=np.array([tier.rows for tier in self._tiers], np.int64),
        )

    def _dynamic_j(self) -> float | None:
        """Energy of all batches; None where a tier that was asked does not know its own."""
        total = 0.0
        for spec, tier, models in zip(self._system.tiers, self._tiers, self._models, strict=True):
            if tier.rows and any(service.energy_j is None for service in spec.service.values()):
                return None
            total += tier.energy_j + sum(model.energy_j for model in models)
        return total


def local_service(system: System, tier: SimTier) -> ServiceTime:
    """What a tier takes where the router runs it: on the router's device, where that is counted."""
    place = system.router.device
    kind = None if place is None else system.devices[place].type
    return tier.service[kind] if kind in tier.service else next(iter(tier.service.values()))


def _plan(system: System) -> Plan:
    """What the runtime's `Gears` reads of a gear plan."""
    ladder = tuple(TierInfo(tier.name, tier.name, "", 0.0, 0.0, 0.0, None) for tier in system.tiers)
    return Plan(
        cascade="simulated",
        inputs=(),
        tokens=None,
        probabilities=False,
        ladder=ladder,
        gears=tuple(map(_gear_info, system.gears)),
        fallbacks=tuple(
            Fallback(without, tuple(map(_gear_info, gears))) for without, gears in system.fallbacks
        ),
        alpha=system.alpha,
        window_ms=system.window_ms,
        limits=Limits(system.router.rows_in_flight, system.router.max_batch_size, 0.0, 1, 0.0),
        digest="",
    )


def _gear_info(gear: SimGear) -> GearInfo:
    up_to_rps = math.inf if gear.up_to_rps is None else gear.up_to_rps
    return GearInfo(up_to_rps, gear.policy, gear.min_queue, gear.max_wait_ms)


def _idle_j(system: System, duration_s: float) -> float | None:
    watts = [device.idle_w for device in system.devices]
    known = [value for value in watts if value is not None]
    return sum(known) * duration_s if len(known) == len(watts) else None
