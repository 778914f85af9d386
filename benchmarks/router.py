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
from collections.abc import Sequence
from contextlib import nullcontext
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.ladders import LADDERS
from benchmarks.measuring import (
    BOUND_CLIENTS,
    CORES,
    FULL,
    QUICK,
    ROUTERS,
    Bench,
    Run,
    run_once,
    served,
)
from cascade_tools.errors import CascadeError, UsageError
from cascade_tools.machine.facts import machine
from cascade_tools.serving.awake import awake_cores
from cascade_tools.serving.perf_analyzer import find_perf_analyzer
from cascade_tools.store import write_atomically

CLIENTS = (1, 8, 32)
PARTS = ("table", "extra", "hard")
OUT = Path("build/benchmarks/router.json")


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
        with awake_cores():
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
                    found.setdefault((count, awake, name), []).append(run_once(bench, name, count, tiers))
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
            f"{row['cascade_p50_ms']:.2f}, p99 {row['cascade_p99_ms']:.2f} ms; without a router "
            f"p50 {row['direct_p50_ms']:.2f}, p99 {row['direct_p99_ms']:.2f} ms"
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
    parser.add_argument("--parts", default=",".join(PARTS), help="comma separated")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    try:
        _measure(arguments)
    except KeyboardInterrupt:
        sys.exit(130)
    except CascadeError as error:
        sys.exit(f"error: {error.message}" + (f"\n  -> {error.hint}" if error.hint else ""))


def _measure(arguments: argparse.Namespace) -> None:
    wanted = _wanted(arguments.only)
    effort = QUICK if arguments.quick else FULL
    parts = set(arguments.parts.split(","))
    if not parts <= set(PARTS):
        raise UsageError(f"--parts {arguments.parts}: some of {', '.join(PARTS)}, comma separated")
    if not all(count.isdecimal() and int(count) for count in arguments.clients.split(",")):
        raise UsageError(f"--clients {arguments.clients}: whole numbers from 1, comma separated")
    clients = [int(count) for count in arguments.clients.split(",")]
    program = find_perf_analyzer()
    ladders: dict[str, Any] = {}
    for name, routers in wanted.items():
        _say(f"{name}: making the repository")
        ladder = LADDERS[name]()
        with served(ladder) as server:
            bench = Bench(ladder, server, program, effort)
            ladders[name] = run_ladder(bench, routers, clients, parts)
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
