"""The demo ladder profiled in process and through the embedded Triton: do they agree, how long do they take?

    agree    per tier and batch size, in turns and back to back, so that a busy host meets all alike:
             process (ONNX Runtime in this process), client (the embedded Triton, our own client),
             perf_analyzer (the same, where it was fetched); ratio = median over the turns
    memory   does the rule, instances x what one holds, hold for two?
    speed    a whole profile of four tiers x five batch sizes by each way

Prints tables, writes build/benchmarks/profile.json. `cascade-tools run ensembles/digits` comes first.
`--parts agree --ways client --turns 1` runs a part.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cascade_tools import resources
from cascade_tools.artifacts import Calibration, Exported, ExportedTier
from cascade_tools.errors import CascadeError, EnvironmentLacks, UsageError
from cascade_tools.machine.facts import machine
from cascade_tools.models.open_model import OpenModel, open_model
from cascade_tools.models.usercode import Rows, load_rows
from cascade_tools.planning.memory import held_mib
from cascade_tools.repository.profiling import TierLimits, profiling_files
from cascade_tools.serving.closed_loop import closed_loop
from cascade_tools.serving.perf_analyzer import find_perf_analyzer
from cascade_tools.serving.tier_server import TierServer, tier_server
from cascade_tools.spec import load_cascade
from cascade_tools.stages.calibrate import CALIBRATION_FILE
from cascade_tools.stages.export import EXPORTED_FILE
from cascade_tools.stages.profile import profile
from cascade_tools.stages.profiling import in_process, through_server
from cascade_tools.stages.profiling.batches import draw
from cascade_tools.stages.profiling.energy import Metering
from cascade_tools.stages.profiling.runs import Runs
from cascade_tools.stages.progress import stderr_reporter
from cascade_tools.store import Workspace, write_atomically

OUT = Path("build/benchmarks/profile.json")
PLANNED = Path("build/digits")
FOLDER = Path("build/benchmarks/profile")
PARTS = ("agree", "memory", "speed")
WAYS = ("client", "perf_analyzer")
BATCHES = (1, 2, 4, 8, 16, 32)
SPEED_BATCHES = (1, 2, 4, 8, 16)
COUNTS = (1, 2)
AGREE = 0.15
SETTLE_S = 1.0
NO_METER = Metering(None, 0.0)

Measure = Callable[[int], Runs]


class Ladder:
    """The demo's tiers on a running server and in this process."""

    def __init__(self, work: Workspace, server: TierServer, exported: Exported, rows: Rows) -> None:
        self.work, self.server, self.exported, self.rows = work, server, exported, rows

    def model(self, tier: ExportedTier) -> str:
        """Its name on the server."""
        return self.work.cascade.model_name(tier.tier)

    def opened(self, tier: ExportedTier) -> OpenModel:
        """The tier in this process."""
        return open_model(tier, self.work.path(tier.file), "cpu")

    def sweep(self, batch: int, program: Path | None) -> through_server.Sweep:
        """One batch size, one instance."""
        return through_server.Sweep(self.server, self.rows, (batch,), (1,), program, NO_METER)


def agree(ladder: Ladder, programs: dict[str, Path | None], turns: int) -> list[dict[str, Any]]:
    """One row per tier and batch size: medians of the turns."""
    rows = []
    for tier in ladder.exported.tiers:
        opened, model = ladder.opened(tier), ladder.model(tier)
        with ladder.server.loaded(model, 1):
            for batch in BATCHES:
                found: dict[str, list[Runs]] = {way: [] for way in ("process", *programs)}
                for _ in range(turns):
                    found["process"].append(in_process.measure(opened, ladder.rows, batch, NO_METER))
                    for way, program in programs.items():
                        sweep = ladder.sweep(batch, program)
                        found[way].append(through_server.measure_batch(sweep, model, batch, 1))
                rows.append({"tier": tier.tier, "batch": batch, **_row(found)})
                _show_row(rows[-1], list(programs))
    return rows


def _row(found: dict[str, list[Runs]]) -> dict[str, Any]:
    process_ms = [run.p50_ms for run in found["process"]]
    row: dict[str, Any] = {"process_ms": statistics.median(process_ms), "process_ms_by_turn": process_ms}
    for way, runs in found.items():
        if way != "process":
            ratios = [run.p50_ms / base for run, base in zip(runs, process_ms, strict=True)]
            row[f"{way}_ms"] = statistics.median(run.p50_ms for run in runs)
            row[f"{way}_overhead_ms"] = statistics.median(run.overhead_ms or 0.0 for run in runs)
            row[f"{way}_client_ms"] = statistics.median(run.client_p50_ms or 0.0 for run in runs)
            row[f"{way}_ratio"] = statistics.median(ratios)
            row[f"{way}_ratio_by_turn"] = ratios
    return row


