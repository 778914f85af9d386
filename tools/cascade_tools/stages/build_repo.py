"""Renders the Triton repository and puts it in its place."""

from __future__ import annotations

from pathlib import Path

from cascade_tools.artifacts import Exported, GearPlan, Placement
from cascade_tools.errors import ArtifactError
from cascade_tools.repository import place
from cascade_tools.repository.render import SERVERS, VERSION, Target, code_files, render_configs, rendered
from cascade_tools.repository.rules import check_config
from cascade_tools.stages.export import EXPORTED_FILE
from cascade_tools.stages.gears import GEARS_FILE
from cascade_tools.stages.place import PLACEMENT_FILE
from cascade_tools.stages.progress import Reporter
from cascade_tools.store import Workspace, digest_file, readable_disk_errors, write_atomically

NGC_ROOT = Path("model_repository")


def repository_root(work: Workspace, target: Target) -> Path:
    """Folder that holds `current`: below `build/` for the embedded server, else `model_repository/`."""
    return work.path("repository") if target == "embedded" else NGC_ROOT


def build_repo(work: Workspace, target: Target, *, check: bool, report: Reporter) -> Path:
    """Render everything, check it, and write it at once; return the current repository.

    For the NGC target the configs also go to `model_repository/<cascade>/`, where they can be reviewed
    and committed without the models.

    Raises:
        CheckFailed: a config breaks a rule of Triton, or `check` found a difference.
        ArtifactError: an exported file is not the one that was recorded.
    """
    files, configs = _render(work, target)
    manifest = place.make_manifest(work.cascade.name, target, files)
    root = repository_root(work, target)
    shown = {name: text.encode() for name, text in configs.items()} if target == "ngc" else {}
    if check:
        place.check(root, files, manifest)
        place.check_shown(root / work.cascade.name, shown)
        return root / "current"
    repository = place.put(root, files, manifest)
    report.say(f"  {len(files)} files for {SERVERS[target]}: {repository}")
    with readable_disk_errors(root):
        for name, content in shown.items():
            write_atomically(root / work.cascade.name / name, content)
    return repository


def _render(work: Workspace, target: Target) -> tuple[place.Files, dict[str, str]]:
    """All files of the repository, and the configs among them as text."""
    plan = work.load(GEARS_FILE, GearPlan, "gears")
    placement = work.load(PLACEMENT_FILE, Placement, "place")
    exported = work.load(EXPORTED_FILE, Exported, "export")
    configs = render_configs(plan, placement, target)
    for name, text in configs.items():
        check_config(name, text, router=name.startswith(f"{plan.cascade}/"))
    files: place.Files = {name: text.encode() for name, text in configs.items()}
    files |= {name: path.read_bytes() for name, path in code_files(plan, target).items()}
    files[f"{plan.cascade}/{place.PLAN_FILE}"] = work.path(GEARS_FILE).read_bytes()
    for info in rendered(plan):
        graph = exported.tier(info.tier)
        path = work.path(graph.file)
        if digest_file(path) != graph.sha256:
            raise ArtifactError(
                f"{path}: missing or not the file that was exported",
                f"run `{work.command('export')}`",
            )
        files[f"{info.model}/{VERSION}/model.onnx"] = path.read_bytes()
    return files, configs
