"""Several routers over the same tiers, on one embedded Triton, so that all of them are measured in turns."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmarks.clients import open_loop
from benchmarks.paper.setting import SEED, Setting
from cascade_tools.artifacts import Gear, GearPlan, LadderTier, PlacedInstances, Placement, PolicyTable
from cascade_tools.models.usercode import Rows
from cascade_tools.repository import place
from cascade_tools.repository.manifest import Files, make_manifest
from cascade_tools.serving.bare_cascade import repository_files as bare_files
from cascade_tools.serving.embedded import Server, embedded_triton
from cascade_tools.serving.load import compare_latency_ms, run_load
from cascade_tools.spec import load_devices
from cascade_tools.store import digest_bytes

FOLDER = "paper"
CLIENTS = 4
FloatArray = npt.NDArray[np.float64]
Gears = tuple[tuple[float | None, PolicyTable], ...]  # highest rate, requests/s, and policy


@dataclass(frozen=True)
class Router:
    """One router.

    Attributes:
        name: of the model that clients ask.
        gears: highest rate and policy of each.
        local: cheap tiers run in its own process, as the cascade is planned; else every tier is called.
    """

    name: str
    gears: Gears
    local: bool = True

    @property
    def policy(self) -> PolicyTable:
        """Of the last gear."""
        return self.gears[-1][1]

    @staticmethod
    def of(name: str, policy: PolicyTable, local: bool = True) -> Router:
        """With one policy for all rates."""
        return Router(name, ((None, policy),), local)


@dataclass(frozen=True)
class ExtraTier:
    """A tier that the planned cascade does not have: its graph, and the median time of one row."""

    name: str
    graph: bytes
    p50_ms: float


class Bench:
    """A running server with some routers, and what is sent to them."""

    def __init__(self, setting: Setting, server: Server) -> None:
        self.setting, self.server = setting, server
        self.datatypes = {spec.name: spec.datatype for spec in setting.plan.inputs}

    def tier_model(self, tier: str) -> str:
        """The model of a tier, which may be asked directly."""
        return next(info.model for info in self.setting.plan.ladder if info.tier == tier)

    def in_turns(self, models: Sequence[str], rows: Rows) -> dict[str, FloatArray]:
        """Latency of every row at one client, ms; the models take turns, the cores are kept awake."""
        return compare_latency_ms(self.server.grpc_url, tuple(models), rows.inputs, self.datatypes)

    def accuracy(self, model: str, rows: Rows) -> float:
        """Share of right answers."""
        found = run_load(self.server.grpc_url, model, rows.inputs, self.datatypes, CLIENTS, ("LABEL",))
        return float((found.outputs["LABEL"] == rows.target).mean())

    def p90_at_rate(
        self, models: Sequence[str], rows: Rows, rate_rps: float, passes: int, seconds: float
    ) -> dict[str, float]:
        """P90 in ms at Poisson arrivals of one rate (open loop): the median over passes, in turns.

        Latency counts from the time at which a request is due.
        """
        count = max(50, round(rate_rps * seconds))
        rng = np.random.default_rng(SEED)
        picked = rows.take(rng.integers(0, len(rows), count))
        at_s = np.cumsum(rng.exponential(1.0 / rate_rps, count)).tolist()
        found: dict[str, list[float]] = {model: [] for model in models}
        for number in range(passes):
            for model in list(models)[:: 1 if number % 2 == 0 else -1]:
                asked = np.zeros(count, np.int64)
                latency_ms = open_loop(
                    self.server.grpc_url, [model], asked, picked.inputs, self.datatypes, at_s
                )
                found[model].append(float(np.quantile(latency_ms, 0.9)))
        return {model: statistics.median(values) for model, values in found.items()}


@contextmanager
def routers_served(
    setting: Setting, routers: Sequence[Router], extra: Sequence[ExtraTier] = ()
) -> Iterator[Bench]:
    """The tiers of the planned cascade (and extra ones) with these routers, on the embedded Triton.

    Raises:
        CascadeError: the server does not start.
    """
    files = repository_files(setting, routers, extra)
    root = setting.build / FOLDER / "repository"
    repository = place.put(root, files, make_manifest(FOLDER, "embedded", files))
    with embedded_triton(repository, log=setting.build / FOLDER / "server.log") as server:
        yield Bench(setting, server)


def repository_files(setting: Setting, routers: Sequence[Router], extra: Sequence[ExtraTier] = ()) -> Files:
    """All files of that repository."""
    added = {tier.name: tier for tier in extra}
    files: Files = {}
    # Those with local tiers last: configs of tiers are as the cascade is planned.
    for router in sorted(routers, key=lambda router: router.local):
        plan = _plan(setting, router, added)
        graphs = {
            info.tier: added[info.tier].graph if info.tier in added else setting.graph(info.tier)
            for info in plan.ladder
        }
        files |= bare_files(plan, _with_an_instance_per_core(setting, list(added)), graphs)
    return files


def cores_of(setting: Setting) -> int:
    """Cores of the device that the cascade is planned for."""
    return sum(group.cores or 0 for group in load_devices(setting.cascade).devices) or 1


def _with_an_instance_per_core(setting: Setting, added: list[str]) -> Placement:
    """As planned, but no tier has fewer instances than there are cores: some serve alone here."""
    least = cores_of(setting)
    planned = setting.placement.instances
    instances = [placed.model_copy(update={"count": max(least, placed.count)}) for placed in planned]
    instances += [
        PlacedInstances(tier=name, device=0, count=least, busy_instances=0.0)
        for name in [*(info.tier for info in setting.plan.ladder), *added]
        if name not in {placed.tier for placed in planned}
    ]
    return setting.placement.model_copy(update={"instances": tuple(instances)})


def _plan(setting: Setting, router: Router, extra: dict[str, ExtraTier]) -> GearPlan:
    plan = setting.plan
    gears = tuple(
        Gear(
            up_to_rps=up_to_rps,
            policy=policy,
            min_queue=1,
            max_wait_ms=0.0,
            predicted_accuracy=0.0,
            predicted_cost=0.0,
        )
        for up_to_rps, policy in router.gears
    )
    limits = plan.limits if router.local else plan.limits.model_copy(update={"inline_entry_ms": 0.0})
    more = tuple(
        LadderTier(
            tier=tier.name,
            model=f"{plan.cascade}_{tier.name}",
            sha256=digest_bytes(tier.graph),
            p50_ms=tier.p50_ms,
            p99_ms=2.0 * tier.p50_ms + 1.0,
            further_row_ms=tier.p50_ms,
        )
        for tier in extra.values()
    )
    # Extra tiers take the place of the planned ones below the last.
    ladder = (*more, plan.ladder[-1]) if extra else plan.ladder
    content = plan.model_copy(
        update={
            "cascade": router.name,
            "gears": gears,
            "fallbacks": (),
            "limits": limits,
            "ladder": ladder,
        }
    )
    return GearPlan.model_validate(content.model_dump())
