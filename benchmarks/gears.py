"""Do gears pay? The digits cascade under bursts of three times what its giant alone holds, with and without.

1. The giant alone, through the router: p95 of one request at a time, and what it holds at 32 clients. What
   the cascade as it is built holds there, too, for the pace of this machine beside its plan.
2. From these the SLO (3 times that p95) and the trace (its fullest second has 3 times that rate), and from
   both placement and gears, by their stages.
3. The same trace, with the same rows, three times on one server: with the gears, with the most accurate of
   them alone, with the cheapest alone. Then with the gears once more, with bursts that rise at once.

Prints a table; writes build/benchmarks/gears.json and gears.svg. `make bench-gears`, at most 10 minutes;
`python -m benchmarks.gears --quick` is shorter and decides nothing.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.bursts import bursty
from benchmarks.gears_picture import draw
from benchmarks.gears_verdict import ACCURATE, CHEAPEST, GEARS, claims, paired, row_of, show
from benchmarks.plan_swap import swap_plan
from cascade_tools.artifacts import Gear, GearPlan, Placement, PolicyTable, Route
from cascade_tools.errors import CascadeError
from cascade_tools.machine.core_speed import watched_cores
from cascade_tools.machine.facts import machine
from cascade_tools.models.usercode import Rows
from cascade_tools.planning.gears import bins_of_counts
from cascade_tools.planning.outcomes import FloatArray
from cascade_tools.planning.traces.shape import counts_per_window
from cascade_tools.repository.manifest import PLAN_FILE
from cascade_tools.runtime.policy import ANSWER
from cascade_tools.serving.awake import awake_cores
from cascade_tools.serving.embedded import Server, embedded_triton
from cascade_tools.serving.load import run_load
from cascade_tools.serving.replay import Replayed, replay
from cascade_tools.spec import Gears, Histogram, Rates, Slo, load_cascade
from cascade_tools.stages.build_repo import build_repo, repository_root
from cascade_tools.stages.gears import GEARS_FILE
from cascade_tools.stages.kept_rows import load_test_rows
from cascade_tools.stages.pipeline import plan_is_fresh, run_stage
from cascade_tools.stages.place import PLACEMENT_FILE
from cascade_tools.stages.progress import stderr_reporter
from cascade_tools.stages.replay import draw_rows
from cascade_tools.store import Workspace

CASCADE = Path("ensembles/digits")
BUILT = Path("build")
OUT = Path("build/benchmarks")
TIMES = 3.0  # both the SLO over the unloaded p95 and the peak over what the giant holds
PLANNED_SHARE = 0.5  # of the SLO: what the gears are planned for; the simulator errs, and a change takes time
BUSY_SHARE = 0.6  # of what the machine is seen to hold; its cores are slower at times (`core_speed`)
LOW_SHARE = 0.5  # of what the giant holds: the rate between bursts
RISE_S = 2.0
BINS = 8
UNLOADED_EVERY_S = 0.05
CLIENTS = 32
SEED = 0
STEPS = "gears, steps"


@dataclass(frozen=True)
class Effort:
    """Seconds of a trace; requests of the giant alone, one at a time and at 32 clients."""

    seconds: float
    unloaded: int
    loaded: int
    steps: bool


FULL = Effort(seconds=100.0, unloaded=300, loaded=2000, steps=True)
QUICK = Effort(seconds=25.0, unloaded=100, loaded=600, steps=False)


@dataclass(frozen=True)
class Scene:
    """What all runs share."""

    work: Workspace
    rows: Rows
    datatypes: dict[str, str]

    def replay(self, server: Server, arrival_s: FloatArray) -> Replayed:
        """The trace with rows that are the same for the same trace."""
        picked = draw_rows(self.rows, len(arrival_s), SEED)
        return replay(
            server.grpc_url,
            self.work.cascade.name,
            self.rows.inputs,
            self.datatypes,
            picked,
            arrival_s,
            target=self.rows.target,
            metrics_url=server.metrics_url,
            awake=True,
        )


def prepared() -> Scene:
    """A copy of the planned digits cascade, to be planned otherwise.

    Raises:
        CascadeError: it is not planned, or not any more.
    """
    cascade = load_cascade(CASCADE)
    built = Workspace(cascade, BUILT / cascade.name)
    if not plan_is_fresh(built):
        raise CascadeError(f"{built.build}: not planned, or behind", f"run `{built.command('run')}`")
    rows = load_test_rows(built)
    own = OUT / "gears" / cascade.name
    shutil.rmtree(own, ignore_errors=True)
    shutil.copytree(built.build, own, symlinks=True, ignore=shutil.ignore_patterns("*.log", "*.html"))
    work = Workspace(cascade, own)
    plan = work.load(GEARS_FILE, GearPlan, "gears")
    return Scene(work, rows, {spec.name: spec.datatype for spec in plan.inputs})


@contextmanager
def served(work: Workspace) -> Iterator[Server]:
    """The built repository on a server of its own."""
    log = work.path("triton.log")
    with embedded_triton(repository_root(work, "embedded") / "current", log=log) as server:
        yield server


def put_plan(work: Workspace, server: Server, plan: GearPlan) -> None:
    """Swap the plan of the running router, as `swap_plan`."""
    path = repository_root(work, "embedded") / "current" / work.cascade.name / PLAN_FILE
    swap_plan(server, path, plan.model_dump_json().encode())


def alone(gear: Gear, plan: GearPlan) -> GearPlan:
    """The plan with one gear for all rates."""
    return plan.model_copy(update={"gears": (gear.model_copy(update={"up_to_rps": None}),)})


def giant_gear(plan: GearPlan) -> Gear:
    """The last tier answers everything."""
    table = PolicyTable(tiers=(plan.ladder[-1].tier,), routes=(Route(cuts=(), to=(ANSWER,)),))
    update = {"policy": table, "min_queue": 1, "max_wait_ms": 0.0, "predicted": None}
    return plan.gears[0].model_copy(update=update)


@dataclass(frozen=True)
class Beforehand:
    """What is measured before anything is planned.

    Attributes:
        unloaded_ms: p95 of the giant alone for requests that meet no other.
        giant_rps: what it holds at 32 clients; `cascade_rps` likewise, with the built plan's last gear.
        planned_rps: what the placement says of that gear.
    """

    unloaded_ms: float
    giant_rps: float
    cascade_rps: float
    planned_rps: float

    @property
    def pace(self) -> float:
        """Held over planned: generator and gRPC share the cores, and the host has its moods."""
        return min(1.0, self.cascade_rps / self.planned_rps)


def measure(scene: Scene, effort: Effort) -> Beforehand:
    """The giant alone and the built cascade, on one server."""
    work = scene.work
    plan = work.load(GEARS_FILE, GearPlan, "gears")
    with served(work) as server:
        put_plan(work, server, alone(giant_gear(plan), plan))
        one_by_one = scene.replay(server, np.arange(effort.unloaded) * UNLOADED_EVERY_S)
        giant_rps = held_rps(scene, server, effort.loaded)
        put_plan(work, server, alone(plan.gears[-1], plan))
        cascade_rps = held_rps(scene, server, 2 * effort.loaded)
    return Beforehand(
        unloaded_ms=one_by_one.outcomes.latency_quantile_ms(0.95),
        giant_rps=giant_rps,
        cascade_rps=cascade_rps,
        planned_rps=work.load(PLACEMENT_FILE, Placement, "place").rate_rps,
    )


def held_rps(scene: Scene, server: Server, requests: int) -> float:
    """Requests per second of 32 clients that always wait for an answer."""
    picked = draw_rows(scene.rows, requests, SEED)
    inputs = {name: values[picked] for name, values in scene.rows.inputs.items()}
    model = scene.work.cascade.name
    with awake_cores():
        found = run_load(server.grpc_url, model, inputs, scene.datatypes, CLIENTS, ("LABEL",))
    return found.throughput_rps


def plan_gears(scene: Scene, slo_ms: float, pace: float, arrival_s: FloatArray) -> GearPlan:
    """Placement and gears for a share of the SLO and the trace's rates; the repository follows."""
    report, work = stderr_reporter(), scene.work
    bins = bins_of_counts(counts_per_window(arrival_s).astype(np.float64), BINS)
    rates = Rates(
        histogram=Histogram(edges_rps=tuple(bins.edges_rps.tolist()), shares=tuple(bins.shares.tolist()))
    )
    gears = Gears(
        slo=Slo(p95_ms=PLANNED_SHARE * slo_ms),
        rates=rates,
        within_allowance=False,
        target_busy_share=BUSY_SHARE * pace,
    )
    meant = Workspace(work.cascade.model_copy(update={"gears": gears}), work.build)
    run_stage("place", meant, report)
    run_stage("gears", meant, report)
    build_repo(meant, "embedded", check=False, report=report)
    return work.load(GEARS_FILE, GearPlan, "gears")


