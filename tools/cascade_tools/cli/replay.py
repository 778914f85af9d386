"""The verb that replays a trace on a served cascade."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cascade_tools.cli.arrivals import Load, takes_load
from cascade_tools.cli.options import BUILD, AsJson, BuildDir, Folder, open_workspace
from cascade_tools.cli.output import figure, show_json, show_line, show_table, show_warning
from cascade_tools.cli.servers import METRICS_PORT, served

if TYPE_CHECKING:
    from cascade_tools.stages.replay import ReplayReport

OUT_FOLDER = "replay"
SHOWN_MOMENTS = 12


def register(app: typer.Typer) -> None:
    """Add the verb of this file."""
    app.command(
        epilog="Example: cascade-tools replay ensembles/digits --arrivals gamma --rate 200 --seconds 30"
    )(replay)


@takes_load
def replay(
    folder: Folder,
    load: Load,
    slo_ms: Annotated[
        float | None,
        typer.Option(help="For the goodput; default: 3 x the last tier's planned p99.", min=0.001),
    ] = None,
    url: Annotated[
        str | None, typer.Option(help="gRPC address (host:port) of a running server; default: starts one.")
    ] = None,
    metrics_url: Annotated[
        str | None, typer.Option(help=f"Its metrics page; default: port {METRICS_PORT} of the same host.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Where figures and pictures go; default: build/<cascade>/replay.")
    ] = None,
    build_dir: BuildDir = BUILD,
    as_json: AsJson = False,
) -> None:
    """Send rows at the times of a trace, open loop; goodput, accuracy, energy, latency; 1 if not valid."""
    from cascade_tools.report.replay_page import write_replay
    from cascade_tools.stages.progress import stderr_reporter
    from cascade_tools.stages.replay import replay_trace

    arrival_s, words = load.made()
    work = open_workspace(folder, build_dir)
    with ExitStack() as stack:
        at = served(stack, work, url, metrics_url)
        report = replay_trace(
            work, at.grpc_url, at.metrics_url, at.server, arrival_s, slo_ms, load.seed, stderr_reporter().say
        )
    page = write_replay(out or work.path(OUT_FOLDER), report, words)
    if not report.valid:
        _warn(report)
    _show(report, words)
    show_line(f"  {page}")
    if as_json:
        show_json({"arrivals": words, **asdict(report), "page": str(page)})
    if not report.valid:
        _warn(report)
        raise typer.Exit(1)


def _warn(report: ReplayReport) -> None:
    """Before the figures, and once more behind them: whoever reads the last lines only sees it, too."""
    show_warning(
        f"not valid: the generator lagged (p99 {report.lateness.p99_ms:.2f} ms, allowed "
        f"{report.lateness.allowed_ms:.2f} ms), so the figures may be its own; quieten the machine or send "
        "from another one"
    )


def _show(report: ReplayReport, words: str) -> None:
    step = max(1, -(-len(report.over_time) // SHOWN_MOMENTS))
    show_table(
        f"{report.cascade}: {report.requests} rows of {report.rows_from}; {words}",
        ["second", "arrived/s", "answered/s", "in SLO", "accuracy", "p50 ms", "p95 ms", "p99 ms", "gear"],
        [
            [
                f"{m.second:g}",
                f"{m.arrived:.0f}",
                f"{m.answered:.0f}",
                figure(m.goodput, 3),
                figure(m.accuracy, 3),
                figure(m.p50_ms, 1),
                figure(m.p95_ms, 1),
                figure(m.p99_ms, 1),
                figure(m.gear, 0),
            ]
            for m in report.over_time[::step]
        ],
    )
    tiers = ", ".join(f"{tier} {share:.1%}" for tier, share in report.shares.items())
    if report.energy_j is None:
        energy = f"no energy: {report.no_meter}"
    else:
        energy = f"{report.energy_j:.5f} J per answer ({report.energy_origin}, without idle power)"
    show_line(
        f"  goodput {report.goodput:.4f} within {report.slo_ms:g} ms ({report.slo_from}); "
        f"accuracy {figure(report.accuracy, 4)}; {energy}"
    )
    show_line(
        f"  {report.throughput_rps:.1f} answers/s; p50 {figure(report.p50_ms, 2)}, "
        f"p95 {figure(report.p95_ms, 2)}, p99 {figure(report.p99_ms, 2)} ms; {tiers}"
    )
    show_line(
        f"  refused {report.refused}, failed {report.failed}; generator late by "
        f"p50 {report.lateness.p50_ms:.2f}, p95 {report.lateness.p95_ms:.2f}, "
        f"p99 {report.lateness.p99_ms:.2f} ms, {report.generator_cpu_ms:.2f} ms of CPU per request"
    )
    for error in report.errors:
        show_warning(f"a request failed: {error}")