def memory(ladder: Ladder) -> list[dict[str, Any]]:
    """Per tier: what all instances hold after the largest batch, and what the rule says from one."""
    rows = []
    for tier in ladder.exported.tiers:
        model, one_mib = ladder.model(tier), 0.0
        for count in COUNTS:
            with ladder.server.loaded(model, count):
                batches = draw(ladder.rows, BATCHES[-1])
                with closed_loop(ladder.server.url, model, batches, count):
                    time.sleep(SETTLE_S)
                held = ladder.server.private_mib(model)
            one_mib = held if count == 1 else one_mib
            planned = held_mib(one_mib, 0.0, count)
            rows.append({"tier": tier.tier, "instances": count, "held_mib": held, "planned_mib": planned})
            print(
                f"  {tier.tier}, {count} instances: {held:.1f} MiB held, {planned:.1f} by the rule "
                f"({held / planned - 1.0:+.1%})",
                flush=True,
            )
    return rows


def speed(work: Workspace, way: str) -> float:
    """Seconds of a whole profile, the hop included."""
    choice = {"through": "process" if way == "process" else "server", "batches": SPEED_BATCHES}
    copy = Workspace(work.cascade.with_profile(choice), FOLDER / way / work.cascade.name)
    shutil.rmtree(copy.build, ignore_errors=True)
    shutil.copytree(PLANNED / "export", copy.path("export"))
    for name in (CALIBRATION_FILE, EXPORTED_FILE):
        shutil.copy2(PLANNED / name, copy.path(name))
    start = time.perf_counter()
    profile(copy, {}, stderr_reporter(), perf_analyzer=way == "perf_analyzer")
    seconds = time.perf_counter() - start
    print(f"  {way}: 4 tiers x {len(SPEED_BATCHES)} batch sizes in {seconds:.0f} s", flush=True)
    return seconds


def _show_row(row: dict[str, Any], ways: list[str]) -> None:
    if (row["tier"], row["batch"]) == ("tiny", BATCHES[0]):
        heads = "".join(f"{way + ' ms':>18}{'overhead':>10}{'ratio':>8}" for way in ways)
        print(f"{'tier':8}{'batch':>6}{'process ms':>12}{heads}")
    found = "".join(
        f"{row[f'{way}_ms']:>18.4f}{row[f'{way}_overhead_ms']:>10.3f}{row[f'{way}_ratio']:>8.2f}"
        for way in ways
    )
    print(f"{row['tier']:8}{row['batch']:>6}{row['process_ms']:>12.4f}{found}", flush=True)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", default=",".join(PARTS), help="comma separated")
    parser.add_argument("--ways", default=",".join(WAYS), help="comma separated; process is always there")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    try:
        _measure(arguments)
    except KeyboardInterrupt:
        sys.exit(130)
    except CascadeError as error:
        sys.exit(f"error: {error.message}" + (f"\n  -> {error.hint}" if error.hint else ""))


def _programs(wanted: str) -> dict[str, Path | None]:
    found: dict[str, Path | None] = {}
    for way in wanted.split(","):
        if way not in WAYS:
            raise UsageError(f"--ways {wanted}: some of {', '.join(WAYS)}, comma separated")
        try:
            found[way] = find_perf_analyzer() if way == "perf_analyzer" else None
        except EnvironmentLacks as error:
            print(f"NOT MEASURED: {error.message} ({error.hint})")
    return found


def _measure(arguments: argparse.Namespace) -> None:
    parts = set(arguments.parts.split(","))
    if not parts <= set(PARTS):
        raise UsageError(f"--parts {arguments.parts}: some of {', '.join(PARTS)}, comma separated")
    programs = _programs(arguments.ways)
    cascade = load_cascade(resources.shipped_cascade("digits"))
    work = Workspace(cascade, PLANNED)
    exported = work.load(EXPORTED_FILE, Exported, "export")
    calibration = work.load(CALIBRATION_FILE, Calibration, "calibrate")
    tiers = {cascade.model_name(tier.tier): tier for tier in exported.tiers}
    limits = TierLimits(cascade.name, cascade.serving.max_batch_size, cascade.serving.probabilities)
    content: dict[str, Any] = {"machine": machine(), "date": time.strftime("%Y-%m-%d")}
    if parts & {"agree", "memory"}:
        with tier_server(profiling_files(limits, calibration, tiers, PLANNED)) as server:
            ladder = Ladder(work, server, exported, load_rows(cascade, "validation"))
            if "agree" in parts:
                content["agree"] = agree(ladder, programs, arguments.turns)
            if "memory" in parts:
                content["memory"] = memory(ladder)
    for way in programs if "agree" in parts else ():
        ratios = [row[f"{way}_ratio"] for row in content["agree"]]
        count = sum(abs(ratio - 1.0) <= AGREE for ratio in ratios)
        print(f"  {way}: {count} of {len(ratios)} within {AGREE:.0%} of the time in process")
    if "speed" in parts:
        content["speed_s"] = {way: speed(work, way) for way in ("process", *programs)}
    write_atomically(arguments.out, (json.dumps(content, indent=1) + "\n").encode())
    print(f"written: {arguments.out}")


if __name__ == "__main__":
    main()
