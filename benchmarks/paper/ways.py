"""Ways to serve the digits on one host, simulated: one model, gears of single models, gears of cascades."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations, pairwise

import numpy as np
import numpy.typing as npt

from benchmarks.paper.served import Gears, cores_of
from benchmarks.paper.setting import SEED, Setting
from cascade_tools.artifacts import Frontier, PolicyTable
from cascade_tools.errors import UsageError
from cascade_tools.planning.evaluate import Evaluator, threshold_policy
from cascade_tools.planning.outcomes import Outcomes
from cascade_tools.planning.simulator.engine import simulate
from cascade_tools.planning.simulator.system import NOTHING, Recorded, SimGear, System
from cascade_tools.planning.traces.generators import diurnal, poisson
from cascade_tools.runtime.plan import parse_policy
from cascade_tools.stages.profile import PROFILE_FILE
from cascade_tools.stages.search import FRONTIER_FILE
from cascade_tools.stages.simulated import system_of

LOW = 0.2  # lowest rate of a trace, as a share of the highest
PERIODS = 2
SLO_SHARE = 0.95
FLOOD_RPS, FLOOD_S = 5000.0, 1.5
HOPELESS = 2.0  # times what is held: whoever's rate goes so high keeps no SLO
BUSY = 0.8  # of what a gear sustains, before the next one takes over
CASCADES = 6
WIDEST_POINTS = 6.0
NO_LIMIT = 2**31  # of rows in flight; more than any trace has

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Trace:
    """What one host gets: arrivals, and the test row of each."""

    arrival_s: FloatArray
    rows: IntArray


class Host:
    """One device: a host like this machine with its own server, as the simulator knows it.

    Args:
        system: of the planned cascade on it.
        recorded: what the tiers say of the test rows.
        seconds: length of a trace.
    """

    def __init__(self, system: System, recorded: Recorded, seconds: float) -> None:
        self.system = system
        self.recorded = recorded
        self.seconds = seconds
        self._traces: dict[float, Trace] = {}

    def trace(self, rate_rps: float) -> Trace:
        """Poisson arrivals whose rate goes up to `rate_rps` and back."""
        if rate_rps not in self._traces:
            arrival_s = diurnal(rate_rps, LOW * rate_rps, self.seconds / PERIODS, self.seconds, SEED)
            self._traces[rate_rps] = self._with_rows(arrival_s)
        return self._traces[rate_rps]

    def _with_rows(self, arrival_s: FloatArray) -> Trace:
        rng = np.random.default_rng(SEED)
        return Trace(arrival_s, rng.integers(0, len(self.recorded.correct), len(arrival_s)))

    def run(self, system: System, trace: Trace) -> Outcomes:
        """Simulate a trace."""
        return simulate(system, trace.arrival_s, trace.rows, self.recorded).outcomes

    def capacity_rps(self, system: System) -> float:
        """What is answered in a flood, requests/s."""
        return self.run(system, self._with_rows(poisson(FLOOD_RPS, FLOOD_S, SEED))).throughput_rps()

    def giant_accuracy(self, trace: Trace) -> float:
        """What the giant alone would get right of a trace's rows."""
        return float(self.recorded.correct[trace.rows, -1].mean())


class Served:
    """One way to serve on a host.

    Attributes:
        label: for the tables.
        most_rps: what its fastest policy holds.
        model: of the server that is asked directly; None for a router with `gears`.
    """

    def __init__(
        self,
        host: Host,
        label: str,
        system: System,
        gears: Gears,
        most_rps: float,
        model: str | None = None,
    ) -> None:
        self.host = host
        self.label = label
        self.system = system
        self.gears = gears
        self.most_rps = most_rps
        self.model = model
        self._seen: dict[float, tuple[float, float]] = {}

    def seen(self, rate_rps: float) -> tuple[float, float]:
        """P95 of all requests (infinite if too few are answered), and points of accuracy below the giant."""
        if rate_rps not in self._seen:
            trace = self.host.trace(rate_rps)
            outcomes = self.host.run(self.system, trace)
            self._seen[rate_rps] = figures(outcomes, self.host.giant_accuracy(trace))
        return self._seen[rate_rps]

    def keeps(self, rate_rps: float, slo_ms: float, allowance: float) -> bool:
        """See `Way`."""
        if rate_rps > HOPELESS * self.most_rps:
            return False
        p95_ms, points = self.seen(rate_rps)
        return p95_ms <= slo_ms and points <= allowance + 1e-9


def figures(outcomes: Outcomes, giant_accuracy: float) -> tuple[float, float]:
    """P95 in ms over all requests, the unanswered ones infinite; and points below the giant."""
    times = np.where(outcomes.answered, outcomes.latency_ms, np.inf)
    p95_ms = float(np.quantile(times, SLO_SHARE, method="higher"))
    return p95_ms, 100.0 * (giant_accuracy - outcomes.accuracy())


