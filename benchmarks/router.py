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
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
import tritonclient.grpc as triton_grpc

from benchmarks.clients import Step, cascade_in_client, open_loop
from benchmarks.ladders import LADDERS, Arrays, Ladder
from cascade_tools.errors import CascadeError, CheckFailed, UsageError
from cascade_tools.machine.facts import machine
from cascade_tools.repository import place
from cascade_tools.serving.awake import awake_cores
from cascade_tools.serving.embedded import Server, embedded_triton
from cascade_tools.serving.perf_analyzer import PerfResult, find_perf_analyzer, run_perf_analyzer
from cascade_tools.serving.watch import model_counts
from cascade_tools.store import write_atomically

ROUTERS = ("cascade", "sequential", "sequential8", "mask_ensemble", "client_side", "giant")
CLIENTS = (1, 8, 32)
BOUND_CLIENTS = 32
HARD_SHARES = (0.05, 0.20, 0.40)
LOAD_SHARE = 0.4  # of the capacity at the largest hard share
CHECKED_ROWS, CHECKED_LAST_ROWS = 300, 50
CHECK_TIMEOUT_S = 30.0
NO_MODEL_OF_THEIR_OWN = ("client_side", "giant")  # they are the tiers, which are checked in any case
SEED = 0
CORES = psutil.cpu_count() or 1
OUT = Path("build/benchmarks/router.json")
REPOSITORIES = Path("build/benchmarks/router")


@dataclass(frozen=True)
class Effort:
    """How long things take: seconds of a window, passes over all routers, alternations, open loop."""

    window_s: float
    passes: int
    turns: int
    open_s: float


FULL = Effort(window_s=0.7, passes=3, turns=5, open_s=8.0)
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
        """See that every router, and every tier, gives the answers of the policy.

        Raises:
            CheckFailed: one answers differently; nothing is measured then.
        """
        ladder = self.ladder
        last = np.flatnonzero(ladder.answered == len(ladder.models) - 1)
        picked = np.union1d(self.order[:CHECKED_ROWS], last[:CHECKED_LAST_ROWS])
        checks = [(self.model[router], picked) for router in routers if router not in NO_MODEL_OF_THEIR_OWN]
        checks += [(m, picked[ladder.answered[picked] == level]) for level, m in enumerate(ladder.models)]
        for model, mine in checks:
            expected = [ladder.label[mine], np.asarray(ladder.tiers)[ladder.answered[mine]]]
            outputs = ("LABEL",) if model in ladder.models else ("LABEL", "TIER")
            found = ask_all(self.server.grpc_url, model, ladder, mine, outputs)
            wrong = (found != np.stack(expected[: len(outputs)], axis=1)).any(axis=1)
            if wrong.any():
                count = f"{int(wrong.sum())} of {len(mine)} answers"
                raise CheckFailed(f"{ladder.name}: {count} of {model} are not the policy's")

    def tier_rate_rps(self, level: int) -> PerfResult:
        """One run of a tier called directly with the rows that reach it, at 32 clients."""
        mine = self.order[self.ladder.reached[self.order, level]]
        return self.perf(self.ladder.models[level], self.ladder.take(mine), BOUND_CLIENTS)

    def bound_rps(self, costs: Sequence[float]) -> float:
        """Rows per second if nothing but the direct calls cost anything."""
        reach = self.ladder.reached.mean(axis=0).tolist()
        return CORES / sum(share * cost for share, cost in zip(reach, costs, strict=True))

    def extra_ms(self, routers: Sequence[str]) -> dict[str, float]:
        """Median of easy rows at one client: the first tier called directly and through routers, in turns."""
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


