"""Points of the grid on the real server: one host at its share of the rate, beside the simulation of it."""

from __future__ import annotations

from benchmarks.paper.fewest import Point
from benchmarks.paper.finding import Cell, Column, Table
from benchmarks.paper.served import Bench, Router, routers_served
from benchmarks.paper.setting import Setting
from benchmarks.paper.ways import Host, Served, Trace, figures
from cascade_tools.serving.replay import Replayed, replay

Check = tuple[Point, int, list[tuple[str, Served]]]
ATTEMPTS = 4
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
    Column("generator"),
)


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
                found = _measured(bench, model, way, trace)
                giant = host.giant_accuracy(trace)
                rows.append(row_of(point, count, (name, way.label), way.seen(rate), found, giant))
    return Table("One of those hosts, on this machine's server", "measured", COLUMNS, tuple(rows))


def row_of(
    point: Point,
    count: int,
    who: tuple[str, str],
    simulated: tuple[float, float],
    found: Replayed,
    giant_accuracy: float,
) -> tuple[Cell, ...]:
    """One line of the table; a run whose generator lagged gets no verdict.

    Args:
        point: of the grid.
        count: of hosts that share its rate.
        who: the system, and which of its ways.
        simulated: P95 in ms and points below the giant.
        found: what the server did.
        giant_accuracy: on the same rows.
    """
    measured = figures(found.outcomes, giant_accuracy)
    late = found.lateness
    return (
        point.slo_ms,
        point.allowance,
        point.rate_rps,
        count,
        *who,
        simulated[0],
        measured[0],
        simulated[1],
        measured[1],
        _kept(point, *simulated),
        _kept(point, *measured) if late.valid else "does not count",
        "in time" if late.valid else f"lagged by {late.p99_ms:.1f} ms (P99)",
    )


def _kept(point: Point, p95_ms: float, points: float) -> str:
    return "yes" if p95_ms <= point.slo_ms and points <= point.allowance + 1e-9 else "no"


def _measured(bench: Bench, model: str, way: Served, trace: Trace) -> Replayed:
    """The same generator for a router and for a tier's own model; again where it lagged."""
    rows = bench.setting.test_rows
    tier = None if way.model is None else bench.setting.cascade.tier_names.index(way.label)
    for _ in range(ATTEMPTS):
        found = replay(
            bench.server.grpc_url,
            model,
            rows.inputs,
            bench.datatypes,
            trace.rows,
            trace.arrival_s,
            target=rows.target,
            tier=tier,
            awake=True,
        )
        if found.lateness.valid:
            break
    return found
