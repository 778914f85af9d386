"""The verb `place`: a cascade's tiers, or a problem file's, on devices."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cascade_tools.cli.options import BUILD, AsJson, BuildDir, open_workspace
from cascade_tools.cli.output import show_json, show_line
from cascade_tools.errors import Infeasible, UsageError
from cascade_tools.store import Workspace

if TYPE_CHECKING:
    from cascade_tools.artifacts import Placement
    from cascade_tools.stages.placed import Planned

EXAMPLE = "cascade-tools place ensembles/digits"
LEFT_OUT = {"kind", "format", "cascade", "made_from", "devices", "baselines_take"}


def register(app: typer.Typer) -> None:
    """Add the verb of this file."""
    app.command(epilog=f"Example: {EXAMPLE}")(place)


def place(
    folder: Annotated[
        Path | None, typer.Argument(help="Folder of the cascade (with cascade.yaml).", show_default=False)
    ] = None,
    problem: Annotated[
        Path | None,
        typer.Option(help="Instead of a cascade: a file of tiers and devices; nothing is written."),
    ] = None,
    devices: Annotated[
        Path | None,
        typer.Option(
            help="Instead of the cascade's device file, for this call; name it in cascade.yaml to keep it."
        ),
    ] = None,
    build_dir: BuildDir = BUILD,
    as_json: AsJson = False,
) -> None:
    """Place instances of the tiers on the devices: at which rate, on which of them, and if one is lost."""
    if (folder is None) == (problem is None):
        raise UsageError("give either the folder of a cascade or --problem FILE", f"such as `{EXAMPLE}`")
    if problem is not None:
        if devices is not None:
            raise UsageError("--devices: belongs to a cascade; the problem file names its devices itself")
        _place_problem(problem, as_json)
        return
    assert folder is not None
    work = open_workspace(folder, build_dir)
    if devices is not None:
        work = Workspace(work.cascade.with_devices(devices), work.build)
    made = _placed(work)
    _show(made, None)
    if as_json:
        show_json(made.model_dump(mode="json"))


def _placed(work: Workspace) -> Placement:
    from cascade_tools.artifacts import Placement
    from cascade_tools.stages.pipeline import run_stage, stage_named
    from cascade_tools.stages.place import PLACEMENT_FILE
    from cascade_tools.stages.progress import stderr_reporter

    report = stderr_reporter()
    # A given profile is only read, so nobody has to ask for that first.
    if not work.cascade.has_models and stage_named("profile").state(work) != "fresh":
        run_stage("profile", work, report)
    run_stage("place", work, report)
    return work.load(PLACEMENT_FILE, Placement, "place")


def _place_problem(path: Path, as_json: bool) -> None:
    from cascade_tools.stages.problem_file import place_problem

    try:
        made, found = place_problem(path)
    except Infeasible as error:
        details = {"detail": error.message, "missing_mib": None, **error.details}
        raise Infeasible(error.message, error.hint, constraint=error.constraint, details=details) from None
    _show(made, found.seconds)
    if as_json:
        show_json(problem_json(made, found))


def _show(made: Placement, seconds: float | None) -> None:
    from cascade_tools.cli.placement_screen import placement_screen

    for line in placement_screen(made, seconds):
        show_line(line)


def problem_json(made: Placement, found: Planned) -> dict[str, Any]:
    """The object for machines: all of the placement, and what the search took."""
    content = made.model_dump(mode="json", exclude=LEFT_OUT)
    load = [
        {
            "device": number,
            "type": device.type,
            "host": device.host,
            "busy_share": device.busy_share,
            "used_memory_mib": device.used_memory_mib,
            "memory_mib": found.problem.devices[number].memory_mib,
        }
        for number, device in enumerate(made.devices)
    ]
    return {
        **content,
        "seconds": found.seconds,
        "instances": [
            {**entry, "type": load[entry["device"]]["type"], "host": load[entry["device"]]["host"]}
            for entry in content["instances"]
        ],
        "load": load,
        "baselines": {name: _baseline(made, name) for name in made.baselines},
    }


def _baseline(made: Placement, name: str) -> dict[str, Any]:
    """Its rate; where the goal gives that, what it takes for it."""
    rate, takes = made.baselines[name], made.baselines_take.get(name)
    content = {"rate_rps": rate, "feasible": rate is not None}
    return content if takes is None else {**content, **takes.model_dump(mode="json")}