def ask_all(
    url: str, model: str, ladder: Ladder, index: Any, outputs: Sequence[str]
) -> npt.NDArray[np.int64]:
    """One request per row, eight at a time: [rows, outputs]."""
    wanted = [triton_grpc.InferRequestedOutput(name) for name in outputs]
    rows = ladder.take(index)

    def ask(row: int) -> list[int]:
        tensors = []
        for name, values in rows.items():
            tensor = triton_grpc.InferInput(name, [1, *values.shape[1:]], ladder.datatypes[name])
            tensor.set_data_from_numpy(values[row : row + 1])
            tensors.append(tensor)
        answer = client.infer(model, tensors, outputs=wanted, client_timeout=CHECK_TIMEOUT_S)
        return [int(answer.as_numpy(name)[0, 0]) for name in outputs]

    with triton_grpc.InferenceServerClient(url) as client, ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(len(index))))
    return np.asarray(answers, np.int64).reshape(len(index), len(outputs))


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
        content |= _table(bench, routers, clients)
    of_interest = [r for r in ("cascade", "sequential") if r in routers]
    if "extra" in parts and of_interest:
        content["extra_ms"] = [_extra(bench, of_interest, awake=awake) for awake in (False, True)]
    if "hard" in parts and "cascade" in routers and name != "trivial":
        _say(f"{name}: easy rows while the hard share grows")
        content["easy_rows"] = bench.hard_shares()
    return content


def _extra(bench: Bench, routers: Sequence[str], *, awake: bool) -> dict[str, Any]:
    _say(f"{bench.ladder.name}: easy rows at 1 client, cores {_told(awake)}")
    with awake_cores() if awake else nullcontext():
        medians = bench.extra_ms(routers)
    return (
        {"cores_kept_awake": awake, "direct_p50_ms": medians["direct"]}
        | {f"{router}_p50_ms": medians[router] for router in routers}
        | {f"{router}_extra_ms": medians[router] - medians["direct"] for router in routers}
    )


@dataclass(frozen=True)
class Run:
    """One measurement, the CPU time of the server meanwhile, and what the host kept from the cores."""

    perf: PerfResult
    server_cpu_ms_per_row: float
    stolen_share: float


def _run(bench: Bench, name: str, count: int, tiers: dict[str, int]) -> Run:
    """One router, or one tier called directly."""
    first, server = bench.ladder.models[0], bench.server
    if name in tiers:
        model = bench.ladder.models[tiers[name]]
    else:
        model = first if name == "client_side" else bench.model[name]
    times, spent_s = psutil.cpu_times(), sum(server.cpu_seconds().values())
    requests = model_counts(server.grpc_url, [model])[model].requests
    perf = bench.tier_rate_rps(tiers[name]) if name in tiers else bench.measure(name, count)
    requests = model_counts(server.grpc_url, [model])[model].requests - requests
    spent_s = sum(server.cpu_seconds().values()) - spent_s
    return Run(perf, 1000.0 * spent_s / max(1, requests), _stolen_share(times))


def _stolen_share(before: Any) -> float:
    """Share of the cores' time that the host of a virtual machine kept for itself since then."""
    now = psutil.cpu_times()
    whole = sum(now) - sum(before)
    return float((getattr(now, "steal", 0.0) - getattr(before, "steal", 0.0)) / whole) if whole else 0.0


def _table(bench: Bench, routers: Sequence[str], clients: Sequence[int]) -> dict[str, Any]:
    """All routers at all numbers of clients in turns, and the direct calls behind the bound with them."""
    tiers = {f"tier {model}": level for level, model in enumerate(bench.ladder.models)}
    modes = [(count, False) for count in clients] + [(count, True) for count in clients if count == 1]
    if BOUND_CLIENTS not in clients:
        modes.append((BOUND_CLIENTS, False))
    found: dict[tuple[int, bool, str], list[Run]] = {}
    for number in range(bench.effort.passes):
        for count, awake in modes:
            names = [*(routers if count in clients else ()), *(tiers if count == BOUND_CLIENTS else ())]
            # Another order in every pass, so that no router always follows the same one.
            names = names[::-1] if number % 2 else names[2 * number :] + names[: 2 * number]
            with awake_cores() if awake else nullcontext():
                for name in names:
                    where = f"{bench.ladder.name}: {count} clients, cores {_told(awake)}"
                    _say(f"{where}, pass {number + 1}: {name}")
                    found.setdefault((count, awake, name), []).append(_run(bench, name, count, tiers))
    direct = [found[BOUND_CLIENTS, False, name] for name in tiers]
    costs = [CORES / statistics.median(run.perf.throughput_rps for run in runs) for runs in direct]
    bound = bench.bound_rps(costs)
    rows = []
    for count, router in product(clients, routers):
        row = _row(found[count, False, router])
        if (count, True, router) in found:
            kept = _row(found[count, True, router])
            row |= {"awake_p50_ms": kept["p50_ms"], "awake_p99_ms": kept["p99_ms"]}
        own = {"ladder": bench.ladder.name, "router": router, "clients": count, "bound_rps": bound}
        generator = "asyncio" if router == "client_side" else "perf_analyzer"
        rows.append({**own, **row, "generator": generator})
    return {
        "tier_cost_ms": [1000.0 * cost for cost in costs],
        "tier_server_cpu_ms": [_row(runs)["server_cpu_ms_per_row"] for runs in direct],
        "bound_rps": bound,
        "rows": rows,
    }


