"""The verb `profile`: measure a cascade's tiers, or compare, merge and import what was measured elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cascade_tools.cli.options import BUILD, AsJson, BuildDir, open_workspace, whole_numbers
from cascade_tools.cli.output import show_json, show_line, show_table
from cascade_tools.cli.profile_fits import show_fits
from cascade_tools.cli.profile_table import show_profile
from cascade_tools.errors import CheckFailed, UsageError
from cascade_tools.spec import SPEC_FILE
from cascade_tools.store import Workspace

if TYPE_CHECKING:
    from cascade_tools.artifacts import Profile
    from cascade_tools.planning.profile_tables import ProfileDiff

Paths = Annotated[
    list[Path],
    typer.Argument(
        help="Folder of the cascade; with --diff and --merge, profiles or folders of cascades.",
        show_default=False,
        metavar="FOLDER | PROFILES...",
    ),
]


def register(app: typer.Typer) -> None:
    """Add the verb of this file."""
    app.command(epilog="Example: cascade-tools profile ensembles/digits --json")(profile)


def profile(
    paths: Paths,
    through: Annotated[
        Literal["server", "process"] | None,
        typer.Option(help="The embedded Triton, or this process; instead of the spec's, for this call."),
    ] = None,
    batches: Annotated[
        str | None,
        typer.Option(help="Rows of a batch, such as 1,4,16; instead of the spec's, for this call."),
    ] = None,
    instances: Annotated[
        str | None, typer.Option(help="Instances at a time, such as 1,2; only on a server; likewise.")
    ] = None,
    diff: Annotated[
        bool, typer.Option("--diff", help="Hold the second profile against the first; measure nothing.")
    ] = False,
    merge: Annotated[
        bool, typer.Option("--merge", help="Write the points of all profiles to --out; measure nothing.")
    ] = False,
    imported: Annotated[
        Path | None,
        typer.Option(
            "--import", help="Take this instead of measuring: a table, a profile, Model Analyzer's results."
        ),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="With --import: type of the device that Model Analyzer measured.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="With --merge and --import: the profile (.json) to write.")
    ] = None,
    fail_above: Annotated[
        float | None, typer.Option(help="With --diff: exit with 1 if a figure differs by more percent.")
    ] = None,
    build_dir: BuildDir = BUILD,
    as_json: AsJson = False,
) -> None:
    """Measure latency, throughput, memory, utilization and energy of every tier on this machine."""
    _check_options(paths, diff, merge, imported, device, out, fail_above)
    for option, value in (("--through", through), ("--batches", batches), ("--instances", instances)):
        _check_stray(value is not None and (diff or merge or imported is not None), option, "measuring")
    if diff:
        _diff(paths, fail_above, build_dir, as_json)
    elif merge:
        assert out is not None
        _merge(paths, out, build_dir, as_json)
    elif imported is not None:
        _import(paths[0], imported, device, out, build_dir, as_json)
    else:
        numbers = {
            "batches": whole_numbers("--batches", batches),
            "instances": whole_numbers("--instances", instances),
        }
        chosen = {"through": through, **numbers}
        choice = {name: value for name, value in chosen.items() if value is not None}
        _measure(paths[0], choice, build_dir, as_json)


def _check_options(
    paths: Sequence[Path],
    diff: bool,
    merge: bool,
    imported: Path | None,
    device: str | None,
    out: Path | None,
    fail_above: float | None,
) -> None:
    if diff + merge + (imported is not None) > 1:
        raise UsageError("give one of --diff, --merge and --import")
    allowed = (2, 2) if diff else (2, 99) if merge else (1, 1)
    if not allowed[0] <= len(paths) <= allowed[1]:
        what = "--diff needs two profiles" if diff else "--merge needs at least two profiles"
        raise UsageError(what if diff or merge else "give one folder of a cascade")
    if merge and out is None:
        raise UsageError("--merge needs --out, the file to write")
    _check_stray(device is not None and imported is None, "--device", "--import")
    _check_stray(out is not None and not merge and imported is None, "--out", "--merge and --import")
    _check_stray(fail_above is not None and not diff, "--fail-above", "--diff")
    if out is not None and out.suffix != ".json":
        raise UsageError(f"--out {out}: a profile is written as .json")


def _check_stray(stray: bool, option: str, home: str) -> None:
    if stray:
        raise UsageError(f"{option} belongs to {home}")


def _measure(folder: Path, choice: Mapping[str, object], build_dir: Path, as_json: bool) -> None:
    from cascade_tools.artifacts import Profile
    from cascade_tools.stages.pipeline import run_stage
    from cascade_tools.stages.profile import PROFILE_FILE
    from cascade_tools.stages.progress import stderr_reporter

    work = open_workspace(folder, build_dir)
    work = Workspace(work.cascade.with_profile(choice), work.build)
    run_stage("profile", work, stderr_reporter())
    _show(work.load(PROFILE_FILE, Profile, "profile"), as_json)


def _show(made: Profile, as_json: bool) -> None:
    show_profile(made)
    fits = show_fits(made)
    if as_json:
        show_json({**made.model_dump(mode="json"), "fits": fits})


def _load(path: Path, build_dir: Path) -> Profile:
    """A profile from its file, from the folder that holds it, or of the cascade in a folder."""
    from cascade_tools.artifacts import Profile
    from cascade_tools.stages.given_profile import load_profile
    from cascade_tools.stages.profile import PROFILE_FILE

    if not path.is_dir():
        return load_profile(path)
    if (path / PROFILE_FILE).is_file() and not (path / SPEC_FILE).is_file():
        return load_profile(path / PROFILE_FILE)
    return open_workspace(path, build_dir).load(PROFILE_FILE, Profile, "profile")


def _diff(paths: Sequence[Path], fail_above: float | None, build_dir: Path, as_json: bool) -> None:
    from cascade_tools.planning.profile_tables import diff

    first, second = (_load(path, build_dir) for path in paths)
    if first.cascade != second.cascade:
        show_line(f"  two cascades: {first.cascade} and {second.cascade}")
    found = diff(first, second)
    _show_diff(found, paths)
    if as_json:
        show_json(_diff_json(found, paths))
    if fail_above is not None and not found.points:
        raise CheckFailed("the two profiles have no point in common: nothing was compared")
    if fail_above is not None and found.largest_percent > fail_above:
        worst = max(found.points, key=lambda point: point.largest_percent)
        raise CheckFailed(
            f"{worst.key}: differs by {worst.largest_percent:.1f} %, more than --fail-above {fail_above:g}"
        )


def _show_diff(found: ProfileDiff, paths: Sequence[Path]) -> None:
    def text(ratio: float | None) -> str:
        return "-" if ratio is None else f"{ratio:.3f}"

    show_table(
        f"{paths[1]} over {paths[0]}",
        ["tier", "format", "device", "batch", "instances", "p50", "utilization", "memory", "energy"],
        [
            [
                p.key.tier,
                p.key.format,
                p.key.device,
                str(p.key.batch),
                str(p.key.instances),
                text(p.time),
                text(p.utilization),
                text(p.memory),
                text(p.energy),
            ]
            for p in found.points
        ],
    )
    for path, keys in zip(paths, (found.only_first, found.only_second), strict=True):
        for key in keys:
            show_line(f"  only in {path}: {key}")
    show_line(f"  largest difference: {found.largest_percent:.1f} %")


def _diff_json(found: ProfileDiff, paths: Sequence[Path]) -> dict[str, object]:
    return {
        "first": str(paths[0]),
        "second": str(paths[1]),
        "points": [
            {
                **p.key._asdict(),
                "latency_p50": p.time,
                "kernel_utilization": p.utilization,
                "memory": p.memory,
                "energy": p.energy,
            }
            for p in found.points
        ],
        "only_first": [key._asdict() for key in found.only_first],
        "only_second": [key._asdict() for key in found.only_second],
        "largest_percent": found.largest_percent,
    }


def _merge(paths: Sequence[Path], out: Path, build_dir: Path, as_json: bool) -> None:
    from cascade_tools.planning.profile_tables import merge
    from cascade_tools.store import digest_value

    profiles = [_load(path, build_dir) for path in paths]
    names = [str(path) for path in paths]
    made_from = {name: digest_value(p) for name, p in zip(names, profiles, strict=True)}
    merged = merge(profiles, names, made_from)
    _write(merged, out)
    show_line(f"{out}: {len(merged.points)} points of {len(profiles)} profiles")
    if as_json:
        show_json(merged.model_dump(mode="json"))


def _import(
    folder: Path, path: Path, device: str | None, out: Path | None, build_dir: Path, as_json: bool
) -> None:
    from cascade_tools.stages.given_profile import fitted, read_profile
    from cascade_tools.stages.pipeline import stage_named
    from cascade_tools.stages.profile import PROFILE_FILE
    from cascade_tools.stages.progress import stderr_reporter

    work = open_workspace(folder, build_dir)
    found = read_profile(work.cascade, path, device)
    if out is None:
        _check_lasts(work, path)
        made_from = stage_named("profile").made_from(work)
        kept = fitted(work, found, path.name, made_from, stderr_reporter())
        _write(kept, work.path(PROFILE_FILE))
    else:
        kept = fitted(work, found, path.name, found.made_from, stderr_reporter())
        _write(kept, out)
    show_line(f"wrote {out or work.path(PROFILE_FILE)}")
    if out is None:
        show_line("  until the models change; `profile: {given: FILE}` in cascade.yaml keeps it")
    _show(kept, as_json)


def _check_lasts(work: Workspace, path: Path) -> None:
    """Refuse to write what the next `run` would replace."""
    from cascade_tools.stages.export import EXPORTED_FILE

    if work.cascade.profile.given is not None:
        raise UsageError(
            f"{work.cascade.folder / SPEC_FILE}: profile.given: already names {work.cascade.profile.given}",
            "change it there, or write the import elsewhere with --out FILE",
        )
    if not work.path(EXPORTED_FILE).is_file():
        raise UsageError(
            f"{work.path(EXPORTED_FILE)}: missing; the first `run` would measure over what is imported",
            f"run `{work.command('export')}` first, or put {path.name} into the cascade's folder and "
            "`profile: {given: ...}` into cascade.yaml",
        )


def _write(made: Profile, path: Path) -> None:
    from cascade_tools.store import readable_disk_errors, write_atomically

    with readable_disk_errors(path):
        write_atomically(path, made.model_dump_json(indent=1).encode() + b"\n")
