"""Renders the Triton repository and puts it in its place."""

from __future__ import annotations

from pathlib import Path

from cascade_tools.artifacts import (
    Exported,
    ExportedStage,
    ExportedTier,
    GearPlan,
    LadderTier,
    Placement,
)
from cascade_tools.errors import ArtifactError, UsageError
from cascade_tools.repository import place
from cascade_tools.repository.hosts import HostPart, host_parts
from cascade_tools.repository.manifest import MANIFEST, PLAN_FILE, Content, host_folder, make_manifest
from cascade_tools.repository.proxies import plan_here, proxy_configs, proxy_files
from cascade_tools.repository.render import (
    MODEL_FILES,
    SERVERS,
    VERSION,
    Target,
    code_files,
    model_folders,
    render_configs,
    rendered,
)
from cascade_tools.repository.rules import check_config, check_ensembles
from cascade_tools.spec import SPEC_FILE
from cascade_tools.stages.export import EXPORTED_FILE
from cascade_tools.stages.exported_files import changed_file
from cascade_tools.stages.gears import GEARS_FILE
from cascade_tools.stages.place import PLACEMENT_FILE
from cascade_tools.stages.plans import check_plan
from cascade_tools.stages.progress import Reporter
from cascade_tools.store import Workspace, readable_disk_errors, write_atomically

NO_MODEL = ".keep"
NGC_ROOT = Path("model_repository")


def repository_root(work: Workspace, target: Target) -> Path:
    """Folder that holds `current`: below `build/` for the embedded server, else `model_repository/`."""
    return work.path("repository") if target == "embedded" else NGC_ROOT


def build_repo(work: Workspace, target: Target, *, check: bool, report: Reporter) -> Path:
    """Render everything, check it, and write it at once; return the current repository.

    Where the plan is for several hosts it has one folder for each, `host0` and so on, which is a repository
    by itself. For the NGC target the configs also go to `model_repository/<cascade>/`, where they can be
    reviewed and committed without the models.

    Raises:
        CheckFailed: a config breaks a rule of Triton, or `check` found a difference.
        ArtifactError: an exported file is not the one that was recorded, or a plan is for another device.
        UsageError: the target cannot serve a tier's format, a tier is on a host without an address, or an
            adopted one is not on the router's.
        EnvironmentLacks: a plan cannot be held against the GPU and the server that it is for.
    """
    placement = work.load(PLACEMENT_FILE, Placement, "place")
    parts = host_parts(placement)
    if len(parts) == 1:
        files, configs = _render(work, target, placement, parts[0])
        manifest = make_manifest(work.cascade.name, target, files)
    else:
        files, configs, manifest = _render_hosts(work, target, placement, parts)
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


def _render_hosts(
    work: Workspace, target: Target, placement: Placement, parts: tuple[HostPart, ...]
) -> tuple[dict[str, Content], dict[str, str], bytes]:
    """The repositories of all hosts, each in a folder of its own, their configs, and what lists them."""
    _check_adopted(work, parts)
    _check_addresses(work, parts)
    files: dict[str, Content] = {}
    configs: dict[str, str] = {}
    for part in parts:
        folder = host_folder(part.host)
        of_host, of_configs = _render(work, target, placement, part)
        of_host[MANIFEST] = make_manifest(work.cascade.name, target, of_host)
        files |= {f"{folder}/{name}": content for name, content in of_host.items()}
        configs |= {f"{folder}/{name}": text for name, text in of_configs.items()}
    entry_shares = {part.host: part.entry_share for part in parts}
    return files, configs, make_manifest(work.cascade.name, target, files, entry_shares)


def _check_adopted(work: Workspace, parts: tuple[HostPart, ...]) -> None:
    for part in parts:
        elsewhere = {placed.tier for placed in part.placement.instances} if part.entry_share is None else ()
        for tier in work.cascade.adopted:
            if tier.name in part.ways or tier.name in elsewhere:
                raise UsageError(
                    f"tiers.{tier.name}: is adopted, and the plan has it on host {part.host}: what Triton "
                    "serves already is asked on the router's own host",
                    f"place on the devices of one host: `{work.command('place')} --devices FILE`",
                )


def _check_addresses(work: Workspace, parts: tuple[HostPart, ...]) -> None:
    asked = {
        way.host: tier
        for part in parts
        for tier, ways in part.ways.items()
        for way in ways
        if way.host != part.host
    }
    known = work.cascade.hosts
    for host, tier in sorted(asked.items()):
        if host >= len(known):
            raise UsageError(
                f"{work.cascade.folder / SPEC_FILE}: hosts: {len(known) or 'none'} given, and the plan asks "
                f"tier {tier} on host {host}",
                "list host:port of the gRPC endpoint of each host's server, from host 0 on: "
                f"`hosts: [{', '.join(f'10.0.0.{n}:8001' for n in range(1, max(asked) + 2))}]`, or give "
                "`placement: {closure: host}`, where nothing is asked across hosts",
            )


def _render(
    work: Workspace, target: Target, placement: Placement, part: HostPart
) -> tuple[dict[str, Content], dict[str, str]]:
    """All files of one host's repository, and the configs among them as text."""
    plan = work.load(GEARS_FILE, GearPlan, "gears")
    exported = work.load(EXPORTED_FILE, Exported, "export")
    here, router = plan_here(plan, part), part.entry_share is not None
    formats = {info.tier: exported.tier(info.tier).format for info in rendered(here)}
    found = {info.tier: exported.tier(info.tier).partition for info in rendered(here)}
    partitions = {tier: partition for tier, partition in found.items() if partition is not None}
    configs = render_configs(here, part.placement, target, formats, partitions, router=router)
    configs |= proxy_configs(plan, placement, part, work.cascade.hosts)
    for name, text in configs.items():
        check_config(name, text, router=name.startswith(f"{plan.cascade}/"))
    check_ensembles(configs)
    files: dict[str, Content] = {name: text.encode() for name, text in configs.items()}
    files |= code_files(here, target, formats, partitions, router=router)
    files |= proxy_files(plan, part)
    if router:
        files[f"{plan.cascade}/{PLAN_FILE}"] = work.path(GEARS_FILE).read_bytes()
    for info in rendered(here):
        files |= _model_files(
            work, info, exported.tier(info.tier), part.placement, model_folders(info, partitions)
        )
    return files, configs


def _model_files(
    work: Workspace, info: LadderTier, tier: ExportedTier, placement: Placement, folders: tuple[str, ...]
) -> dict[str, Content]:
    """What export wrote of one tier: its model, or its stages."""
    changed = changed_file(work, tier)
    if changed is not None:
        raise ArtifactError(
            f"{changed}: missing or not the file that was exported",
            f"run `{work.command('export')}`",
        )
    if tier.format == "tensorrt":
        check_plan(work, tier, placement)
    files: dict[str, Content] = {}
    models: tuple[ExportedTier | ExportedStage, ...] = (tier,)
    if tier.partition is not None:
        models = tier.partition.stages
        # Triton wants a version of every model, also of an ensemble, which has no files.
        files[f"{info.model}/{VERSION}/{NO_MODEL}"] = b""
    for folder, model in zip(folders, models, strict=True):
        files[f"{folder}/{MODEL_FILES[tier.format]}"] = work.path(model.file)
        # The model names these, so they keep their names.
        files |= {f"{folder}/{Path(other.file).name}": work.path(other.file) for other in model.beside}
    return files
