"""Measures every tier on this machine, and what a call between models costs.

    exported tiers   through the embedded Triton (`profiling.through_server`), or in this process
                     (`profiling.in_process`); each file draws its protocol as a timeline
    adopted tiers    through the Triton that has them (`profiling.adopted`)
    hop              a call from model to model on the embedded Triton (`serving.hop`)

Batches are drawn from the user's own validation rows with a fixed seed, never zeros or noise. Energy is
dynamic: what a meter counts minus the idle power, or, without a meter, busy time times the watts that the
device file gives (`modelled`), or unknown. A GPU is measured in this process.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cascade_tools.artifacts import (
    Calibration,
    Exported,
    ExportedTier,
    Hop,
    Profile,
    ProfilePoint,
    RouterCost,
)
from cascade_tools.errors import CascadeError, EnvironmentLacks, UsageError
from cascade_tools.machine.facts import machine
from cascade_tools.models.usercode import Rows, load_rows
from cascade_tools.repository.profiling import TierLimits, profiling_files
from cascade_tools.serving.adopted import adopted_models
from cascade_tools.serving.again import again_if_it_stood_still
from cascade_tools.serving.hop import measure_hop_and_router
from cascade_tools.serving.perf_analyzer import find_perf_analyzer
from cascade_tools.serving.tier_server import tier_server
from cascade_tools.serving.triton_wheel import find_triton
from cascade_tools.spec import Cascade, DeviceGroup, load_devices
from cascade_tools.stages.calibrate import CALIBRATION_FILE
from cascade_tools.stages.export import EXPORTED_FILE
from cascade_tools.stages.exported_files import changed_file
from cascade_tools.stages.given_profile import given_profile
from cascade_tools.stages.profiling import in_process
from cascade_tools.stages.profiling.adopted import measure_adopted
from cascade_tools.stages.profiling.energy import Metering, metering
from cascade_tools.stages.profiling.runs import by_cpu_time, make_point
from cascade_tools.stages.profiling.through_server import Sweep, measure_tier
from cascade_tools.stages.progress import Reporter
from cascade_tools.store import Workspace, readable_disk_errors

PROFILE_FILE = "profile.json"

Way = Literal["server", "process"]


@dataclass(frozen=True)
class _Task:
    """What all ways of measuring share."""

    work: Workspace
    calibration: Calibration
    exported: Exported
    rows: Rows
    batches: tuple[int, ...]
    report: Reporter
    perf_analyzer: bool

    def file(self, tier: ExportedTier) -> Path:
        """The tier's file.

        Raises:
            UsageError: it is missing or changed.
        """
        changed = changed_file(self.work, tier)
        if changed is not None:
            raise UsageError(
                f"{changed}: missing or not the file that was exported",
                f"run `{self.work.command('export')}`",
            )
        return self.work.path(tier.file)


def way_of(cascade: Cascade) -> Way:
    """How the exported tiers are measured here: as the spec says, or by what this machine has."""
    if cascade.profile.through != "auto":
        return cascade.profile.through
    try:
        find_triton()
    except EnvironmentLacks:
        return "process"
    return "server"


def profile(
    work: Workspace, made_from: dict[str, str], report: Reporter, *, perf_analyzer: bool = True
) -> None:
    """Write `profile.json`.

    Args:
        work: the cascade; its `profile` section says what is measured.
        made_from: digests of what the stage reads.
        report: says how far it is.
        perf_analyzer: sends the batches where it is found; False for the built-in client in any case.

    Raises:
        UsageError: an exported file is missing or changed, or a given profile does not do.
        EnvironmentLacks: the server is asked for and does not run here, or no device of the file is here.
    """
    cascade = work.cascade
    if cascade.profile.given is not None:
        with readable_disk_errors(work.build):
            work.save(PROFILE_FILE, given_profile(work, made_from, report))
        return
    if way_of(cascade) == "server":
        find_triton()  # before anything else is done
    size = cascade.serving.max_batch_size
    task = _Task(
        work=work,
        calibration=work.load(CALIBRATION_FILE, Calibration, "calibrate"),
        exported=work.load(EXPORTED_FILE, Exported, "export"),
        rows=load_rows(cascade, "validation"),
        batches=tuple(sorted(batch for batch in cascade.profile.batches if batch <= size)),
        report=report,
        perf_analyzer=perf_analyzer,
    )
    points: list[ProfilePoint] = []
    idle_watts: dict[str, float] = {}
    names: list[str] = []
    for device in _devices(task):
        with metering(device) as meters:
            if meters.meter is not None:
                idle_watts[device.type] = meters.idle_watts
                names.append(meters.meter.name)
            points += _points_on(task, device, meters)
    # The search counts with a tier's first device, so their order is that of the device file.
    order = [group.type for group in load_devices(cascade).devices]
    points.sort(key=lambda p: (cascade.tier_names.index(p.tier), order.index(p.device), p.instances, p.batch))
    hop, router = _hop(report)
    with readable_disk_errors(work.build):
        work.save(
            PROFILE_FILE,
            Profile(
                cascade=cascade.name,
                made_from=made_from,
                environment=machine(),
                points=tuple(points),
                hop=hop,
                router=router,
                instances={t.tier: t.instances for t in task.calibration.adopted if t.instances},
                idle_watts=idle_watts,
                energy_meter=", ".join(names) or None,
                graphs={tier.tier: tier.digest for tier in task.exported.tiers},
            ),
        )


def _devices(task: _Task) -> list[DeviceGroup]:
    """The devices of the file that this machine can measure: its CPU, and one type of GPU if it has one.

    Raises:
        EnvironmentLacks: it has none of them.
        UsageError: adopted tiers have no device to be planned on.
    """
    groups = load_devices(task.work.cascade).devices
    here = [group for group in groups if group.kind == "cpu"]
    gpus = [group for group in groups if group.kind == "gpu"]
    if task.calibration.adopted and not here:
        raise UsageError(
            f"{task.work.cascade.folder / task.work.cascade.devices}: names no device of kind cpu; "
            "tiers that Triton already serves are planned on one",
            "add one, such as `{type: cpu, kind: cpu, cores: 8, memory_mib: 32768}`",
        )
    missing = None if not gpus else _why_no_gpu(task, gpus)
    if gpus and missing is None:
        return [*here, gpus[0]]
    if not here:
        file = task.work.cascade.folder / task.work.cascade.devices
        raise EnvironmentLacks(
            f"{file}: has only GPUs: {missing}", "profile on a machine that has one of them"
        )
    if missing is not None:
        task.report.say(f"  {', '.join(group.type for group in gpus)}: not measured here: {missing}")
    return here


def _why_no_gpu(task: _Task, gpus: list[DeviceGroup]) -> str | None:
    """Why the GPUs of the file cannot be measured here; None if they can."""
    if len(gpus) > 1:
        return "which of them this machine has cannot be told; name one type only"
    try:
        for tier in task.exported.tiers[:1]:
            in_process.open_tier(tier, task.file(tier), gpus[0], task.rows, 1)
    except CascadeError as error:
        return error.message
    return None


def _points_on(task: _Task, device: DeviceGroup, meters: Metering) -> list[ProfilePoint]:
    """All tiers on one device."""
    points: list[ProfilePoint] = []
    if task.exported.tiers:
        served = device.kind == "cpu" and way_of(task.work.cascade) == "server"
        points += (_through_server if served else _in_process)(task, device, meters)
    if task.calibration.adopted and device.kind == "cpu":
        points += _adopted(task, device, meters)
    return points


def _in_process(task: _Task, device: DeviceGroup, meters: Metering) -> list[ProfilePoint]:
    tiers = task.exported.tiers
    points: list[ProfilePoint] = []
    text = f"  {len(tiers)} exported tiers x {len(task.batches)} batch sizes in process ({device.type})"
    with task.report.task(text) as advance:
        for tier in tiers:
            opened = in_process.open_tier(tier, task.file(tier), device, task.rows, task.batches[-1])
            for batch in task.batches:
                runs = in_process.measure(opened.model, task.rows, batch, meters)
                utilization = in_process.utilization(opened.model, task.rows, device, runs)
                points.append(make_point(tier.tier, tier.format, device, runs, opened.memory, utilization))
                advance(len(points), len(tiers) * len(task.batches))
    return points


def _through_server(task: _Task, device: DeviceGroup, meters: Metering) -> list[ProfilePoint]:
    cascade = task.work.cascade
    instances = tuple(sorted(cascade.profile.instances))
    models = {tier.tier: cascade.model_name(tier.tier) for tier in task.exported.tiers}
    for tier in task.exported.tiers:
        task.file(tier)
    limits = TierLimits(cascade.name, cascade.serving.max_batch_size, cascade.serving.probabilities)
    tiers = {models[tier.tier]: tier for tier in task.exported.tiers}
    files = profiling_files(limits, task.calibration, tiers, task.work.build)
    program = _generator(task.report) if task.perf_analyzer else None
    counts = " and ".join(map(str, instances))
    text = f"  {len(models)} exported tiers x {len(task.batches)} batch sizes, {counts} instances, on Triton"
    points: list[ProfilePoint] = []
    waiting = list(task.exported.tiers)

    def measure_waiting(step: Callable[[], None]) -> None:
        with tier_server(files) as server:
            sweep = Sweep(server, task.rows, task.batches, instances, program, meters)
            while waiting:
                tier = waiting[0]
                found = measure_tier(sweep, models[tier.tier], step)
                points.extend(
                    make_point(tier.tier, tier.format, device, runs, memory, by_cpu_time(runs, device))
                    for runs, memory in found
                )
                waiting.pop(0)

    with task.report.task(text) as advance:
        step = _counted(advance, len(models) * len(instances) * len(task.batches))
        again_if_it_stood_still(lambda: measure_waiting(step), task.report.say)
    return points


def _counted(advance: Callable[[int, int], None], total: int) -> Callable[[], None]:
    """One step further with every call."""
    done = 0

    def step() -> None:
        nonlocal done
        done = min(total, done + 1)  # what is measured again counts twice
        advance(done, total)

    return step


def _generator(report: Reporter) -> Path | None:
    """perf_analyzer, or None for the built-in client; says why."""
    try:
        return find_perf_analyzer()
    except EnvironmentLacks as error:
        report.say(f"  {error.message}; the built-in client sends the batches ({error.hint})")
        return None


def _adopted(task: _Task, device: DeviceGroup, meters: Metering) -> list[ProfilePoint]:
    """Points of the adopted tiers, through the server that has them."""
    tiers = task.calibration.adopted
    points = []
    with (
        adopted_models(task.work.cascade) as models,
        task.report.task(f"  {len(tiers)} adopted tiers through Triton") as advance,
    ):
        step = _counted(advance, len(tiers) * len(task.batches))
        for tier in tiers:
            for runs, memory in measure_adopted(models, tier, task.rows, task.batches, meters, step):
                points.append(
                    make_point(tier.tier, "triton", device, runs, memory, by_cpu_time(runs, device))
                )
    return points


def _hop(report: Reporter) -> tuple[Hop | None, RouterCost | None]:
    """The cost of a call between models, and of the router, where the embedded server runs."""
    try:
        find_triton()
    except EnvironmentLacks as error:
        report.say(f"  hops count as free: {error.message}")
        return None, None
    report.say("  calls between models on the embedded Triton, and its router")
    return again_if_it_stood_still(measure_hop_and_router, report.say)
