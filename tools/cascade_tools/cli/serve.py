"""The verbs around a server: serve, infer, report."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from cascade_tools.cli.options import BUILD, AsJson, BuildDir, Folder, open_workspace
from cascade_tools.cli.output import show_json, show_line, show_table, show_warning

SHOWN_ROWS = 20


def register(app: typer.Typer) -> None:
    """Add the verbs of this file."""
    for verb, example in (
        (serve, "cascade-tools serve ensembles/digits"),
        (infer, "cascade-tools infer ensembles/digits/sample.npz --model digits"),
        (report, "cascade-tools report ensembles/digits"),
    ):
        app.command(epilog=f"Example: {example}")(verb)


def serve(
    folder: Folder,
    http_port: Annotated[int, typer.Option(help="0 takes any free port.", min=0, max=65535)] = 8000,
    grpc_port: Annotated[int, typer.Option(help="0 takes any free port.", min=0, max=65535)] = 8001,
    metrics_port: Annotated[int, typer.Option(help="0 takes any free port.", min=0, max=65535)] = 8002,
    host: Annotated[
        int | None, typer.Option(help="Which host this is, where the plan is for several.", min=0)
    ] = None,
    grpc_address: Annotated[
        str, typer.Option(help="Where gRPC listens: an address that other hosts reach, or 0.0.0.0 for all.")
    ] = "127.0.0.1",
    build_dir: BuildDir = BUILD,
    as_json: AsJson = False,
) -> None:
    """Serve the built cascade on the embedded Triton until Ctrl-C; on loopback, unless gRPC is opened."""
    from cascade_tools.repository.manifest import has_router, of_host
    from cascade_tools.serving.adopted import adopted_to_serve
    from cascade_tools.serving.embedded import Ports, embedded_triton, free_ports
    from cascade_tools.stages.build_repo import repository_root
    from cascade_tools.stages.pipeline import status
    from cascade_tools.stages.progress import stderr_reporter
    from cascade_tools.stages.recalibrate import SHADOW_FILE

    work = open_workspace(folder, build_dir)
    state = status(work, "embedded", stderr_reporter())["build-repo"]
    if state == "stale":
        show_warning(f"the repository is behind what it was made from; run `{work.command('run')}`")
    free = free_ports()
    ports = Ports(http_port or free.http, grpc_port or free.grpc, metrics_port or free.metrics, grpc_address)
    repository = of_host(repository_root(work, "embedded") / "current", host)
    adopted = adopted_to_serve(work.cascade) if has_router(repository) else None
    name = work.cascade.name
    shadow = work.path(SHADOW_FILE) if work.cascade.serving.shadow_share else None
    log = work.path("triton.log" if host is None else f"triton-host{host}.log")
    with embedded_triton(repository, ports, log, shadow, adopted, keep=True) as server:
        what = name if host is None else f"{name}, its part on host {host},"
        show_line(f"{what} is served: HTTP {server.http_url}, gRPC {server.grpc_url}")
        show_line(f"metrics: {server.metrics_url}   log: {server.log}   stop: Ctrl-C")
        if as_json:
            show_json(
                {
                    "model": name,
                    "http": server.http_url,
                    "grpc": server.grpc_url,
                    "metrics": server.metrics_url,
                    "log": str(server.log),
                    "shadow_log": None if shadow is None else str(shadow),
                    "pid": os.getpid(),
                    "server_pid": server.process.pid,
                }
            )
        code = server.wait()
    raise typer.Exit(1 if code else 0)


def infer(
    rows: Annotated[Path, typer.Argument(help=".npz with one array per input.", show_default=False)],
    model: Annotated[str, typer.Option(help="Name of the served cascade.")],
    url: Annotated[str | None, typer.Option(help="Default: 127.0.0.1:8001, or :8000 for http.")] = None,
    protocol: Annotated[Literal["grpc", "http"], typer.Option(help="How to ask.")] = "grpc",
    deadline_ms: Annotated[
        int | None, typer.Option(help="Answer by then with the best so far.", min=1)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Send a file of rows to a served cascade and print the answers."""
    from cascade_tools.serving.infer import infer_rows

    answers = infer_rows(rows, model, url, protocol, deadline_ms)
    show_table(
        f"{len(answers)} answers of {model}",
        ["row", "label", "confidence", "tier", "flags"],
        [
            [str(i), str(a["label"]), f"{a['confidence']:.4f}", str(a["tier"]), a["flags"] or "-"]
            for i, a in enumerate(answers[:SHOWN_ROWS])
        ],
    )
    if len(answers) > SHOWN_ROWS:
        show_line(f"  ... and {len(answers) - SHOWN_ROWS} more; --json has all")
    if as_json:
        show_json({"model": model, "answers": answers})


def report(folder: Folder, build_dir: BuildDir = BUILD, as_json: AsJson = False) -> None:
    """Write the page of figures and pictures from what has been measured so far."""
    from cascade_tools.report.page import write_report

    page = write_report(open_workspace(folder, build_dir))
    show_line(f"report: {page}")
    if as_json:
        show_json({"report": str(page)})
