"""Our router beside other ways to run the same cascade on the same server, and beside what the tiers allow.

    cascade        the router that build-repo ships
    sequential     BLS as in the vendor's tutorial: one request after the other, one instance
    sequential8    the same with eight instances
    mask_ensemble  a Triton ensemble in which every step always runs and a mask tensor rides along
    client_side    the client holds the policy and asks tier after tier over gRPC (not perf_analyzer: asyncio)
    giant          the last tier alone

All routers of a ladder stand in one repository on one server and take turns. Prints tables, writes
build/benchmarks/router.json. `--only wide/cascade,wide/sequential --quick` runs parts.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.clients import Step, cascade_in_client, open_loop
from benchmarks.ladders import LADDERS, Arrays, Ladder
from cascade_tools.errors import CascadeError, CheckFailed, UsageError
from cascade_tools.machine.facts import machine
from cascade_tools.repository import place
from cascade_tools.serving.awake import awake_cores
from cascade_tools.serving.embedded import Server, embedded_triton
from cascade_tools.serving.load import run_load
from cascade_tools.serving.perf_analyzer import PerfResult, find_perf_analyzer, run_perf_analyzer

ROUTERS = ("cascade", "sequential", "sequential8", "mask_ensemble", "client_side", "giant")
CLIENTS = (1, 8, 32)
BOUND_CLIENTS = 32
HARD_SHARES = (0.05, 0.20, 0.40)
LOAD_SHARE = 0.4  # of the capacity at the largest hard share
CHECKED_ROWS = 400
SEED = 0
OUT = Path("build/benchmarks/router.json")
REPOSITORIES = Path("build/benchmarks/router")


@dataclass(frozen=True)
class Effort:
    """How long things take: seconds of a window, passes over all routers, alternations, open loop."""

    window_s: float
    passes: int
    turns: int
    open_s: float


FULL = Effort(window_s=1.0, passes=2, turns=5, open_s=10.0)
QUICK = Effort(window_s=0.5, passes=1, turns=3, open_s=4.0)


class Bench:
    """One ladder on its running server."""

    def __init__(self, ladder: Ladder, server: Server, program: Path, effort: Effort) -> None:
        self.ladder, self.server, self.program, self.effort = ladder, server, program, effort
        names = {"cascade": ladder.cascade, "giant": ladder.models[-1]}
        self.model = {router: names.get(router, router) for router in ROUTERS}
        order = np.random.default_rng(SEED).permutation(len(ladder.label))
        self.order = order  # clients take every n-th row: no pattern of the file may meet that

    def measure(self, router: str, clients: int) -> PerfResult:
        """One run of one router with the natural mix of rows."""
        rows = self.ladder.take(self.order)
        if router == "client_side":
            return self._client_side(rows, clients)
        return self.perf(self.model[router], rows, clients)

    def perf(self, model: str, rows: Arrays, clients: int, window_s: float | None = None) -> PerfResult:
        """One run of perf_analyzer."""
        seconds = window_s or self.effort.window_s
        return run_perf_analyzer(self.program, self.server.grpc_url, model, rows, clients, seconds)

    def _client_side(self, rows: Arrays, clients: int) -> PerfResult:
        ladder = self.ladder
        steps = [
            Step(model, entry.cuts, entry.to)
            for model, entry in zip(ladder.models, ladder.policy.routes, strict=True)
        ]
        seconds = 3.0 * self.effort.window_s
        found = cascade_in_client(self.server.grpc_url, steps, rows, ladder.datatypes, clients, seconds)
        p50, p90, p95, p99 = np.percentile(found.latency_ms, (50, 90, 95, 99)).tolist()
        return PerfResult(clients, found.throughput_rps, p50, p90, p95, p99)

    def check(self, routers: Sequence[str]) -> None:
        """See that every router gives every row the answer of the policy.

        Raises:
            CheckFailed: a router answers differently; nothing is measured then.
        """
        ladder = self.ladder
        last = np.flatnonzero(ladder.answered == len(ladder.models) - 1)
        picked = np.union1d(self.order[:CHECKED_ROWS], last[:50])
        rows = ladder.take(picked)
        for router in routers:
            if router in ("client_side", "giant"):  # the tiers themselves, which the others are built on
                continue
            found = run_load(
                self.server.grpc_url, self.model[router], rows, ladder.datatypes, 8, ("LABEL", "TIER")
            ).outputs
            tiers = np.asarray(ladder.tiers)[ladder.answered[picked]]
            wrong = int(((found["LABEL"] != ladder.label[picked]) | (found["TIER"] != tiers)).sum())
            if wrong:
                raise CheckFailed(
                    f"{ladder.name}/{router}: {wrong} of {len(picked)} answers are not those of the policy"
                )

    def tier_cost_s(self) -> list[float]:
        """c_i: core seconds per row of tier i, called directly with the rows that reach it."""
        cores = psutil.cpu_count() or 1
        costs = []
        for level, model in enumerate(self.ladder.models):
            mine = self.order[self.ladder.reached[self.order, level]]
            rates = [
                self.perf(model, self.ladder.take(mine), BOUND_CLIENTS).throughput_rps
                for _ in range(self.effort.passes)
            ]
            costs.append(cores / statistics.median(rates))
        return costs

    def bound_rps(self, costs: Sequence[float]) -> float:
        """Rows per second if nothing but the direct calls cost anything."""
        reach = self.ladder.reached.mean(axis=0).tolist()
        cores = psutil.cpu_count() or 1
        return cores / sum(share * cost for share, cost in zip(reach, costs, strict=True))

    def extra_ms(self, routers: Sequence[str]) -> dict[str, float]:
        """Median of easy rows at one client: the first tier called directly, and through routers, in turns."""
        rows = self.ladder.take(self.order[self.ladder.easy[self.order]])
        models = {"direct": self.ladder.models[0], **{router: self.model[router] for router in routers}}
        medians: dict[str, list[float]] = {name: [] for name in models}
        for turn in range(self.effort.turns):
            names = list(models) if turn % 2 == 0 else list(models)[::-1]
            for name in names:
                medians[name].append(self.perf(models[name], rows, 1, 0.3).p50_ms)
        return {name: statistics.median(values) for name, values in medians.items()}

    def hard_shares(self) -> list[dict[str, float]]:
        """Latency of the easy rows at one rate, while the share of the hard rows grows."""
        model = self.model["cascade"]
        capacity = self.perf(model, self.ladder.take(self._mix(HARD_SHARES[-1], 4000)), BOUND_CLIENTS)
        rate_rps = LOAD_SHARE * capacity.throughput_rps
        count = max(200, round(rate_rps * self.effort.open_s))
        at_s = np.cumsum(np.random.default_rng(SEED).exponential(1.0 / rate_rps, count)).tolist()
        latency: dict[float, list[Any]] = {share: [] for share in HARD_SHARES}
        for number in range(self.effort.passes):
            for share in HARD_SHARES if number % 2 == 0 else HARD_SHARES[::-1]:
                index = self._mix(share, count)
                sent = self.ladder.take(index)
                found = open_loop(self.server.grpc_url, model, sent, self.ladder.datatypes, at_s)
                latency[share].append(found[self.ladder.easy[index]])
        return [
            {
                "hard_share": share,
                "rate_rps": rate_rps,
                "easy_rows": float(sum(len(part) for part in parts)),
                "easy_p50_ms": statistics.median(float(np.percentile(part, 50)) for part in parts),
                "easy_p99_ms": statistics.median(float(np.percentile(part, 99)) for part in parts),
            }
            for share, parts in latency.items()
        ]

    def _mix(self, share: float, count: int) -> Any:
        """Row numbers of which a share is not answered by the first tier, in random order."""
        rng = np.random.default_rng(SEED)
        hard = round(share * count)
        picked = [
            rng.choice(np.flatnonzero(where), size, replace=True)
            for where, size in ((~self.ladder.easy, hard), (self.ladder.easy, count - hard))
        ]
        return rng.permutation(np.concatenate(picked))


@contextmanager
def served(ladder: Ladder) -> Iterator[Server]:
    """The ladder's repository on the embedded Triton."""
    manifest = place.make_manifest(ladder.name, "embedded", ladder.files)
    repository = place.put(REPOSITORIES / ladder.name, ladder.files, manifest)
    with embedded_triton(repository, log=REPOSITORIES / f"{ladder.name}.log") as server:
        yield server