def show_gears(plan: GearPlan) -> None:
    """What was planned."""
    for number, gear in enumerate(plan.gears):
        limit = "any rate" if gear.up_to_rps is None else f"up to {gear.up_to_rps:.0f}/s"
        p95 = "" if gear.predicted is None else f", p95 {gear.predicted.p95_ms:.1f} ms (modelled)"
        tiers = " > ".join(gear.policy.tiers)
        print(f"  gear {number}: {limit:14} {tiers}, accuracy {gear.predicted_accuracy:.4f}{p95}", flush=True)


def watched(scene: Scene, server: Server, arrival_s: FloatArray) -> tuple[Replayed, float]:
    """A run, and how many times longer all work took meanwhile than at the cores' full speed."""
    with watched_cores() as speed:
        found = scene.replay(server, arrival_s)
    return found, speed.slowness()


def run(effort: Effort) -> int:
    """Measure, print, write; 0 if everything was shown."""
    began_s = time.monotonic()
    scene = prepared()
    before = measure(scene, effort)
    slo_ms, peak_rps, low_rps = (
        TIMES * before.unloaded_ms,
        TIMES * before.giant_rps,
        LOW_SHARE * before.giant_rps,
    )
    print(
        f"the giant alone: p95 {before.unloaded_ms:.1f} ms unloaded, holds {before.giant_rps:.0f} requests/s"
    )
    print(f"the cascade holds {before.cascade_rps:.0f} requests/s, {before.pace:.0%} of its plan")
    print(f"SLO: p95 {slo_ms:.1f} ms; the fullest second has {peak_rps:.0f} requests", flush=True)
    arrival_s = bursty(peak_rps, low_rps, RISE_S, effort.seconds, SEED)
    plan = plan_gears(scene, slo_ms, before.pace, arrival_s)
    show_gears(plan)
    tiers = [info.tier for info in plan.ladder]
    runs: dict[str, Replayed] = {}
    slowness: dict[str, float] = {}
    with served(scene.work) as server:
        settings = {
            GEARS: plan,
            ACCURATE: alone(plan.gears[0], plan),
            CHEAPEST: alone(plan.gears[-1], plan),
        }
        for name, own in settings.items():
            put_plan(scene.work, server, own)
            runs[name], slowness[name] = watched(scene, server, arrival_s)
        if effort.steps:
            put_plan(scene.work, server, plan)
            steep = bursty(peak_rps, low_rps, 0.0, effort.seconds, SEED)
            runs[STEPS], slowness[STEPS] = watched(scene, server, steep)
    rows = [row_of(name, found, slo_ms, tiers, slowness[name]) for name, found in runs.items()]
    accuracy = paired(runs[GEARS].outcomes, runs[CHEAPEST].outcomes)
    shown = claims(rows, accuracy)
    show(rows, accuracy)
    for claim, held in shown.items():
        print(f"  {'held' if held else 'MISSED'}: {claim}")
    content = {
        "machine": machine(),
        "date": time.strftime("%Y-%m-%d"),
        "quick": effort is QUICK,
        "seconds": time.monotonic() - began_s,
        "before": {**asdict(before), "pace": before.pace},
        "slo_p95_ms": slo_ms,
        "planned_p95_ms": PLANNED_SHARE * slo_ms,
        "trace": {"seconds": effort.seconds, "peak_rps": peak_rps, "rise_s": RISE_S, "seed": SEED},
        "gears": [gear.model_dump(mode="json") for gear in plan.gears],
        "rows": rows,
        "answered_by_both": asdict(accuracy),
        "claims": shown,
    }
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "gears.json").write_text(json.dumps(content, indent=1) + "\n")
    drawn = {name: runs[name].outcomes for name in settings}
    (OUT / "gears.svg").write_text(draw(drawn, slo_ms, before.giant_rps))
    print(f"written: {OUT / 'gears.json'}, {OUT / 'gears.svg'}")
    return 0 if all(shown.values()) else 1


def main() -> int:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="a short trace; decides nothing")
    try:
        return run(QUICK if parser.parse_args().quick else FULL)
    except CascadeError as error:
        print(f"error: {error.message}\n  -> {error.hint}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
