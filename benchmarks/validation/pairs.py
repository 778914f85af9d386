"""The pairs: policies of one cascade x rates x arrivals, each drawn or read once for server and simulator."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cascade_tools.artifacts import Frontier, Gear, GearPlan, PolicyTable
from cascade_tools.planning.evaluate import threshold_policy
from cascade_tools.planning.outcomes import FloatArray
from cascade_tools.planning.traces.generators import gamma, on_off, poisson
from cascade_tools.planning.traces.shape import counts_per_window
from cascade_tools.stages.trace_file import read_trace, shaped

CV = 4.0
SEED = 11
CHEAP = 0.5  # of the last gear's cost
TRACE_S, TRACE_MEAN_RPS = 600, 1000.0  # the trace file: its length, and its rate before it is scaled
# Shares of the policy's capacity, by how requests come.
RATES = {"poisson": (0.2, 0.5, 0.7, 0.85, 1.1), "gamma": (0.3, 0.6, 1.1), "trace": (0.3, 0.6, 1.1)}
QUICK_RATES = {"poisson": (0.5, 1.1), "gamma": (0.5,), "trace": (0.5,)}


@dataclass(frozen=True)
class Pair:
    """One policy under one load.

    Attributes:
        rate_share: mean rate over the policy's capacity.
    """

    policy: str
    kind: str
    rate_share: float

    @property
    def name(self) -> str:
        """As the table and the file show it."""
        return f"{self.policy} {self.kind} {self.rate_share:.0%}"


def gear_plans(plan: GearPlan, frontier: Frontier) -> dict[str, GearPlan]:
    """The plan with one gear, once per policy: the giant alone, the plan's last gear, a cheaper cascade."""
    last = plan.gears[-1]
    giant = threshold_policy([plan.ladder[-1].tier], [])
    several = [policy for policy in frontier.policies if len(policy.table.tiers) > 1]
    cheap = min(several, key=lambda policy: abs(policy.cost - CHEAP * last.predicted_cost))
    tables = {"giant": giant, "cascade": last.policy, "cheap": cheap.table}
    return {name: _with_gear(plan, last, table) for name, table in tables.items()}


def _with_gear(plan: GearPlan, gear: Gear, table: PolicyTable) -> GearPlan:
    only = gear.model_copy(update={"policy": table, "up_to_rps": None, "min_queue": 1, "max_wait_ms": 0.0})
    return plan.model_copy(update={"gears": (only,)})


def write_trace(path: Path) -> None:
    """A file of counts per second: a load that is on and off for some seconds over a steady one."""
    steady = poisson(0.6 * TRACE_MEAN_RPS, TRACE_S, SEED)
    bursts = on_off(0.8 * TRACE_MEAN_RPS, 0.0, 2.0, 2.0, TRACE_S, SEED + 1)
    count = counts_per_window(np.sort(np.concatenate([steady, bursts])))
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"{second},{number}" for second, number in enumerate(count.tolist())]
    path.write_text("\n".join(["second,count", *lines]) + "\n")


def arrivals(kind: str, rate_rps: float, seconds: float, trace: Path) -> FloatArray:
    """When requests come; those of the trace have its course, scaled so that their mean is the rate."""
    if kind == "poisson":
        return poisson(rate_rps, seconds, SEED)
    if kind == "gamma":
        return gamma(rate_rps, CV, seconds, SEED)
    window = (100.0, 100.0 + seconds)
    found = read_trace(trace)
    whole = shaped(found, str(trace), window, None, SEED)
    peak = float(counts_per_window(whole).max()) * rate_rps * seconds / len(whole)
    return shaped(found, str(trace), window, max(1.0, round(peak)), SEED)