def single_models(setting: Setting, host: Host) -> list[Served]:
    """One model for all rates, asked without any router; the cheapest first."""
    found = []
    for tier in setting.cascade.tier_names:
        policy = threshold_policy([tier], [])
        model = next(info.model for info in setting.plan.ladder if info.tier == tier)
        system = direct(host.system, tier)
        found.append(Served(host, tier, system, ((None, policy),), host.capacity_rps(system), model))
    return found


def model_switching(setting: Setting, host: Host) -> list[Served]:
    """Every set of models as gears, the most accurate first."""
    policies = {tier: threshold_policy([tier], []) for tier in reversed(setting.cascade.tier_names)}
    return _in_gears(host, list(policies.values()), len(policies))


def cascades(setting: Setting, host: Host) -> list[Served]:
    """Policies of the search's frontier and single models, alone and in pairs; the most accurate first."""
    tiers = setting.cascade.tier_names
    frontier = setting.work.load(FRONTIER_FILE, Frontier, "search").policies
    best = max(policy.accuracy for policy in frontier)
    near = [p for p in frontier if 100.0 * (best - p.accuracy) <= WIDEST_POINTS]
    near.sort(key=lambda policy: -policy.accuracy)
    picked = {near[i].table for i in np.linspace(0, len(near) - 1, CASCADES).round().astype(int).tolist()}
    alone = [threshold_policy([tier], []) for tier in tiers]
    judged = Evaluator(setting.scores.part("search"), setting.question)
    known = [judged(table) for table in dict.fromkeys([*alone, *picked])]
    known.sort(key=lambda policy: -policy.accuracy)
    return _in_gears(host, [policy.table for policy in known], 2)


def _in_gears(host: Host, policies: list[PolicyTable], most: int) -> list[Served]:
    """Up to so many of these policies as gears, in every way in which rates grow from gear to gear."""
    rate = {policy: BUSY * host.capacity_rps(_routed(host.system, ((None, policy),))) for policy in policies}
    found = []
    for count in range(1, most + 1):
        for chosen in combinations(policies, count):
            if any(rate[one] >= rate[other] for one, other in pairwise(chosen)):
                continue
            gears: Gears = (*((rate[policy], policy) for policy in chosen[:-1]), (None, chosen[-1]))
            label = "; ".join(" > ".join(policy.tiers) for policy in chosen)
            most_rps = max(rate[policy] for policy in chosen) / BUSY
            found.append(Served(host, label, _routed(host.system, gears), gears, most_rps))
    return found


def _routed(system: System, gears: Gears) -> System:
    parsed = tuple(
        SimGear(up_to_rps, parse_policy(policy.model_dump(), "policy")) for up_to_rps, policy in gears
    )
    return replace(system, gears=parsed, fallbacks=())


def direct(system: System, tier: str) -> System:
    """The model of a tier asked by clients: without the router, its admission and its late answers.

    What a batch costs the server stays: it is handed to the model's process as it is to the router's.
    """
    router = replace(
        system.router,
        own=NOTHING,
        server=replace(system.router.server, late_ms=0.0),
        inline_entry_ms=0.0,
        rows_in_flight=NO_LIMIT,
        escalation_threads=system.router.rows_in_flight,
    )
    tiers = tuple(
        replace(own, local=False, ask_ms=0.0, ask_cpu_ms=0.0) if own.name == tier else own
        for own in system.tiers
    )
    policy = threshold_policy([tier], [])
    return _routed(replace(system, router=router, tiers=tiers), ((None, policy),))


def one_host(setting: Setting) -> Host:
    """This machine as the digits are planned on it, every called tier with an instance per core at least.

    Args:
        setting: has the plan.

    Raises:
        UsageError: the profile is older than the router's costs in it.
    """
    if setting.profile.router is None:
        raise UsageError(
            f"{setting.work.path(PROFILE_FILE)}: does not know what the router costs",
            f"run `{setting.work.command('profile')}` and `{setting.work.command('run')}` again",
        )
    rows, logits = setting.test_part(len(setting.test_rows))
    table = setting.table(rows, logits)
    recorded = Recorded(table.confidence, table.label == table.target[:, None])
    system = system_of(setting.work, client_here=True)
    tiers = tuple(replace(tier, instances=(_enough(tier.instances, setting),)) for tier in system.tiers)
    return Host(replace(system, tiers=tiers, losses=()), recorded, 2.0 * setting.effort.seconds)


def _enough(instances: tuple[tuple[int, ...], ...], setting: Setting) -> tuple[int, ...]:
    planned = instances[0] if instances else ()
    return (0,) * max(len(planned), cores_of(setting))
