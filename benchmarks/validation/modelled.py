"""The simulator's side of the validation: the planned digits with one policy at a time."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Any

import numpy as np

from benchmarks.validation.pace import Pace, at_pace
from benchmarks.validation.pairs import gear_plans
from benchmarks.validation.verdict import Figures, figures_of, middle
from cascade_tools.artifacts import Frontier, GearPlan
from cascade_tools.errors import CascadeError
from cascade_tools.planning.outcomes import FloatArray, Outcomes
from cascade_tools.planning.simulator.engine import simulate
from cascade_tools.planning.traces.generators import poisson
from cascade_tools.stages.calibrate import SCORES_FILE
from cascade_tools.stages.gears import GEARS_FILE
from cascade_tools.stages.place import PLACEMENT_FILE
from cascade_tools.stages.profile import PROFILE_FILE
from cascade_tools.stages.search import FRONTIER_FILE
from cascade_tools.stages.simulated import load_planned, make_system, recorded_of
from cascade_tools.store import Workspace

OVERLOAD = 1.5
SEED = 3


class Modelled:
    """The cascade as it was planned and profiled.

    Attributes:
        plan: of the cascade; `plans` those of the policies.
        made_from: digests of the artifacts that decide what is simulated.
    """

    def __init__(self, work: Workspace) -> None:
        self.plan = work.load(GEARS_FILE, GearPlan, "gears")
        self.plans = gear_plans(self.plan, work.load(FRONTIER_FILE, Frontier, "search"))
        self._planned = load_planned(work)
        self._recorded = recorded_of(work)
        files = (PROFILE_FILE, PLACEMENT_FILE, FRONTIER_FILE, GEARS_FILE, SCORES_FILE)
        self.made_from = {name: sha256(work.path(name).read_bytes()).hexdigest() for name in files}
        if self._planned.profile.router is None:
            raise CascadeError(
                "the profile does not know what the router costs", f"run `{work.command('profile')}` again"
            )

    def draw(self, count: int) -> Any:
        """The held-out rows that are asked for."""
        return np.random.default_rng(SEED).integers(0, len(self._recorded.confidence), count)

    def simulate(self, policy: str, arrival_s: FloatArray, pace: Pace | None = None) -> Outcomes:
        """One run, simulated; the client is on the same machine, whose cores have the pace of a real run."""
        system = make_system(self._planned._replace(plan=self.plans[policy]), client_here=True)

        def at_full_speed(times_s: FloatArray) -> Outcomes:
            return simulate(system, times_s, self.draw(len(times_s)), self._recorded).outcomes

        return at_full_speed(arrival_s) if pace is None else at_pace(at_full_speed, arrival_s, pace)

    def at_speed(self, policy: str, arrival_s: FloatArray, paces: Sequence[Pace], slo_ms: float) -> Figures:
        """Medians over real runs, each simulated on cores of its pace."""
        tiers = len(self.plan.ladder)
        runs = [self.simulate(policy, arrival_s, pace) for pace in paces]
        return middle([figures_of(run, slo_ms, tiers) for run in runs])

    def capacity_rps(self, policy: str, measured_rps: float, seconds: float) -> float:
        """Answers per second in a flood of half as many again as were measured."""
        flood = poisson(OVERLOAD * measured_rps, seconds, SEED)
        return self.simulate(policy, flood).throughput_rps()
