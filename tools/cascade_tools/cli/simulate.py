"""The verb that simulates a planned cascade under load."""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from cascade_tools.cli.arrivals import Load, takes_load
from cascade_tools.cli.options import BUILD, AsJson, BuildDir, Folder, open_workspace
from cascade_tools.cli.output import figure, show_json, show_line, show_table, show_warning
from cascade_tools.errors import UsageError

if TYPE_CHECKING:
    from cascade_tools.planning.simulator.system import Loss
    from cascade_tools.stages.simulate import SimulationReport

LOSS = re.compile(r"(\d{1,6})@(\d+(?:\.\d*)?|\.\d+)")


def register(app: typer.Typer) -> None:
    """Add the verb of this file."""
    app.command(epilog="Example: cascade-tools simulate ensembles/digits --rate 800 --seconds 60")(simulate)


@takes_load
def simulate(
    folder: Folder,
    load: Load,
    lose: Annotated[
        list[str] | None,
        typer.Option(help="DEVICE@SECONDS: that device is gone from then on; may be repeated."),
    ] = None,
    client_here: Annotated[
        bool, typer.Option("--client-here", help="The client is on the router's machine, as `replay` may be.")
    ] = False,
    slo_ms: Annotated[
        float | None,
        typer.Option(help="For the goodput; default: 3 x the last tier's planned p99.", min=0.001),
    ] = None,
    build_dir: BuildDir = BUILD,
    as_json: AsJson = False,
) -> None:
    """Simulate the planned cascade under load: rates, goodput, accuracy, latency, gears, energy."""
    from cascade_tools.stages.simulate import simulate_load

    losses = tuple(_loss(text) for text in lose or [])
    arrival_s, words = load.made()
    work = open_workspace(folder, build_dir)
    report = simulate_load(work, arrival_s, losses, slo_ms, load.seed, client_here)
    _show(report, words)
    if as_json:
        show_json({"simulated": True, "arrivals": words, **asdict(report)})


def _loss(text: str) -> Loss:
    from cascade_tools.planning.simulator.system import Loss

    found = LOSS.fullmatch(text)
    if found is None:
        raise UsageError(f"--lose {text}: must be DEVICE@SECONDS", "as in --lose 1@30")
    return Loss(at_s=float(found[2]), device=int(found[1]))


def _show(report: SimulationReport, words: str) -> None:
    show_table(
        f"{report.cascade}, simulated: {report.requests} requests; {words}",
        ["", "requests/s", "p50 ms", "p95 ms", "p99 ms", "goodput", "accuracy"],
        [
            [
                "simulated",
                f"{report.throughput_rps:,.1f} of {report.offered_rps:,.1f}",
                figure(report.p50_ms, 2),
                figure(report.p95_ms, 2),
                figure(report.p99_ms, 2),
                f"{report.goodput:.4f}",
                figure(report.accuracy, 4),
            ]
        ],
    )
    show_table(
        "Tiers, simulated",
        ["tier", "answers", "rows asked", "mean batch"],
        [
            [
                tier,
                f"{report.shares[tier]:.1%}",
                f"{report.asked[tier]:,}",
                figure(report.mean_batch[tier], 2),
            ]
            for tier in report.shares
        ],
    )
    show_line(
        f"  goodput: within {report.slo_ms:g} ms ({report.slo_from}); refused {report.refused}, failed "
        f"{report.failed}"
    )
    gears = ", ".join(f"{gear} for {share:.1%}" for gear, share in report.gear_shares.items())
    busy = ", ".join(f"{place} {share:.2f}" for place, share in report.busy_share.items())
    show_line(f"  gears: {gears or '-'} ({report.gear_changes} changes); busy share: {busy}")
    if report.dynamic_j is None:
        show_line("  energy: not known of every tier")
    else:
        idle = "idle power not known" if report.idle_j is None else f"{report.idle_j:.1f} J idle"
        answer = report.dynamic_j_per_answer
        each = "" if answer is None else f", {answer:.3g} J per answer"
        show_line(
            f"  energy, simulated from {report.energy_figures or 'unknown'} figures: "
            f"{report.dynamic_j:.1f} J for the batches{each}; {idle}"
        )
    for warning in report.warnings:
        show_warning(warning)
