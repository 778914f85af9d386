"""What the simulator says of one gear at one steady rate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from cascade_tools.artifacts import PredictedPolicy
from cascade_tools.planning.gears.question import Forecast, Trigger
from cascade_tools.planning.outcomes import Outcomes
from cascade_tools.planning.placement.problem import IntArray
from cascade_tools.planning.simulator.engine import simulate
from cascade_tools.planning.simulator.system import Recorded, SimGear, System
from cascade_tools.runtime.plan import parse_policy

SECONDS = 4.0
FEWEST, MOST = 2000, 12000  # requests of one run


class Forecaster:
    """Simulates a policy as the only gear, under Poisson arrivals of one rate.

    All runs draw the same random numbers, so that two of them differ by what is simulated alone.

    Args:
        system_of: what serves with instances [units, devices]; its gears play no part.
        recorded: what the tiers say of the rows that requests are drawn from.
        seed: of arrivals and rows.
    """

    def __init__(self, system_of: Callable[[IntArray], System], recorded: Recorded, seed: int) -> None:
        self._system_of = system_of
        self._recorded = recorded
        self._seed = seed
        self._systems: dict[bytes, System] = {}
        self._known: dict[tuple[bytes, str, float, Trigger], Forecast] = {}

    def __call__(
        self, count: IntArray, policy: PredictedPolicy, rate_rps: float, trigger: Trigger
    ) -> Forecast:
        """The forecast; the same arguments give the same."""
        key = (count.tobytes(), policy.table.model_dump_json(), rate_rps, trigger)
        if key not in self._known:
            self._known[key] = self._simulated(count, policy, rate_rps, trigger)
        return self._known[key]

    def _simulated(
        self, count: IntArray, policy: PredictedPolicy, rate_rps: float, trigger: Trigger
    ) -> Forecast:
        placed = count.tobytes()
        if placed not in self._systems:
            self._systems[placed] = self._system_of(count)
        table = parse_policy(policy.table.model_dump(), "policy")
        gear = SimGear(None, table, trigger.min_queue, trigger.max_wait_ms)
        system = replace(self._systems[placed], gears=(gear,), fallbacks=(), losses=())
        draw = np.random.default_rng(self._seed)
        requests = int(np.clip(rate_rps * SECONDS, FEWEST, MOST))
        gaps = draw.exponential(1.0, requests)
        arrival_s = np.cumsum(gaps) * (requests / rate_rps / gaps.sum())
        rows = draw.integers(len(self._recorded.confidence), size=requests)
        found = simulate(system, arrival_s, rows, self._recorded)
        answers = int(found.outcomes.answered.sum())
        joule = found.dynamic_j
        return Forecast(
            rate_rps=rate_rps,
            throughput_rps=rate_rps * _kept_up(found.outcomes),
            p50_ms=_quantile_ms(found.outcomes, 0.5),
            p95_ms=_quantile_ms(found.outcomes, 0.95),
            p99_ms=_quantile_ms(found.outcomes, 0.99),
            energy_j=None if joule is None or not answers else (joule + (found.idle_j or 0.0)) / answers,
            busy_share=float(found.busy_share.max()),
        )


def _kept_up(outcomes: Outcomes) -> float:
    """Answers over arrivals in the second half of a run: what is on its way at its end does not count."""
    half, end = outcomes.arrival_s[-1] / 2.0, outcomes.arrival_s[-1]
    done_s = outcomes.arrival_s + outcomes.latency_ms / 1000.0
    arrived = int((outcomes.arrival_s > half).sum())
    return float(((done_s > half) & (done_s <= end)).sum()) / max(1, arrived)


def _quantile_ms(outcomes: Outcomes, share: float) -> float:
    """Of all requests; one without an answer waits for ever."""
    times = np.where(outcomes.answered, outcomes.latency_ms, np.inf)
    return float(np.quantile(times, share, method="higher"))
