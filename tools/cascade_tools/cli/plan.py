"""The verbs of the planning chain: each stage by itself."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cascade_tools.cli.options import BUILD, AsJson, BuildDir, Folder, TargetName, open_workspace
from cascade_tools.cli.output import show_json, show_labels, show_line, show_table
from cascade_tools.store import Workspace

if TYPE_CHECKING:
    from cascade_tools.artifacts import Partition, Reliability

Check = Annotated[bool, typer.Option("--check", help="Write nothing; fail if the repository differs.")]


def register(app: typer.Typer) -> None:
    """Add the verbs of this file."""
    for verb, example in (
        (train, "cascade-tools train ensembles/digits --tier tiny --out build/weights"),
        (calibrate, "cascade-tools calibrate ensembles/digits"),
        (export, "cascade-tools export ensembles/digits"),
        (gears, "cascade-tools gears ensembles/digits"),
    ):
        app.command(epilog=f"Example: {example}")(verb)
    app.command("build-repo", epilog="Example: cascade-tools build-repo ensembles/digits")(build_repo)


def train(
    folder: Folder,
    tier: Annotated[list[str] | None, typer.Option(help="Only this tier; may be repeated.")] = None,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 7,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the weights instead of the cascade's own.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make the weights by the cascade's own recipe."""
    from cascade_tools.spec import load_cascade
    from cascade_tools.stages.progress import stderr_reporter
    from cascade_tools.stages.train import train as run_train

    results = run_train(load_cascade(folder), tier or [], seed, out, stderr_reporter())
    show_table(
        "Trained",
        ["tier", "parameters", "validation accuracy", "seconds", "file"],
        [
            [
                r.tier,
                f"{r.parameters:,}",
                f"{r.validation_accuracy:.4f}",
                f"{r.seconds:.0f}",
                r.file,
            ]
            for r in results
        ],
    )
    if as_json:
        show_json({"tiers": [r.model_dump() for r in results]})


def calibrate(
    folder: Folder,
    check: Annotated[
        Path | None,
        typer.Option(help="Write nothing; score the fitted heads on an .npz of logits_TIER and target."),
    ] = None,
    method: Annotated[
        Literal["temperature", "platt", "isotonic", "none", "auto"] | None,
        typer.Option(help="Instead of the spec's, for this call; put it into cascade.yaml to keep it."),
    ] = None,
    signal: Annotated[
        Literal["max_probability", "margin", "entropy"] | None,
        typer.Option(help="Instead of the spec's, for this call."),
    ] = None,
    build_dir: BuildDir = BUILD,
    as_json: AsJson = False,
) -> None:
    """Run the source models once on the labelled rows and fit each tier's confidence."""
    from cascade_tools.artifacts import Calibration
    from cascade_tools.stages.calibrate import CALIBRATION_FILE, check_on
    from cascade_tools.stages.pipeline import run_stage
    from cascade_tools.stages.progress import stderr_reporter

    work = open_workspace(folder, build_dir)
    if check is not None:
        _show_check(work, check, as_json, check_on(work, check))
        return
    choice = {name: value for name, value in (("method", method), ("signal", signal)) if value}
    work = Workspace(work.cascade.with_calibration(choice), work.build)
    run_stage("calibrate", work, stderr_reporter())
    made = work.load(CALIBRATION_FILE, Calibration, "calibrate")
    held_out = sum(made.rows.values()) - made.rows["fit"]
    show_table(
        f"Calibration on {made.rows['fit']} rows, figures on {held_out} others (before > after)",
        ["tier", "accuracy", "head", "ECE", "ECE, equal width", "NLL", "Brier", "AUROC"],
        [
            [
                t.tier,
                f"{t.accuracy:.4f}",
                f"{t.method} {t.temperature:.3f}" if t.method == "temperature" else t.method,
                f"{t.before.ece:.4f} > {t.after.ece:.4f}",
                f"{t.before.ece_equal_width:.4f} > {t.after.ece_equal_width:.4f}",
                f"{t.before.nll:.4f} > {t.after.nll:.4f}",
                f"{t.before.brier:.4f} > {t.after.brier:.4f}",
                "-" if t.after.auroc is None else f"{t.before.auroc:.4f} > {t.after.auroc:.4f}",
            ]
            for t in made.tiers
        ],
    )
    show_labels(made.labels, made.tiers[-1].tier)
    if as_json:
        show_json(made.model_dump(mode="json"))


