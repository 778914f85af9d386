"""The verb that simulates a planned cascade under load."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cascade_tools.cli.options import BUILD, AsJson, BuildDir, Folder, open_workspace
from cascade_tools.cli.output import show_json, show_line, show_table, show_warning
from cascade_tools.errors import UsageError

if TYPE_CHECKING:
    from cascade_tools.planning.outcomes import FloatArray
    from cascade_tools.planning.simulator.system import Loss
    from cascade_tools.stages.simulate import SimulationReport

MOST_REQUESTS = 5_000_000
LOSS = re.compile(r"(\d{1,6})@(\d+(?:\.\d*)?|\.\d+)")

Format = Literal["azure2019", "azure2021", "counts", "csv", "jsonl"]
Kind = Literal["poisson", "gamma", "on-off", "diurnal", "spike"]


def register(app: typer.Typer) -> None:
    """Add the verb of this file."""
    app.command(epilog="Example: cascade-tools simulate ensembles/digits --rate 800 --seconds 60")(simulate)


def simulate(
    folder: Folder,
    rate: Annotated[
        float | None,
        typer.Option(
            help="Requests/s: mean of poisson and gamma, highest of the others.", min=0.001, max=1e6
        ),
    ] = None,
    seconds: Annotated[float, typer.Option(help="How long requests come.", min=0.01, max=864_000)] = 60.0,
    arrivals: Annotated[Kind, typer.Option(help="How they come.")] = "poisson",
    cv: Annotated[
        float, typer.Option(help="Of gamma: deviation of the gaps over their mean.", min=0.05, max=20)
    ] = 4.0,
    trace: Annotated[
        Path | None,
        typer.Option(help="Instead: a file of a trace; formats: docs/traces.md.", show_default=False),
    ] = None,
    form: Annotated[
        Format | None, typer.Option("--format", help="Of the file; default: told from its first lines.")
    ] = None,
    peak_rps: Annotated[
        float | None,
        typer.Option(help="Scale the trace to so many requests in its fullest second.", min=0.001),
    ] = None,
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
    seed: Annotated[int, typer.Option(help="Of arrivals and of the rows' order.", min=0)] = 0,
    build_dir: BuildDir = BUILD,
    as_json: AsJson = False,
) -> None:
    """Simulate the planned cascade under load: rates, goodput, accuracy, latency, gears, energy."""
    from cascade_tools.stages.simulate import simulate_load

    losses = tuple(_loss(text) for text in lose or [])
    arrival_s, words = _arrivals(rate, seconds, arrivals, cv, trace, form, peak_rps, seed)
    work = open_workspace(folder, build_dir)
    report = simulate_load(work, arrival_s, losses, slo_ms, seed, client_here)
    _show(report, words)
    if as_json:
        show_json({"simulated": True, "arrivals": words, **asdict(report)})


def _loss(text: str) -> Loss:
    from cascade_tools.planning.simulator.system import Loss

    found = LOSS.fullmatch(text)
    if found is None:
        raise UsageError(f"--lose {text}: must be DEVICE@SECONDS", "as in --lose 1@30")
    return Loss(at_s=float(found[2]), device=int(found[1]))


def _arrivals(
    rate: float | None,
    seconds: float,
    arrivals: Kind,
    cv: float,
    trace: Path | None,
    form: Format | None,
    peak_rps: float | None,
    seed: int,
) -> tuple[FloatArray, str]:
    """Arrival times, and where they come from in words."""
    from cascade_tools.planning.traces.generators import generate
    from cascade_tools.stages.trace_file import read_arrivals, shaped

    if (trace is None) == (rate is None):
        raise UsageError("--rate or --trace: give one of them", "as in --rate 100 --seconds 60")
    if trace is not None:
        scaled = "" if peak_rps is None else f", scaled to a peak of {peak_rps:g} requests/s"
        return read_arrivals(trace, form, None, peak_rps, seed), f"trace {trace.name}{scaled}"
    if form is not None or peak_rps is not None or rate is None:
        raise UsageError(f"--{'format' if form else 'peak-rps'}: belongs to --trace")
    if rate * seconds > MOST_REQUESTS:
        raise UsageError(f"--rate {rate:g} for --seconds {seconds:g}: more than {MOST_REQUESTS} requests")
    made = generate(arrivals, rate, seconds, seed, cv=cv)
    words = f"{arrivals} arrivals, {rate:g} requests/s for {seconds:g} s"
    return shaped(made, f"--rate {rate:g} --seconds {seconds:g}", None, None, seed), words


def _show(report: SimulationReport, words: str) -> None:
    show_table(
        f"{report.cascade}, simulated: {report.requests} requests; {words}",
        ["", "requests/s", "p50 ms", "p95 ms", "p99 ms", "goodput", "accuracy"],
        [
            [
                "simulated",
                f"{report.throughput_rps:,.1f} of {report.offered_rps:,.1f}",
                _figure(report.p50_ms, 2),
                _figure(report.p95_ms, 2),
                _figure(report.p99_ms, 2),
                f"{report.goodput:.4f}",
                _figure(report.accuracy, 4),
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
                _figure(report.mean_batch[tier], 2),
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
        idle = "idle power not known" if report.idle_j is None else f"and {report.idle_j:.1f} J idle"
        show_line(f"  energy, simulated: {report.dynamic_j:.1f} J for the batches, {idle}")
    for warning in report.warnings:
        show_warning(warning)


def _figure(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
