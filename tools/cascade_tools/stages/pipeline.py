"""The chain of stages: what each reads and writes, and which are stale.

    calibrate > export > profile > search > place > gears > build-repo

A stage is fresh if its files exist and record the digests of exactly what it would read now.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
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
from cascade_tools.errors import ArtifactError, CascadeError
from cascade_tools.machine.facts import machine
from cascade_tools.repository.render import Target
from cascade_tools.spec import SPEC_FILE, Cascade
from cascade_tools.stages.build_repo import build_repo, repository_root
from cascade_tools.stages.calibrate import CALIBRATION_FILE, SCORES_FILE, calibrate
from cascade_tools.stages.export import EXPORTED_FILE, export
from cascade_tools.stages.gears import GEARS_FILE, gears
from cascade_tools.stages.place import PLACEMENT_FILE, place
from cascade_tools.stages.profile import PROFILE_FILE, profile
from cascade_tools.stages.progress import Reporter
from cascade_tools.stages.search import FRONTIER_FILE, POLICY_FILE, search
from cascade_tools.store import (
    Workspace,
    digest_file,
    digest_files,
    digest_value,
    readable_disk_errors,
    write_atomically,
)

State = Literal["fresh", "stale", "missing"]


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
        if isinstance(artifact, Exported) and any(
            digest_file(work.path(tier.file)) != tier.sha256 for tier in artifact.tiers
        ):
            return "missing"
        return "fresh" if artifact.made_from == self.made_from(work) else "stale"


def _sources(cascade: Cascade) -> dict[str, str]:
    """Digests of the models and of everything that they and the rows may come from.

    That is every file of the cascade's folder but prose and the spec, whose sections are digested where they
    are read, and the files of the installed packages that a reference names.
    """
    folder = cascade.folder
    paths = {
        path
        for path in folder.rglob("*")
        if path.is_file()
        and path.suffix != ".md"
        and path != folder / SPEC_FILE
        and not _is_derived(path.relative_to(folder))
    } - {folder / cascade.devices}
    for reference in (*(t.source.torch for t in cascade.tiers), cascade.data.validation):
        paths |= _package_files(folder, reference)
    return {
        "sources": digest_files(paths, folder),
        "tiers": digest_value(*cascade.tiers, cascade.data.validation, cascade.data.labels),
    }


def _is_derived(path: Path) -> bool:
    return any(part == "build" or part == "__pycache__" or part.startswith(".") for part in path.parts)


def _package_files(folder: Path, reference: str | None) -> set[Path]:
    """Python files of the installed package that a reference names, found without importing it."""
    if reference is None or ":" not in reference:
        return set()
    top = reference.partition(":")[0].partition(".")[0]
    if (folder / f"{top}.py").is_file() or (folder / top).is_dir():
        return set()  # the folder's own files are digested anyhow
    try:
        found = find_spec(top)
    except (ImportError, ValueError):
        return set()
    if found is None or found.origin is None or not found.has_location:
        return set()
    origin = Path(found.origin)
    return set(origin.parent.rglob("*.py")) if origin.name == "__init__.py" else {origin}


def _with_sources(*sections: str) -> Callable[[Cascade], dict[str, str]]:
    def depends(cascade: Cascade) -> dict[str, str]:
        return {**_sources(cascade), **_sections(*sections)(cascade)}

    return depends


def _sections(*names: str) -> Callable[[Cascade], dict[str, str]]:
    def depends(cascade: Cascade) -> dict[str, str]:
        return {name: digest_value(getattr(cascade, name)) for name in names}

    return depends


def _devices(cascade: Cascade) -> dict[str, str]:
    return {"devices": digest_file(cascade.folder / cascade.devices)}


def _machine_and_devices(cascade: Cascade) -> dict[str, str]:
    plain = [f"{name}={value}" for name, value in sorted(machine().items())]
    return {"machine": digest_value(*plain), **_devices(cascade), **_sections("serving")(cascade)}


STAGES = (
    Stage(
        "calibrate",
        Calibration,
        (CALIBRATION_FILE, SCORES_FILE),
        (),
        _with_sources("calibration"),
        calibrate,
    ),
    Stage("export", Exported, (EXPORTED_FILE,), (CALIBRATION_FILE,), _with_sources("serving"), export),
    Stage("profile", Profile, (PROFILE_FILE,), (EXPORTED_FILE,), _machine_and_devices, profile),
    Stage(
        "search",
        RoutingPolicy,
        (POLICY_FILE, FRONTIER_FILE),
        (SCORES_FILE, PROFILE_FILE),
        _sections("objective"),
        search,
    ),
    Stage("place", Placement, (PLACEMENT_FILE,), (PROFILE_FILE, POLICY_FILE), _devices, place),
    Stage(
        "gears",
        GearPlan,
        (GEARS_FILE,),
        (CALIBRATION_FILE, EXPORTED_FILE, PROFILE_FILE, POLICY_FILE, PLACEMENT_FILE),
        lambda cascade: {
            **_sections("gears", "serving", "objective", "name")(cascade),
            **_devices(cascade),
        },
        gears,
    ),
)


def run_stage(name: str, work: Workspace, report: Reporter) -> None:
    """Run one stage, whether or not it is stale."""
    stage = next(stage for stage in STAGES if stage.name == name)
    stage.run(work, stage.made_from(work), report)


def run_all(work: Workspace, target: Target, report: Reporter, *, force: bool = False) -> Path:
    """Run what is stale, in order, and write the repository; return it."""
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
            place_stage = next(stage for stage in STAGES if stage.name == "place")
            kept = placement.model_copy(update={"made_from": place_stage.made_from(work)})
            work.save(PLACEMENT_FILE, kept)
        run_stage("gears", work, report)
        return build_repo(work, target, check=False, report=report)
    except BaseException:
        for name, content in before.items():
            write_atomically(work.path(name), content)
        raise


def status(work: Workspace, target: Target, report: Reporter) -> dict[str, State]:
    """State of every stage; what follows a stage that is not fresh is at best stale."""
    states: dict[str, State] = {}
    behind = False
    for stage in STAGES:
        state = stage.state(work)
        if behind and state == "fresh":
            state = "stale"
        states[stage.name] = state
        behind = behind or state != "fresh"
    states["build-repo"] = _repository_state(work, target, behind, report)
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