def run_ladder(
    bench: Bench, routers: Sequence[str], clients: Sequence[int], parts: set[str]
) -> dict[str, Any]:
    """Everything that is measured of one ladder."""
    name = bench.ladder.name
    _say(f"{name}: checking answers")
    bench.check(routers)
    content: dict[str, Any] = {
        "gear": bench.ladder.gear,
        "reach": bench.ladder.reached.mean(axis=0).tolist(),
        "models": list(bench.ladder.models),
        "instances_per_tier": 1,
    }
    if "table" in parts:
        _say(f"{name}: tiers called directly")
        costs = bench.tier_cost_s()
        bound = bench.bound_rps(costs)
        content |= {"tier_cost_ms": [1000.0 * cost for cost in costs], "bound_rps": bound}
        content["rows"] = _rows(bench, routers, clients, bound)
    of_interest = [r for r in ("cascade", "sequential") if r in routers]
    if "extra" in parts and of_interest:
        content["extra_ms"] = []
        for awake in (False, True):
            _say(f"{name}: easy rows at 1 client, cores {'kept awake' if awake else 'left alone'}")
            with awake_cores() if awake else nullcontext():
                medians = bench.extra_ms(of_interest)
            content["extra_ms"].append(
                {"cores_kept_awake": awake, "direct_p50_ms": medians["direct"]}
                | {f"{r}_p50_ms": medians[r] for r in of_interest}
                | {f"{r}_extra_ms": medians[r] - medians["direct"] for r in of_interest}
            )
    if "hard" in parts and "cascade" in routers and name != "trivial":
        _say(f"{name}: easy rows while the hard share grows")
        content["easy_rows"] = bench.hard_shares()
    return content


