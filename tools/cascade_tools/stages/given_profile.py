"""A profile that somebody else measured or published, in place of one measured here."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from cascade_tools.artifacts import Calibration, Profile
from cascade_tools.errors import UsageError
from cascade_tools.spec import Cascade, describe, load_devices
from cascade_tools.stages.calibrate import CALIBRATION_FILE
from cascade_tools.stages.given_table import GivenPoints, read_table
from cascade_tools.stages.model_analyzer import Served, is_model_analyzer, read_model_analyzer
from cascade_tools.stages.progress import Reporter
from cascade_tools.stages.table_cells import read_text
from cascade_tools.store import Workspace, digest_file, digest_files

TABLES = (".yaml", ".yml", ".csv")


def given_profile(work: Workspace, made_from: dict[str, str], report: Reporter) -> Profile:
    """The profile that `profile.given` of the spec names.

    Raises:
        UsageError: the file does not do; names it, and the line and column where it has any.
    """
    cascade = work.cascade
    assert cascade.profile.given is not None
    path = cascade.folder / cascade.profile.given
    report.say(f"  {path.name} is given; nothing is measured")
    profile = read_profile(cascade, path, cascade.profile.device)
    return fitted(work, profile, path.name, made_from, report)


def digest_given(cascade: Cascade) -> str:
    """Of the file, or of all files of the folder, that `profile.given` names."""
    assert cascade.profile.given is not None
    return digest_profile(cascade.folder / cascade.profile.given)


def digest_profile(path: Path) -> str:
    """Of a file, or of all files of a folder."""
    if path.is_dir():
        return digest_files((file for file in path.rglob("*") if file.is_file()), path)
    return digest_file(path)


def read_profile(cascade: Cascade, path: Path, device: str | None = None) -> Profile:
    """A profile of a cascade from any file that can hold one.

    Args:
        cascade: its tiers and models.
        path: `.json` (a profile), `.yaml` or `.csv` (a table), or what Model Analyzer wrote.
        device: type of the device that Model Analyzer measured; default: the only GPU type.

    Raises:
        UsageError: as for `given_profile`.
    """
    if is_model_analyzer(path):
        models = {
            cascade.model_name(tier.name): Served(tier.name, "triton" if tier.source.triton else tier.format)
            for tier in cascade.tiers
        }
        given = read_model_analyzer(path, models, device or _only_gpu(cascade))
    elif device is not None:
        raise UsageError(
            f"device: {device!r} is for Model Analyzer's tables; {path} names its devices itself"
        )
    elif path.suffix in TABLES:
        given = read_table(path, cascade.tier_names)
    elif path.suffix != ".json":
        raise UsageError(
            f"{path}: must be .json (a profile), .yaml or .csv (a table), or Model Analyzer's results"
        )
    else:
        profile = load_profile(path)
        if profile.cascade != cascade.name:
            raise UsageError(f"{path}: belongs to cascade {profile.cascade!r}, not {cascade.name!r}")
        return profile
    return _profile(cascade.name, path, given)


def load_profile(path: Path) -> Profile:
    """A profile as `cascade-tools profile` wrote it.

    Raises:
        UsageError: missing, or no profile.
    """
    if path.suffix in TABLES:
        raise UsageError(
            f"{path}: is a table, not a profile",
            f"`cascade-tools profile FOLDER --import {path} --out profile.json` makes a profile of it",
        )
    try:
        return Profile.model_validate_json(read_text(path))
    except ValidationError as error:
        raise UsageError(f"{path}: not a profile: {describe(error)}") from None


def fitted(
    work: Workspace, profile: Profile, name: str, made_from: dict[str, str], report: Reporter
) -> Profile:
    """The part of a profile that the cascade can use, as its own.

    Args:
        work: of the cascade.
        profile: from elsewhere.
        name: of its file, for messages and the record.
        made_from: of the result.
        report: hears what is not known.

    Raises:
        UsageError: a tier is unknown, or has no point with one instance.
    """
    cascade = work.cascade
    stray = sorted({point.tier for point in profile.points} - set(cascade.tier_names))
    if stray:
        raise UsageError(f"{name}: {stray[0]!r} is no tier of {cascade.name}")
    most = cascade.serving.max_batch_size
    order = {group.type: number for number, group in enumerate(load_devices(cascade).devices)}
    # The search counts with a tier's first device.
    points = sorted(profile.points, key=lambda point: order.get(point.device, len(order)))
    if profile.hop is None:
        report.say("  asking a tier counts as free: the file does not say what a call between models costs")
    kept = profile.model_copy(
        update={
            "points": tuple(points),
            "made_from": made_from,
            "environment": {**profile.environment, "given": name},
        }
    )
    for tier in cascade.tier_names:
        if not any(point.batch <= most for point in kept.points_of(tier)):
            raise UsageError(
                f"{name}: has no point of tier {tier!r} with one instance and a batch of at most {most}"
            )
    return kept.model_copy(update={"instances": _adopted_instances(work)}) if cascade.adopted else kept


def _adopted_instances(work: Workspace) -> dict[str, int]:
    calibration = work.load(CALIBRATION_FILE, Calibration, "calibrate")
    return {tier.tier: tier.instances for tier in calibration.adopted if tier.instances}


def _only_gpu(cascade: Cascade) -> str:
    types = [group.type for group in load_devices(cascade).devices if group.kind == "gpu"]
    if len(types) != 1:
        raise UsageError(
            f"{cascade.folder / cascade.devices}: names {len(types)} types of GPU; which one did "
            "Model Analyzer measure?",
            "say so with --device TYPE, or `profile: {given: ..., device: TYPE}` in cascade.yaml",
        )
    return types[0]


def _profile(cascade: str, path: Path, given: GivenPoints) -> Profile:
    return Profile(
        cascade=cascade,
        made_from={path.name: digest_profile(path)},
        environment={"source": given.source or path.name},
        points=given.points,
        hop=None,
        router=None,
        idle_watts=dict(given.idle_watts),
    )
