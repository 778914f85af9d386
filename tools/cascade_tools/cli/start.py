"""The verbs of the first day: demo, init, run, status."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cascade_tools.cli.options import BUILD, AsJson, BuildDir, Folder, TargetName, open_workspace
from cascade_tools.cli.output import show_json, show_line, show_table


def register(app: typer.Typer) -> None:
    """Add the verbs of this file."""
    for verb, example in (
        (demo, "cascade-tools demo --json"),
        (init, "cascade-tools init my-cascade"),
        (run, "cascade-tools run ensembles/digits"),
        (status, "cascade-tools status ensembles/digits"),
    ):
        app.command(epilog=f"Example: {example}")(verb)


def demo(build_dir: BuildDir = BUILD, as_json: AsJson = False) -> None:
    """The whole chain on real digits: plan, serve on a real Triton, and compare with the giant."""
    from cascade_tools import resources
    from cascade_tools.cli.score_table import score_json, show_score
    from cascade_tools.report.page import write_report
    from cascade_tools.scoring.score import score
    from cascade_tools.serving.embedded import embedded_triton
    from cascade_tools.serving.triton_wheel import find_triton
    from cascade_tools.stages.pipeline import run_all
    from cascade_tools.stages.progress import stderr_reporter

    find_triton()  # before minutes of work, not after
    work, report = open_workspace(resources.shipped_cascade("digits"), build_dir), stderr_reporter()
    repository = run_all(work, "embedded", report)
    report.say("starting Triton on free loopback ports")
    with embedded_triton(repository) as server:
        report.say(f"ready on {server.grpc_url} (gRPC); sending the test rows")
        result = score(work, server, report.say)
    report.say("Triton stopped")
    show_score(result)
    show_line(f"report: {write_report(work)}")
    if as_json:
        show_json(score_json(result))
    if not result.promise_held:
        raise typer.Exit(1)


def init(
    name: Annotated[str, typer.Argument(help="Name of the new cascade.", show_default=False)],
    parent: Annotated[Path, typer.Option(help="Folder that holds the cascades.")] = Path("ensembles"),
    as_json: AsJson = False,
) -> None:
    """Write a commented cascade that runs as it is, to be changed step by step."""
    from cascade_tools.stages.init import write_starter

    files = write_starter(parent, name)
    for path in files:
        show_line(f"wrote {path}")
    show_line(f"next: cascade-tools run {parent / name}")
    if as_json:
        show_json({"folder": str(parent / name), "files": [str(path) for path in files]})


def run(
    folder: Folder,
    target: TargetName = "embedded",
    force: Annotated[bool, typer.Option("--force", help="Run fresh stages again, too.")] = False,
    build_dir: BuildDir = BUILD,
    as_json: AsJson = False,
) -> None:
    """Run every stage that is stale, up to the Triton repository."""
    from cascade_tools.report.page import write_report
    from cascade_tools.stages.pipeline import run_all
    from cascade_tools.stages.progress import stderr_reporter

    work = open_workspace(folder, build_dir)
    repository = run_all(work, target, stderr_reporter(), force=force)
    page = write_report(work)
    show_line(f"repository: {repository}")
    show_line(f"report: {page}")
    if as_json:
        show_json({"repository": str(repository), "report": str(page)})


def status(
    folder: Folder,
    target: TargetName = "embedded",
    build_dir: BuildDir = BUILD,
    as_json: AsJson = False,
) -> None:
    """Say which stages are fresh, stale or missing."""
    from cascade_tools.stages import pipeline
    from cascade_tools.stages.progress import stderr_reporter

    work = open_workspace(folder, build_dir)
    states = pipeline.status(work, target, stderr_reporter())
    changed = {stage.name: stage.changed(work) for stage in pipeline.STAGES if states[stage.name] == "stale"}
    show_table(
        f"{work.cascade.name} ({work.build})",
        ["stage", "state", "changed"],
        [[name, state, ", ".join(changed.get(name, ()))] for name, state in states.items()],
        figures=False,
    )
    if as_json:
        show_json({"stages": states, "changed": changed})