def _row(runs: Sequence[Run]) -> dict[str, Any]:
    """Medians over the passes."""
    return {
        "throughput_rps": statistics.median(run.perf.throughput_rps for run in runs),
        "p50_ms": statistics.median(run.perf.p50_ms for run in runs),
        "p99_ms": statistics.median(run.perf.p99_ms for run in runs),
        "server_cpu_ms_per_row": statistics.median(run.server_cpu_ms_per_row for run in runs),
        "throughput_rps_by_pass": [run.perf.throughput_rps for run in runs],
        "stolen_share_by_pass": [run.stolen_share for run in runs],
    }


def _told(awake: bool) -> str:
    return "kept awake" if awake else "left alone"


def show(name: str, content: dict[str, Any]) -> None:
    """The tables of one ladder."""
    shares = ", ".join(f"{share:.1%}" for share in content["reach"])
    print(f"\n{name}: {' > '.join(content['models'])}; reach {shares}; gear: {content['gear']}")
    if "rows" in content:
        costs = ", ".join(f"{cost:.3f}" for cost in content["tier_cost_ms"])
        spent = ", ".join(f"{cost:.3f}" for cost in content["tier_server_cpu_ms"])
        print(f"  core ms per row of each tier, called directly: {costs}; bound {content['bound_rps']:.0f}/s")
        print(f"  CPU ms that the server spends of them: {spent}")
        print(
            "  clients  router          requests/s   p50 ms   p99 ms   of bound   to sequential   p50 awake"
        )
        base = {r["clients"]: r["throughput_rps"] for r in content["rows"] if r["router"] == "sequential"}
        for row in content["rows"]:
            rate, count = row["throughput_rps"], row["clients"]
            ratio = f"{rate / base[count]:.2f}x" if count in base else ""
            awake = f"{row['awake_p50_ms']:.2f}" if "awake_p50_ms" in row else ""
            print(
                f"  {count:7}  {row['router']:14}  {rate:10.1f} {row['p50_ms']:8.2f} {row['p99_ms']:8.2f} "
                f"{rate / row['bound_rps']:10.2f} {ratio:>15} {awake:>11} "
                f"{row['server_cpu_ms_per_row']:15.3f} {statistics.mean(row['stolen_share_by_pass']):8.0%}"
            )
    for row in content.get("extra_ms", []):
        awake = _told(row["cores_kept_awake"])
        told = ", ".join(
            f"{key.removesuffix('_p50_ms')} {value:.3f} ({row[key.replace('p50', 'extra')]:+.3f})"
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
        _write(arguments, ladders)
    print(f"written: {arguments.out}")


def _write(arguments: argparse.Namespace, ladders: dict[str, Any]) -> None:
    content = {
        "machine": machine(),
        "date": time.strftime("%Y-%m-%d"),
        "quick": arguments.quick,
        "rows": [row for found in ladders.values() for row in found.get("rows", [])],
        "ladders": {
            name: {key: value for key, value in found.items() if key != "rows"}
            for name, found in ladders.items()
        },
    }
    write_atomically(arguments.out, (json.dumps(content, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