def _rows(
    bench: Bench, routers: Sequence[str], clients: Sequence[int], bound_rps: float
) -> list[dict[str, Any]]:
    rows = []
    for count in clients:
        found: dict[str, list[PerfResult]] = {router: [] for router in routers}
        for number in range(bench.effort.passes):
            for router in routers if number % 2 == 0 else routers[::-1]:
                _say(f"{bench.ladder.name}: {count} clients, pass {number + 1}: {router}")
                found[router].append(bench.measure(router, count))
        for router, results in found.items():
            rows.append(
                {
                    "ladder": bench.ladder.name,
                    "router": router,
                    "clients": count,
                    "throughput_rps": statistics.median(r.throughput_rps for r in results),
                    "p50_ms": statistics.median(r.p50_ms for r in results),
                    "p99_ms": statistics.median(r.p99_ms for r in results),
                    "bound_rps": bound_rps,
                    "generator": "asyncio" if router == "client_side" else "perf_analyzer",
                }
            )
    return rows


def show(name: str, content: dict[str, Any]) -> None:
    """The tables of one ladder."""
    shares = ", ".join(f"{share:.1%}" for share in content["reach"])
    print(f"\n{name}: {' > '.join(content['models'])}; reach {shares}; gear: {content['gear']}")
    if "rows" in content:
        costs = ", ".join(f"{cost:.3f}" for cost in content["tier_cost_ms"])
        print(
            f"  core ms per row of each tier called directly: {costs}; bound {content['bound_rps']:.0f} rows/s"
        )
        print("  clients  router          requests/s   p50 ms   p99 ms   of bound   to sequential")
        base = {r["clients"]: r["throughput_rps"] for r in content["rows"] if r["router"] == "sequential"}
        for row in content["rows"]:
            ratio = f"{row['throughput_rps'] / base[row['clients']]:12.2f}x" if row["clients"] in base else ""
            print(
                f"  {row['clients']:7}  {row['router']:14}  {row['throughput_rps']:10.1f} {row['p50_ms']:8.2f} "
                f"{row['p99_ms']:8.2f} {row['throughput_rps'] / row['bound_rps']:10.2f} {ratio}"
            )
    for row in content.get("extra_ms", []):
        awake = "kept awake" if row["cores_kept_awake"] else "left alone"
        told = ", ".join(
            f"{key.removesuffix('_p50_ms')} {value:.3f} (+{row[key.replace('p50', 'extra')]:.3f})"
            for key, value in row.items()
            if key.endswith("_p50_ms") and not key.startswith("direct")
        )
        print(f"  easy rows at 1 client, cores {awake}: direct {row['direct_p50_ms']:.3f} ms, {told}")
    for row in content.get("easy_rows", []):
        print(
            f"  {row['hard_share']:.0%} hard at {row['rate_rps']:.0f} rows/s: easy rows p50 "
            f"{row['easy_p50_ms']:.2f}, p99 {row['easy_p99_ms']:.2f} ms"
        )
    sys.stdout.flush()


def _say(text: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


def _wanted(only: str | None) -> dict[str, tuple[str, ...]]:
    """Routers by ladder; `ladder` alone stands for all its routers."""
    if not only:
        return dict.fromkeys(LADDERS, ROUTERS)
    wanted: dict[str, tuple[str, ...]] = {}
    for entry in only.split(","):
        ladder, _, router = entry.partition("/")
        if ladder not in LADDERS or (router and router not in ROUTERS):
            raise UsageError(
                f"--only {entry}: no such part",
                f"ladders: {', '.join(LADDERS)}; routers: {', '.join(ROUTERS)}",
            )
        wanted[ladder] = (*wanted.get(ladder, ()), *([router] if router else ROUTERS))
    return wanted


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", help="ladder/router, comma separated; a ladder alone means all its routers")
    parser.add_argument("--quick", action="store_true", help="short windows, one pass: for a first look")
    parser.add_argument("--clients", default=",".join(map(str, CLIENTS)), help="comma separated")
    parser.add_argument("--parts", default="table,extra,hard", help="some of table, extra, hard")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    try:
        _measure(arguments)
    except CascadeError as error:
        sys.exit(f"error: {error.message}" + (f"\n  -> {error.hint}" if error.hint else ""))


def _measure(arguments: argparse.Namespace) -> None:
    wanted = _wanted(arguments.only)
    effort = QUICK if arguments.quick else FULL
    clients = [int(count) for count in arguments.clients.split(",")]
    program = find_perf_analyzer()
    ladders: dict[str, Any] = {}
    for name, routers in wanted.items():
        _say(f"{name}: making the repository")
        ladder = LADDERS[name]()
        with served(ladder) as server:
            bench = Bench(ladder, server, program, effort)
            ladders[name] = run_ladder(bench, routers, clients, set(arguments.parts.split(",")))
        show(name, ladders[name])
    content = {
        "machine": machine(),
        "date": time.strftime("%Y-%m-%d"),
        "quick": arguments.quick,
        "rows": [row for found in ladders.values() for row in found.pop("rows", [])],
        "ladders": ladders,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(content, indent=1) + "\n")
    print(f"written: {arguments.out}")


if __name__ == "__main__":
    main()
