"""The chain of stages: what each reads and writes, and which are stale.

    calibrate > export > profile > search > place > gears > build-repo

A stage is fresh if its files exist and record the digests of exactly what it would read now. A cascade
without models has `profile` and `place` alone; the other stages need models.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cascade_tools import __version__
from cascade_tools.artifacts import (
    Artifact,
    Calibration,
    Exported,
    GearPlan,
    Placement,
    Profile,
    RoutingPolicy,
)
from cascade_tools.errors import ArtifactError, CascadeError, UsageError
from cascade_tools.machine.facts import machine
from cascade_tools.repository.render import Target
from cascade_tools.spec import SPEC_FILE, Cascade
from cascade_tools.stages.build_repo import build_repo, repository_root
from cascade_tools.stages.calibrate import CALIBRATION_FILE, SCORES_FILE, calibrate
from cascade_tools.stages.digests import source_digests
from cascade_tools.stages.export import EXPORTED_FILE, export
from cascade_tools.stages.exported_files import changed_file
from cascade_tools.stages.gears import GEARS_FILE, gears
from cascade_tools.stages.given_profile import digest_given
from cascade_tools.stages.place import PLACEMENT_FILE, place
from cascade_tools.stages.profile import PROFILE_FILE, profile, way_of
from cascade_tools.stages.progress import Reporter
from cascade_tools.stages.search import FRONTIER_FILE, POLICY_FILE, search
from cascade_tools.store import (
    Workspace,
    digest_file,
    digest_value,
    readable_disk_errors,
    write_atomically,
)

State = Literal["fresh", "stale", "missing", "no model"]
WITHOUT_MODELS = ("profile", "place")  # the stages that do without


@dataclass(frozen=True)
class Stage:
    """One verb of the chain.

    Attributes:
        kind: type of its first file.
        files: what it writes below `build/<cascade>/`; the first records `made_from`.
        reads: files of earlier stages.
        depends: digests of everything else that it reads, by name.
    """

    name: str
    kind: type[Artifact]
    files: tuple[str, ...]
    reads: tuple[str, ...]
    depends: Callable[[Cascade], dict[str, str]]
    run: Callable[[Workspace, dict[str, str], Reporter], None]

    def made_from(self, work: Workspace) -> dict[str, str]:
        """Digests of all that the stage would read now."""
        files = {name: digest_file(work.path(name)) for name in self.reads}
        return {**self.depends(work.cascade), **files, "cascade-tools": __version__}

    def changed(self, work: Workspace) -> tuple[str, ...]:
        """What the stage read when it ran and would read otherwise now, by name."""
        try:
            was = work.load(self.files[0], self.kind, self.name).made_from
        except ArtifactError:
            return ()
        now = self.made_from(work)
        return tuple(sorted(name for name in was.keys() | now.keys() if was.get(name) != now.get(name)))

    def state(self, work: Workspace) -> State:
        """Whether the stage's files are there and up to date."""
        if not all(work.path(name).is_file() for name in self.files):
            return "missing"
        try:
            artifact = work.load(self.files[0], self.kind, self.name)
        except ArtifactError:  # corrupt, or written by another version of the tool
            return "stale"
        if isinstance(artifact, Exported) and any(changed_file(work, tier) for tier in artifact.tiers):
            return "missing"
        return "fresh" if artifact.made_from == self.made_from(work) else "stale"


def _with_sources(*sections: str) -> Callable[[Cascade], dict[str, str]]:
    def depends(cascade: Cascade) -> dict[str, str]:
        return {**source_digests(cascade, cascade.data.validation), **_sections(*sections)(cascade)}

    return depends


def _sections(*names: str) -> Callable[[Cascade], dict[str, str]]:
    def depends(cascade: Cascade) -> dict[str, str]:
        return {name: digest_value(getattr(cascade, name)) for name in names}

    return depends


def _devices(cascade: Cascade) -> dict[str, str]:
    return {"devices": digest_file(cascade.folder / cascade.devices)}


def _devices_and_rules(cascade: Cascade) -> dict[str, str]:
    given = {} if cascade.has_models else {"reach": digest_value(*(tier.reach for tier in cascade.tiers))}
    # Where the gears are planned for an SLO, so is the placement.
    slo = {} if cascade.gears.slo is None else {**_gears(cascade), **_sections("serving")(cascade)}
    return {**_devices(cascade), **given, **slo, **_sections("placement")(cascade)}


def _gears(cascade: Cascade) -> dict[str, str]:
    trace = None if cascade.gears.rates is None else cascade.gears.rates.trace
    read = {} if trace is None else {"trace": digest_file(cascade.folder / trace)}
    return {**_sections("gears")(cascade), **read}


def _machine_and_devices(cascade: Cascade) -> dict[str, str]:
    if cascade.profile.given is not None:
        given = {"given": digest_given(cascade), **_sections("profile")(cascade)}
        return {**given, **_devices(cascade), **_sections("serving")(cascade)}
    plain = [f"{name}={value}" for name, value in sorted(machine().items())]
    return {
        "machine": digest_value(*plain),
        "profiled through": digest_value(way_of(cascade)),
        **_devices(cascade),
        **_sections("serving", "profile")(cascade),
    }