def _show_check(work: Workspace, file: Path, as_json: bool, found: dict[str, Reliability]) -> None:
    from cascade_tools.artifacts import Calibration
    from cascade_tools.stages.calibrate import CALIBRATION_FILE

    made = work.load(CALIBRATION_FILE, Calibration, "calibrate")
    show_table(
        f"Heads on {file} (where they were calibrated > there)",
        ["tier", "ECE", "ECE, equal width", "NLL", "Brier"],
        [
            [
                t.tier,
                f"{t.after.ece:.4f} > {found[t.tier].ece:.4f}",
                f"{t.after.ece_equal_width:.4f} > {found[t.tier].ece_equal_width:.4f}",
                f"{t.after.nll:.4f} > {found[t.tier].nll:.4f}",
                f"{t.after.brier:.4f} > {found[t.tier].brier:.4f}",
            ]
            for t in made.tiers
        ],
    )
    if as_json:
        here = {t.tier: t.after.model_dump() for t in made.tiers}
        there = {tier: values.model_dump() for tier, values in found.items()}
        show_json({"calibrated": here, "checked": there})


def export(folder: Folder, build_dir: BuildDir = BUILD, as_json: AsJson = False) -> None:
    """Export every tier with its confidence head to its format and compare it with its source."""
    from cascade_tools.artifacts import Exported
    from cascade_tools.stages.export import EXPORTED_FILE
    from cascade_tools.stages.precision import describe_half

    work = _run("export", folder, build_dir)
    made = work.load(EXPORTED_FILE, Exported, "export")
    show_table(
        "Exported, compared with the source on held-out rows",
        ["tier", "format", "parameters", "rows", "labels differ", "confidence differs by", "file"],
        [
            [
                t.tier,
                t.format,
                f"{t.parameters:,}",
                str(t.parity_rows),
                str(t.parity_label_mismatches),
                f"{t.parity_confidence_error:.1e}",
                t.file,
            ]
            for t in made.tiers
        ],
    )
    for line in filter(None, map(describe_half, made.tiers)):
        show_line(f"  {line}")
    for tier in work.cascade.adopted:
        show_line(f"  {tier.name} is adopted: {tier.source.triton} stays as it is")
    for entry in made.tiers:
        if entry.partition is not None:
            _show_stages(entry.tier, entry.partition)
    if as_json:
        show_json(made.model_dump(mode="json"))


def _show_stages(tier: str, cut: Partition) -> None:
    total_ms = sum(stage.time_ms for stage in cut.stages)
    show_table(
        f"Stages of {tier}, batches of {cut.batch} in process, one thread",
        ["stage", "ms", "MiB of weights", "KiB per row that go on", "file"],
        [
            [
                str(stage.number),
                f"{stage.time_ms:.3f}",
                f"{stage.weights_mib:.1f}",
                f"{stage.crossing_bytes / 1024:.1f}",
                stage.file,
            ]
            for stage in cut.stages
        ],
    )
    show_line(
        f"  balance {cut.balance:.3f} (slowest stage over the mean); together {total_ms:.3f} ms, the whole "
        f"graph {cut.whole_ms:.3f} ms; confidence differs by up to {cut.confidence_error:.1e}"
    )


def gears(folder: Folder, build_dir: BuildDir = BUILD, as_json: AsJson = False) -> None:
    """Choose the policies that serve low and high arrival rates."""
    from cascade_tools.artifacts import GearPlan
    from cascade_tools.cli.gear_tables import show_gears
    from cascade_tools.stages.gears import GEARS_FILE

    work = _run("gears", folder, build_dir)
    made = work.load(GEARS_FILE, GearPlan, "gears")
    show_gears(made)
    if as_json:
        show_json(made.model_dump(mode="json"))


def build_repo(
    folder: Folder,
    target: TargetName = "embedded",
    check: Check = False,
    build_dir: BuildDir = BUILD,
    as_json: AsJson = False,
) -> None:
    """Run what is stale and write the Triton model repository."""
    from cascade_tools.repository.manifest import read_manifest
    from cascade_tools.stages import build_repo as stage
    from cascade_tools.stages.pipeline import run_all
    from cascade_tools.stages.progress import stderr_reporter

    work, report = open_workspace(folder, build_dir), stderr_reporter()
    if check:
        repository = stage.build_repo(work, target, check=True, report=report)
    else:
        repository = run_all(work, target, report)
    files = read_manifest(repository)["files"]
    show_line(f"{repository}: {len(files)} files, {'up to date' if check else 'written'}")
    if as_json:
        show_json({"repository": str(repository), "target": target, "files": sorted(files)})


def _run(stage: str, folder: Path, build_dir: Path) -> Workspace:
    from cascade_tools.stages.pipeline import run_stage
    from cascade_tools.stages.progress import stderr_reporter

    work = open_workspace(folder, build_dir)
    run_stage(stage, work, stderr_reporter())
    return work
