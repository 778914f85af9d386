"""Holds the simulator against the real server: the same rows at the same times, simulated and measured.

The digits cascade as it was planned, on the embedded Triton, with one policy at a time (its plan is swapped
under the running server). Per policy the capacity is measured first: answers per second while more comes than
can be served. Each pair is run three times; the median of each figure counts, and a pair whose own spread is
beyond a bar is marked and not counted. The generator is on the same machine, and its CPU time is part of the
model, as `profile` measured it on tiers that do nothing. Nothing is fitted to a pair. Prints a table and
writes build/benchmarks/simulator.json. `make validate-simulator`; --quick for four pairs.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from benchmarks.measuring import stolen_share
from benchmarks.plan_swap import swap_plan
from benchmarks.validation.again import simulated_again
from benchmarks.validation.modelled import OVERLOAD, SEED, Modelled
from benchmarks.validation.pace import Pace, pace_of
from benchmarks.validation.pairs import QUICK_RATES, RATES, Pair, arrivals, write_trace
from benchmarks.validation.table import markdown, summary, verdict_of
from benchmarks.validation.verdict import (
    BARS,
    BARS_ABOVE,
    CALM,
    FIGURES,
    RELATIVE,
    Verdict,
    figures_of,
    judge,
)
from cascade_tools.errors import CascadeError
from cascade_tools.machine.core_speed import watched_cores
from cascade_tools.machine.facts import machine
from cascade_tools.models.usercode import Rows, load_rows
from cascade_tools.planning.outcomes import FloatArray
from cascade_tools.planning.traces.generators import poisson
from cascade_tools.repository.manifest import PLAN_FILE
from cascade_tools.serving.embedded import Server, embedded_triton
from cascade_tools.serving.load import run_load
from cascade_tools.serving.replay import Replayed, replay
from cascade_tools.spec import load_cascade
from cascade_tools.stages.calibrate import SCORES_FILE
from cascade_tools.store import Workspace, load_score_table, write_atomically

CASCADE = Path("ensembles/digits")
BUILD = Path("build/digits")
FOLDER = Path("build/benchmarks/simulator")
OUT = Path("build/benchmarks/simulator.json")
SLO_FACTOR = 3.0  # of the giant's unloaded p95
UNLOADED_RPS = 10.0
CLIENTS = 32
POLICIES = ("giant", "cascade", "cheap")  # of `gear_plans`
CALM_HOST = 0.03  # of the cores' time, taken away by the host
CALM_CORES = 0.10  # of their work, with the speed that it took
MOST_TRIES = 5  # for each run that counts
LONGEST_S = 27 * 60.0
OVERHEAD_S = 2.0  # of a run
MOST_ENDED = 5  # a host that stands still for a second ends Triton's Python backend


@dataclass(frozen=True)
class Effort:
    """How long things take, and how often each pair is run."""

    seconds: float
    runs: int
    capacity_s: float
    capacity_runs: int
    unloaded_s: float


FULL = Effort(seconds=8.0, runs=3, capacity_s=6.0, capacity_runs=3, unloaded_s=20.0)
QUICK = Effort(seconds=4.0, runs=3, capacity_s=4.0, capacity_runs=1, unloaded_s=5.0)


@dataclass
class Spare:
    """Time for runs that are made again because the host took the cores, or their speed, away."""

    left_s: float


class Bench:
    """The served cascade, and the simulator of it."""

    def __init__(self, work: Workspace, server: Server, repository: Path) -> None:
        self._server = server
        self._plan_path = repository / work.cascade.name / PLAN_FILE
        self.modelled = Modelled(work)
        self.plan = self.modelled.plan
        table = load_score_table(work.path(SCORES_FILE))
        self._rows: Rows = load_rows(work.cascade, "validation").take(table.split != "fit")
        self._datatypes = {spec.name: spec.datatype for spec in self.plan.inputs}

    def put(self, policy: str) -> None:
        """Swap the plan under the running server, and wait until the router has taken it over."""
        swap_plan(self._server, self._plan_path, self.modelled.plans[policy].model_dump_json().encode())

    def measure(self, arrival_s: FloatArray) -> Replayed:
        """One run on the server."""
        return replay(
            self._server.grpc_url,
            self.plan.cascade,
            self._rows.inputs,
            self._datatypes,
            self.modelled.draw(len(arrival_s)),
            arrival_s,
            target=self._rows.target,
            awake=True,
        )

    def flood(self, effort: Effort) -> FloatArray:
        """Half as many requests again as a closed loop gets through."""
        few = self._rows.take(self.modelled.draw(int(200 * effort.capacity_s)))
        closed = run_load(
            self._server.grpc_url, self.plan.cascade, few.inputs, self._datatypes, CLIENTS, ("LABEL",)
        )
        return poisson(OVERLOAD * closed.throughput_rps, effort.capacity_s, SEED)


@contextmanager
def served(work: Workspace) -> Iterator[Bench]:
    """The cascade on the embedded Triton, from a copy of its repository."""
    repository = FOLDER / "repository"
    shutil.rmtree(FOLDER, ignore_errors=True)
    shutil.copytree(work.path("repository") / "current", repository)
    with embedded_triton(repository, log=FOLDER / "triton.log") as server:
        yield Bench(work, server, repository)


def run_pair(
    bench: Bench, pair: Pair, capacity_rps: float, slo_ms: float, effort: Effort, trace: Path, spare: Spare
) -> tuple[Verdict, dict[str, Any]]:
    """One pair, simulated once and measured some times."""
    arrival_s = arrivals(pair.kind, pair.rate_share * capacity_rps, effort.seconds, trace)
    tiers = len(bench.plan.ladder)
    begin_s = time.perf_counter()
    simulated = figures_of(bench.modelled.simulate(pair.policy, arrival_s), slo_ms, tiers)
    wall_s = time.perf_counter() - begin_s
    tried = _measured(bench, arrival_s, effort.runs, spare)
    runs = [one.run for one in tried]
    figures = [figures_of(run.outcomes, slo_ms, tiers) for run in runs]
    at_speed = bench.modelled.at_speed(pair.policy, arrival_s, [one.pace for one in tried], slo_ms)
    lagged = sum(not run.lateness.valid for run in runs)
    noisy = sum(one.taken_share > CALM_CORES for one in tried)
    verdict = judge(simulated, figures, pair.rate_share, lagged, noisy)
    row: dict[str, Any] = {
        "pair": pair.name,
        "rate_share": pair.rate_share,
        "valid": verdict.valid,
        "within_bars": not verdict.missed,
        "missed": list(verdict.missed),
        "unsteady": list(verdict.unsteady),
        "lagged_runs": lagged,
        "noisy_runs": noisy,
        "stolen_share": max(one.stolen_share for one in tried),
        "slowness": [one.pace.slowness for one in tried],
        "work_s": [one.pace.work_s for one in tried],
        "requests": len(arrival_s),
        "rate_rps": len(arrival_s) / effort.seconds,
        "lateness_p99_ms": max(run.lateness.p99_ms for run in runs),
        "spread": dict(verdict.spread),
        "simulated_in_s": wall_s,
    }
    for name in FIGURES:
        row[f"{name}_simulated"] = getattr(simulated, name)
        row[f"{name}_at_speed"] = getattr(at_speed, name)
        row[f"{name}_measured"] = getattr(verdict.measured, name)
    return verdict, row


@dataclass(frozen=True)
class Tried:
    """One run, and what the host did meanwhile.

    Attributes:
        stolen_share: of the cores' time.
        pace: of the cores.
        taken_share: of the work that they could have done at full speed.
    """

    run: Replayed
    stolen_share: float
    pace: Pace
    taken_share: float

    @property
    def is_calm(self) -> bool:
        """It need not be made again."""
        return self.stolen_share <= CALM_HOST and self.taken_share <= CALM_CORES


def _try(bench: Bench, arrival_s: FloatArray) -> Tried:
    before = psutil.cpu_times()
    with watched_cores() as speed:
        run = bench.measure(arrival_s)
    stolen = stolen_share(before)
    pace = pace_of(speed, run.begin_s, float(arrival_s[-1]))
    return Tried(run, stolen, pace, 1.0 - (1.0 - stolen) / pace.slowness)


def _measured(bench: Bench, arrival_s: FloatArray, count: int, spare: Spare) -> list[Tried]:
    """So many runs.

    A run from which the host took too much says nothing of the server: then there is one more, while there is
    time to spare, and those from which it took the least count.
    """
    found: list[Tried] = []
    while len(found) < count or (
        len(found) < MOST_TRIES * count and spare.left_s > 0.0 and sum(one.is_calm for one in found) < count
    ):
        begin_s = time.monotonic()
        found.append(_try(bench, arrival_s))
        spare.left_s -= time.monotonic() - begin_s if len(found) > count else 0.0
    return sorted(found, key=lambda one: one.taken_share)[:count]


def sustained_rps(bench: Bench, effort: Effort, spare: Spare) -> float:
    """Answers per second in a flood."""
    runs = _measured(bench, bench.flood(effort), effort.capacity_runs, spare)
    return statistics.median(one.run.outcomes.throughput_rps() for one in runs)


HEADING = (
    f"{'pair':22} {'answers/s':>11} {'goodput':>11} {'p50 ms':>13} {'p95 ms':>15} {'shares':>6}  "
    "spread of the runs     stolen slower verdict"
)


def line(pair: Pair, verdict: Verdict, row: dict[str, Any]) -> str:
    """A line of the table: simulated / measured."""
    numbers = [
        f"{row[f'{name}_simulated']:{form}} / {row[f'{name}_measured']:{form}}"
        for name, form in (
            ("throughput_rps", ".0f"),
            ("goodput", ".2f"),
            ("p50_ms", ".1f"),
            ("p95_ms", ".1f"),
        )
    ]
    spread = " ".join(
        f"{verdict.spread[name]:.0%}" if name in RELATIVE else f"{verdict.spread[name]:.3f}"
        for name in FIGURES
    )
    figures = "{:>11} {:>11} {:>13} {:>15}".format(*numbers)
    shares, stolen, slower = verdict.error["shares"], row["stolen_share"], row["slowness"][1] - 1.0
    return (
        f"{pair.name:22} {figures} {shares:6.3f}  {spread:22} {stolen:6.0%} {slower:6.0%} {verdict_of(row)}"
    )


def main() -> None:
    """Measure, simulate, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="four pairs of one policy")
    parser.add_argument("--build", type=Path, default=BUILD, help="folder of the planned digits")
    parser.add_argument("--seconds", type=float, help="of each run")
    parser.add_argument("--again", action="store_true", help="only simulate the pairs of the last run anew")
    parser.add_argument("--table", action="store_true", help="only print the last results for the docs")
    options = parser.parse_args()
    if options.table:
        _print_last(_last())
        return
    effort = QUICK if options.quick else FULL
    effort = replace(effort, seconds=options.seconds or effort.seconds)
    work = Workspace(load_cascade(CASCADE), options.build)
    trace = FOLDER / "trace.csv"
    if options.again:
        write_trace(trace)
        content = simulated_again(_last(), Modelled(work), trace)
        write_atomically(OUT, (json.dumps(content, indent=1) + "\n").encode())
        _print_last(content)
        return
    policies = POLICIES[1:2] if options.quick else POLICIES
    rates = QUICK_RATES if options.quick else RATES
    pairs = [Pair(p, kind, share) for p in policies for kind, shares in rates.items() for share in shares]
    run = Run(effort, len(pairs))
    print(HEADING)
    while len(run.rows) < len(pairs):
        try:
            with served(work) as bench:
                write_trace(trace)
                for pair in pairs[len(run.rows) :]:
                    print(run.add(bench, pair, trace), flush=True)
        except CascadeError as error:
            run.begun_again += 1
            if run.begun_again > MOST_ENDED:
                raise
            print(f"the server ended ({error.message}); this pair again on a new one", flush=True)
    _show(run)


