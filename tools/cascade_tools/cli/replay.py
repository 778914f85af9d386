"""The verb that replays a trace on a served cascade."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cascade_tools.cli.options import BUILD, AsJson, BuildDir, Folder, open_workspace
from cascade_tools.cli.output import show_json, show_line, show_table, show_warning
from cascade_tools.cli.servers import METRICS_PORT, served
from cascade_tools.errors import UsageError

if TYPE_CHECKING:
    from cascade_tools.planning.outcomes import FloatArray
    from cascade_tools.stages.replay import ReplayReport

OUT_FOLDER = "replay"
SHOWN_MOMENTS = 12
MOST_GENERATED = 5_000_000

Format = Literal["azure2019", "azure2021", "counts", "csv", "jsonl"]
Kind = Literal["poisson", "gamma", "on-off", "diurnal", "spike"]


def register(app: typer.Typer) -> None:
    """Add the verb of this file."""
    app.command(
        epilog="Example: cascade-tools replay ensembles/digits --arrivals gamma --rate 200 --seconds 30"
    )(replay)


def replay(
    folder: Folder,
    trace: Annotated[
        Path | None, typer.Option(help="File of a trace; formats: docs/traces.md.", show_default=False)
    ] = None,
    form: Annotated[
        Format | None, typer.Option("--format", help="Of the file; default: told from its first lines.")
    ] = None,
    peak_rps: Annotated[
        float | None,
        typer.Option(help="Scale the trace to so many requests in its fullest second.", min=0.001),
    ] = None,
    peak_window: Annotated[
        float, typer.Option(help="Seconds over which the peak is counted.", min=0.01, max=86_400)
    ] = 1.0,
    window: Annotated[
        str | None,
        typer.Option(help="Seconds FROM:TO of the trace, as in 3600:3900; either may be left out."),
    ] = None,
    arrivals: Annotated[
        Kind | None, typer.Option(help="Draw the arrivals instead of reading them.", show_default=False)
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(
            help="With --arrivals: mean (poisson, gamma) or highest requests/s.", min=0.001, max=1e6
        ),
    ] = None,
    seconds: Annotated[float, typer.Option(help="With --arrivals: how long.", min=0.1, max=86_400)] = 10.0,
    cv: Annotated[
        float, typer.Option(help="Of gamma: deviation of the gaps over their mean.", min=0.05, max=20)
    ] = 4.0,
    low_rate: Annotated[
        float | None,
        typer.Option(help="Of on-off, diurnal, spike: the lowest requests/s; default: a tenth.", min=0),
    ] = None,
    period: Annotated[
        float | None,
        typer.Option(help="Seconds: of diurnal's wave, on-off's mean cycle, spike's length.", min=0.01),
    ] = None,
    slo_ms: Annotated[
        float | None,
        typer.Option(help="For the goodput; default: 3 x the last tier's planned p99.", min=0.001),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of arrivals and of the rows' order.", min=0)] = 0,
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
    """Send rows at the times of a trace, open loop; goodput, accuracy, energy, latency, gears."""
    from cascade_tools.report.replay_page import write_replay
    from cascade_tools.stages.progress import stderr_reporter
    from cascade_tools.stages.replay import replay_trace

    arrival_s, words = _arrivals(
        trace, form, peak_rps, peak_window, window, arrivals, rate, seconds, cv, low_rate, period, seed
    )
    work = open_workspace(folder, build_dir)
    with ExitStack() as stack:
        at = served(stack, work, url, metrics_url)
        report = replay_trace(
            work, at.grpc_url, at.metrics_url, at.server, arrival_s, slo_ms, seed, stderr_reporter().say
        )
    page = write_replay(out or work.path(OUT_FOLDER), report, words)
    _show(report, words)
    show_line(f"  {page}")
    if as_json:
        show_json({"arrivals": words, **asdict(report), "page": str(page)})


def _arrivals(
    trace: Path | None,
    form: Format | None,
    peak_rps: float | None,
    peak_window: float,
    window: str | None,
    arrivals: Kind | None,
    rate: float | None,
    seconds: float,
    cv: float,
    low_rate: float | None,
    period: float | None,
    seed: int,
) -> tuple[FloatArray, str]:
    """Arrival times, and where they come from in words."""
    from cascade_tools.planning.traces.generators import generate
    from cascade_tools.stages.trace_file import read_arrivals, shaped

    if (trace is None) == (arrivals is None):
        raise UsageError("--trace or --arrivals: give one of them", "as in --arrivals poisson --rate 100")
    part = _window(window)
    scaled = "" if peak_rps is None else f", scaled to a peak of {peak_rps:g} requests in {peak_window:g} s"
    scaled = ("" if window is None else f", seconds {window}") + scaled
    if trace is not None:
        if rate is not None:
            raise UsageError("--rate: belongs to --arrivals", "a trace is scaled with --peak-rps")
        return read_arrivals(trace, form, part, peak_rps, seed, peak_window), f"trace {trace.name}{scaled}"
    if rate is None or arrivals is None:
        raise UsageError("--rate: is needed with --arrivals", "as in --arrivals poisson --rate 100")
    if form is not None:
        raise UsageError("--format: belongs to --trace")
    if rate * seconds > MOST_GENERATED:
        raise UsageError(f"--rate {rate:g} for --seconds {seconds:g}: more than {MOST_GENERATED} requests")
    made = generate(arrivals, rate, seconds, seed, cv=cv, low_rps=low_rate, period_s=period)
    words = f"{arrivals} arrivals, {rate:g} requests/s for {seconds:g} s"
    return shaped(made, f"--arrivals {arrivals}", part, peak_rps, seed, peak_window), f"{words}{scaled}"


def _window(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    low, colon, high = text.partition(":")
    try:
        found = (float(low or 0.0), float(high or "inf"))
    except ValueError:
        found = (0.0, 0.0)
    if not colon or not 0.0 <= found[0] < found[1]:
        raise UsageError(f"--window {text}: must be FROM:TO in seconds, FROM below TO", "as in 3600:3900")
    return found


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
                _figure(m.goodput, 3),
                _figure(m.accuracy, 3),
                _figure(m.p50_ms, 1),
                _figure(m.p95_ms, 1),
                _figure(m.p99_ms, 1),
                _figure(m.gear, 0),
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
        f"accuracy {_figure(report.accuracy, 4)}; {energy}"
    )
    show_line(
        f"  {report.throughput_rps:.1f} answers/s; p50 {_figure(report.p50_ms, 2)}, "
        f"p95 {_figure(report.p95_ms, 2)}, p99 {_figure(report.p99_ms, 2)} ms; {tiers}"
    )
    show_line(
        f"  refused {report.refused}, failed {report.failed}; generator late by "
        f"p50 {report.lateness.p50_ms:.2f}, p95 {report.lateness.p95_ms:.2f}, "
        f"p99 {report.lateness.p99_ms:.2f} ms, {report.generator_cpu_ms:.2f} ms of CPU per request"
    )
    for error in report.errors:
        show_warning(f"a request failed: {error}")
    if not report.valid:
        show_warning(
            f"not valid: the generator lagged (p99 {report.lateness.p99_ms:.2f} ms, "
            f"allowed {report.lateness.allowed_ms:.2f} ms); quieten the machine or send from another one"
        )


def _figure(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
