"""The verb that puts load on a served cascade."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from cascade_tools.cli.options import BUILD, AsJson, BuildDir, Folder, open_workspace
from cascade_tools.cli.output import show_json, show_line, show_table
from cascade_tools.cli.servers import METRICS_PORT, served
from cascade_tools.errors import UsageError

if TYPE_CHECKING:
    from cascade_tools.stages.bench import BenchReport, TierLoad

MOST_CLIENTS = 1024


def register(app: typer.Typer) -> None:
    """Add the verb of this file."""
    app.command(epilog="Example: cascade-tools bench ensembles/digits --clients 1,8,32")(bench)


def bench(
    folder: Folder,
    clients: Annotated[str, typer.Option(help="Requests under way at once, comma separated.")] = "1,8,32",
    hard_share: Annotated[
        float | None,
        typer.Option(
            help="Share of rows that the first tier does not accept; default: as in the data.", min=0, max=1
        ),
    ] = None,
    seconds: Annotated[float, typer.Option(help="How long each is measured.", min=0.3, max=600)] = 6.0,
    url: Annotated[
        str | None, typer.Option(help="gRPC address (host:port) of a running server; default: starts one.")
    ] = None,
    metrics_url: Annotated[
        str | None, typer.Option(help=f"Its metrics page; default: port {METRICS_PORT} of the same host.")
    ] = None,
    build_dir: BuildDir = BUILD,
    as_json: AsJson = False,
) -> None:
    """Measure the served cascade with your own rows: rate, latency, and what each tier did."""
    from cascade_tools.stages.bench import bench as measure
    from cascade_tools.stages.progress import stderr_reporter

    counts = _counts(clients)
    work = open_workspace(folder, build_dir)
    with ExitStack() as stack:
        at = served(stack, work, url, metrics_url)
        report = measure(
            work, at.grpc_url, at.metrics_url, counts, seconds, hard_share, stderr_reporter().say
        )
    mix = "the data's own mix" if report.hard_share is None else f"{report.hard_share:.1%} hard"
    name = work.cascade.name
    tiers = [tier.tier for tier in report.table[0].tiers]
    show_table(
        f"{name}: {report.rows} rows of {report.rows_from}, {mix}, sent by {report.generator}",
        ["clients", "requests/s", "p50 ms", "p99 ms", "J per row", *tiers],
        [
            [
                str(row.clients),
                f"{row.throughput_rps:.1f}",
                f"{row.p50_ms:.2f}",
                f"{row.p99_ms:.2f}",
                "-" if row.energy_j is None else f"{row.energy_j:.5f}",
                *[_cell(tier) for tier in row.tiers],
            ]
            for row in report.table
        ],
    )
    show_line(
        "  Per tier: share of the rows that it answered; mean ms in its queue + in the model (Triton's)."
    )
    show_line(f"  {_energy_words(report)}")
    if as_json:
        show_json({"model": name, **asdict(report)})


def _counts(text: str) -> list[int]:
    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError:
        counts = [0]
    if not all(1 <= count <= MOST_CLIENTS for count in counts):
        raise UsageError(
            f"--clients {text}: must be whole numbers from 1 to {MOST_CLIENTS}, comma separated",
            "as in 1,8,32",
        )
    return counts


def _energy_words(report: BenchReport) -> str:
    if report.no_energy is not None:
        return f"No energy: {report.no_energy}."
    shares = [f"{row.idle_share:.0%}" for row in report.table if row.idle_share is not None]
    return f"J: of the server's GPUs, without their idle power, which is {', '.join(shares)} of the total."


def _cell(tier: TierLoad) -> str:
    if tier.queue_ms is None or tier.compute_ms is None:
        return "-"
    return f"{tier.answered_share:.1%} {tier.queue_ms:.2f}+{tier.compute_ms:.2f}"