def _sources_and_formats(cascade: Cascade) -> dict[str, str]:
    """Only stages have to fit into something."""
    caps = _devices(cascade) if any(tier.stages > 1 for tier in cascade.tiers) else {}
    formats = digest_value(*(f"{tier.format} in {tier.stages}" for tier in cascade.tiers))
    return {**_with_sources("serving")(cascade), "formats": formats, **caps}


STAGES = (
    Stage(
        "calibrate",
        Calibration,
        (CALIBRATION_FILE, SCORES_FILE),
        (),
        _with_sources("calibration"),
        calibrate,
    ),
    Stage("export", Exported, (EXPORTED_FILE,), (CALIBRATION_FILE,), _sources_and_formats, export),
    Stage(
        "profile", Profile, (PROFILE_FILE,), (CALIBRATION_FILE, EXPORTED_FILE), _machine_and_devices, profile
    ),
    Stage(
        "search",
        RoutingPolicy,
        (POLICY_FILE, FRONTIER_FILE),
        (SCORES_FILE, PROFILE_FILE),
        _sections("objective"),
        search,
    ),
    Stage(
        "place",
        Placement,
        (PLACEMENT_FILE,),
        (EXPORTED_FILE, PROFILE_FILE, POLICY_FILE),
        _devices_and_rules,
        place,
    ),
    Stage(
        "gears",
        GearPlan,
        (GEARS_FILE,),
        (CALIBRATION_FILE, SCORES_FILE, EXPORTED_FILE, PROFILE_FILE, POLICY_FILE, PLACEMENT_FILE),
        lambda cascade: {
            **_gears(cascade),
            **_sections("serving", "objective", "name")(cascade),
            **_devices(cascade),
        },
        gears,
    ),
)


def stage_named(name: str) -> Stage:
    """The stage behind a verb."""
    return next(stage for stage in STAGES if stage.name == name)


def _need_models(work: Workspace, verb: str) -> None:
    """Refuse what cannot be done with given figures alone."""
    if not work.cascade.has_models:
        raise UsageError(
            f"{work.cascade.folder / SPEC_FILE}: tiers.{work.cascade.tier_names[0]}: has no model; "
            f"{verb} needs one",
            f"plan with `{work.command('profile')}` and `{work.command('place')}`, or give every tier a "
            "`source`",
        )


def run_stage(name: str, work: Workspace, report: Reporter) -> None:
    """Run one stage, whether or not it is stale.

    Raises:
        UsageError: the stage needs models, and the cascade has none.
    """
    stage = stage_named(name)
    if name not in WITHOUT_MODELS:
        _need_models(work, name)
    stage.run(work, stage.made_from(work), report)


def run_all(work: Workspace, target: Target, report: Reporter, *, force: bool = False) -> Path:
    """Run what is stale, in order, and write the repository; return it.

    Raises:
        UsageError: the cascade has no models to serve.
    """
    _need_models(work, "a repository")
    for number, stage in enumerate(STAGES, start=1):
        state = stage.state(work)
        step = f"[{number}/{len(STAGES) + 1}] {stage.name}"
        if state == "fresh" and not force:
            report.say(f"{step}: fresh")
            continue
        report.say(f"{step}: {'running again' if state == 'fresh' else state}")
        stage.run(work, stage.made_from(work), report)
    report.say(f"[{len(STAGES) + 1}/{len(STAGES) + 1}] build-repo")
    return build_repo(work, target, check=False, report=report)


def take_policy(work: Workspace, policy: RoutingPolicy, target: Target, report: Reporter) -> Path:
    """Put another policy in the place of the search's; gears and repository follow, the placement stays.

    If any of it fails, all is as it was.
    """
    placement = work.load(PLACEMENT_FILE, Placement, "place")
    before = {name: work.path(name).read_bytes() for name in (POLICY_FILE, PLACEMENT_FILE, GEARS_FILE)}
    try:
        with readable_disk_errors(work.build):
            work.save(POLICY_FILE, policy)
            # What it was solved for is no longer so, but it is what stands on the devices.
            kept = placement.model_copy(update={"made_from": stage_named("place").made_from(work)})
            work.save(PLACEMENT_FILE, kept)
        run_stage("gears", work, report)
        return build_repo(work, target, check=False, report=report)
    except BaseException:
        for name, content in before.items():
            write_atomically(work.path(name), content)
        raise


def plan_is_fresh(work: Workspace) -> bool:
    """All stages up to the gears are."""
    return all(stage.state(work) == "fresh" for stage in STAGES)


def status(work: Workspace, target: Target, report: Reporter) -> dict[str, State]:
    """State of every stage; what follows a stage that is not fresh is at best stale."""
    states: dict[str, State] = {}
    behind = False
    for stage in STAGES:
        if not work.cascade.has_models and stage.name not in WITHOUT_MODELS:
            states[stage.name] = "no model"
            continue
        state = stage.state(work)
        if behind and state == "fresh":
            state = "stale"
        states[stage.name] = state
        behind = behind or state != "fresh"
    if work.cascade.has_models:
        states["build-repo"] = _repository_state(work, target, behind, report)
    else:
        states["build-repo"] = "no model"
    return states


def _repository_state(work: Workspace, target: Target, behind: bool, report: Reporter) -> State:
    if not (repository_root(work, target) / "current").exists():
        return "missing"
    if behind:
        return "stale"
    try:
        build_repo(work, target, check=True, report=report)
    except CascadeError:
        return "stale"
    return "fresh"