class Run:
    """What has been measured so far; written after every pair."""

    def __init__(self, effort: Effort, pairs: int) -> None:
        self._effort = effort
        self._begin_s = time.time()
        self.rows: list[dict[str, Any]] = []
        self.capacity: dict[str, float] = {}
        self.capacity_simulated: dict[str, float] = {}
        self.slo_ms = 0.0
        self.begun_again = 0
        self._spare = Spare(LONGEST_S - pairs * effort.runs * (effort.seconds + OVERHEAD_S))

    def add(self, bench: Bench, pair: Pair, trace: Path) -> str:
        """Measure and simulate one pair, before the first of its policy the capacity; return its line."""
        if not self.slo_ms:
            bench.put("giant")
            unloaded = poisson(UNLOADED_RPS, self._effort.unloaded_s, SEED)
            (calm,) = _measured(bench, unloaded, 1, self._spare)
            self.slo_ms = SLO_FACTOR * calm.run.outcomes.latency_quantile_ms(0.95)
        bench.put(pair.policy)
        if pair.policy not in self.capacity:
            found_rps = sustained_rps(bench, self._effort, self._spare)
            self.capacity[pair.policy] = found_rps
            self.capacity_simulated[pair.policy] = bench.modelled.capacity_rps(
                pair.policy, found_rps, self._effort.capacity_s
            )
        capacity_rps = self.capacity[pair.policy]
        verdict, row = run_pair(bench, pair, capacity_rps, self.slo_ms, self._effort, trace, self._spare)
        self.rows.append(row)
        content = {
            "machine": machine(),
            "date": time.strftime("%Y-%m-%d"),
            "minutes": (time.time() - self._begin_s) / 60.0,
            "servers_that_ended": self.begun_again,
            "slo_ms": self.slo_ms,
            "capacity_rps": self.capacity,
            "capacity_s": self._effort.capacity_s,
            "capacity_simulated_rps": self.capacity_simulated,
            "made_from": bench.modelled.made_from,
            "bars": {"up_to_share": CALM, "up_to": BARS, "above": BARS_ABOVE},
            "rows": self.rows,
        }
        write_atomically(OUT, (json.dumps(content, indent=1) + "\n").encode())
        return line(pair, verdict, row)


def _last() -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(OUT.read_text())
    except (OSError, ValueError):
        content = {}
    rows = content.get("rows", [{}])
    if not content.keys() >= {"made_from", "capacity_simulated_rps"} or not all("work_s" in r for r in rows):
        raise CascadeError(f"{OUT}: holds no validation of this version", "run the whole validation first")
    return content


def _print_last(content: dict[str, Any]) -> None:
    print(markdown(content["rows"]))
    print(summary(content))


def _show(run: Run) -> None:
    print(summary(json.loads(OUT.read_text())))
    print(f"SLO {run.slo_ms:.1f} ms ({SLO_FACTOR:g} x the giant's unloaded p95).")
    print(f"Spread: largest less smallest of the runs: {', '.join(FIGURES)}.")
    print(f"Bars up to {CALM:.0%} of the capacity: {BARS}; above: {BARS_ABOVE}.")
    print(f"written: {OUT}")


if __name__ == "__main__":
    try:
        main()
    except CascadeError as error:
        print(f"error: {error.message}" + (f"\n  {error.hint}" if error.hint else ""), file=sys.stderr)
        sys.exit(error.exit_code)
