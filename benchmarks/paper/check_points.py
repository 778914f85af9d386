"""Points of the grid on the real server: one host at its share of the rate, beside the simulation of it."""

from __future__ import annotations

import numpy as np

from benchmarks.clients import open_loop
from benchmarks.paper.fewest import Point
from benchmarks.paper.finding import Cell, Column, Table
from benchmarks.paper.served import Bench, Router, routers_served
from benchmarks.paper.setting import Setting
from benchmarks.paper.ways import Host, Served, Trace, figures
from cascade_tools.planning.outcomes import Outcomes
from cascade_tools.serving.replay import replay

Check = tuple[Point, int, list[tuple[str, Served]]]
CLIENT_RPS = 150.0
COLUMNS = (
    Column("P95 at most, ms", ".0f"),
    Column("points, at most", ".2f"),
    Column("rate", ".0f"),
    Column("hosts", "d"),
    Column("who"),
    Column("how"),
    Column("simulated P95 ms", ".1f"),
    Column("measured P95 ms", ".1f"),
    Column("simulated points", ".2f"),
    Column("measured points", ".2f"),
    Column("kept, simulated"),
    Column("kept, measured"),
)


def client_cost_ms(setting: Setting) -> float:
    """CPU time of the load generator per request, measured on the planned cascade at a quiet rate."""
    rows = setting.test_rows
    gears = tuple((gear.up_to_rps, gear.policy) for gear in setting.plan.gears)
    count = round(CLIENT_RPS * setting.effort.seconds / 2)
    with routers_served(setting, [Router("planned", gears)]) as bench:
        found = replay(
            bench.server.grpc_url,
            "planned",
            rows.inputs,
            bench.datatypes,
            np.arange(count) % len(rows),
            np.arange(count) / CLIENT_RPS,
            target=rows.target,
        )
    return 1000.0 * found.client_cpu_s / count


def check_on_server(setting: Setting, host: Host, checks: list[Check]) -> Table:
    """Serve each way on this machine, with the very trace that was simulated."""
    ways = list(dict.fromkeys(way for _, _, some in checks for _, way in some))
    routers = {
        way: Router(f"way_{number}", way.gears) for number, way in enumerate(ways) if way.model is None
    }
    rows: list[tuple[Cell, ...]] = []
    with routers_served(setting, list(routers.values())) as bench:
        for point, count, some in checks:
            rate = point.rate_rps / count
            trace = host.trace(rate)
            for name, way in some:
                setting.say(f"  {name} at {rate:.0f}/s on the server")
                model = routers[way].name if way.model is None else way.model
                outcomes = _measured(bench, host, model, way, trace)
                simulated = way.seen(rate)
                measured = figures(outcomes, host.giant_accuracy(trace))
                kept = [_kept(point, *found) for found in (simulated, measured)]
                rows.append(
                    (
                        point.slo_ms,
                        point.allowance,
                        point.rate_rps,
                        count,
                        name,
                        way.label,
                        simulated[0],
                        measured[0],
                        simulated[1],
                        measured[1],
                        *kept,
                    )
                )
    return Table("One of those hosts, on this machine's server", "measured", COLUMNS, tuple(rows))


def _kept(point: Point, p95_ms: float, points: float) -> str:
    return "yes" if p95_ms <= point.slo_ms and points <= point.allowance + 1e-9 else "no"


def _measured(bench: Bench, host: Host, model: str, way: Served, trace: Trace) -> Outcomes:
    rows, url = bench.setting.test_rows, bench.server.grpc_url
    if way.model is None:
        found = replay(
            url, model, rows.inputs, bench.datatypes, trace.rows, trace.arrival_s, target=rows.target
        )
        return found.outcomes
    # A tier's own model does not say which tier it is, and its answers are known.
    tier = bench.setting.cascade.tier_names.index(way.label)
    sent = rows.take(trace.rows)
    asked = np.zeros(len(sent), np.int64)
    latency_ms = open_loop(url, [model], asked, sent.inputs, bench.datatypes, trace.arrival_s.tolist())
    return Outcomes(
        arrival_s=trace.arrival_s,
        latency_ms=latency_ms,
        tier=np.full(len(sent), tier),
        correct=host.recorded.correct[trace.rows, tier],
        gear=np.zeros(len(sent), np.int64),
    )
