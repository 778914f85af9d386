"""The demo ladder profiled in process and through the embedded Triton: do they agree, how long do they take?

    process         ONNX Runtime in one process
    client          the embedded Triton, each tier alone, batches from the built-in client
    perf_analyzer   the same, batches from perf_analyzer, where it was fetched

Prints the median of a batch by each of them, the ratio to the one in process, and whether two instances hold
twice the memory of one. Writes build/benchmarks/profile.json. `cascade-tools run ensembles/digits` comes
first.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cascade_tools import resources
from cascade_tools.artifacts import Profile, ProfilePoint
from cascade_tools.errors import CascadeError, EnvironmentLacks
from cascade_tools.machine.facts import machine
from cascade_tools.planning.memory import held_mib
from cascade_tools.serving.perf_analyzer import VARIABLE, find_perf_analyzer
from cascade_tools.spec import load_cascade
from cascade_tools.stages.calibrate import CALIBRATION_FILE
from cascade_tools.stages.export import EXPORTED_FILE
from cascade_tools.stages.profile import PROFILE_FILE, profile
from cascade_tools.stages.progress import stderr_reporter
from cascade_tools.store import Workspace, write_atomically

OUT = Path("build/benchmarks/profile.json")
PLANNED = Path("build/digits")
FOLDER = Path("build/benchmarks/profile")
WAYS = ("process", "client", "perf_analyzer")
AGREE = 0.15


def measure(way: str, batches: Sequence[int], instances: Sequence[int]) -> tuple[Profile, float]:
    """One profile of the demo ladder, and the seconds that it took."""
    cascade = load_cascade(resources.shipped_cascade("digits"))
    choice = {
        "through": "process" if way == "process" else "server",
        "batches": tuple(batches),
        "instances": tuple(instances),
    }
    work = Workspace(cascade.with_profile(choice), FOLDER / way / cascade.name)
    shutil.rmtree(work.build, ignore_errors=True)
    shutil.copytree(PLANNED / "export", work.path("export"))
    for name in (CALIBRATION_FILE, EXPORTED_FILE):
        shutil.copy2(PLANNED / name, work.path(name))
    start = time.perf_counter()
    profile(work, {}, stderr_reporter(), perf_analyzer=way == "perf_analyzer")
    return work.load(PROFILE_FILE, Profile, "profile"), time.perf_counter() - start


def compare(found: dict[str, Profile]) -> list[dict[str, Any]]:
    """One row per tier and batch size: medians of one instance by way, and ratios to the one in process."""
    rows = []
    for point in found["process"].points:
        row: dict[str, Any] = {"tier": point.tier, "batch": point.batch, "process_ms": point.latency_p50_ms}
        row["process_spread"] = point.latency_spread
        for way, made in found.items():
            if way != "process":
                other = _same(made, point)
                row[f"{way}_ms"] = other.latency_p50_ms
                row[f"{way}_spread"] = other.latency_spread
                row[f"{way}_overhead_ms"] = other.overhead_ms
                row[f"{way}_ratio"] = other.latency_p50_ms / point.latency_p50_ms
        rows.append(row)
    return rows


def _same(made: Profile, point: ProfilePoint) -> ProfilePoint:
    return next(p for p in made.points_of(point.tier) if p.batch == point.batch)


def memory(made: Profile) -> list[dict[str, Any]]:
    """Per tier: what all instances hold together, and what the rule says from one instance."""
    rows = []
    for tier in dict.fromkeys(point.tier for point in made.points):
        by_count = {p.instances: p for p in made.points if p.tier == tier}
        one = by_count[1]
        for count, point in sorted(by_count.items()):
            planned = held_mib(one.memory_mib, one.shared_mib, count)
            held = count * point.memory_mib
            rows.append({"tier": tier, "instances": count, "held_mib": held, "planned_mib": planned})
    return rows


def show(content: dict[str, Any]) -> None:
    """The tables."""
    served = [way for way in content["seconds"] if way != "process"]
    print(f"{'tier':8}{'batch':>6}{'process ms':>12}", end="")
    print("".join(f"{way + ' ms':>18}{'overhead':>10}{'ratio':>8}" for way in served))
    for row in content["rows"]:
        print(f"{row['tier']:8}{row['batch']:>6}{row['process_ms']:>12.4f}", end="")
        for way in served:
            print(f"{row[f'{way}_ms']:>18.4f}{row[f'{way}_overhead_ms']:>10.4f}", end="")
            print(f"{row[f'{way}_ratio']:>8.2f}", end="")
        print()
    for way in served:
        ratios = [row[f"{way}_ratio"] for row in content["rows"]]
        agree = sum(abs(ratio - 1.0) <= AGREE for ratio in ratios)
        print(f"  {way}: {agree} of {len(ratios)} within {AGREE:.0%} of the time in process")
    for way, seconds in content["seconds"].items():
        print(f"  {way}: {seconds:.0f} s, hop included")
    for row in content["memory"]:
        print(
            f"  {row['tier']}, {row['instances']} instances: {row['held_mib']:.1f} MiB held, "
            f"{row['planned_mib']:.1f} by the rule ({row['held_mib'] / row['planned_mib'] - 1.0:+.1%})"
        )
    sys.stdout.flush()


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batches", default="1,2,4,8,16,32", help="comma separated")
    parser.add_argument("--instances", default="1,2", help="comma separated")
    parser.add_argument("--ways", default=",".join(WAYS), help="comma separated; process is always there")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    try:
        _measure(arguments)
    except KeyboardInterrupt:
        sys.exit(130)
    except CascadeError as error:
        sys.exit(f"error: {error.message}" + (f"\n  -> {error.hint}" if error.hint else ""))


def _measure(arguments: argparse.Namespace) -> None:
    batches, instances = (
        [int(count) for count in text.split(",")] for text in (arguments.batches, arguments.instances)
    )
    wanted = [way for way in WAYS if way == "process" or way in arguments.ways.split(",")]
    if "perf_analyzer" in wanted:
        try:
            os.environ[VARIABLE] = str(find_perf_analyzer())
        except EnvironmentLacks as error:
            wanted.remove("perf_analyzer")
            print(f"NOT MEASURED: {error.message} ({error.hint})")
    found, seconds = {}, {}
    for way in wanted:
        found[way], seconds[way] = measure(way, batches, instances)
    served = [way for way in wanted if way != "process"]
    content = {
        "machine": machine(),
        "date": time.strftime("%Y-%m-%d"),
        "seconds": seconds,
        "rows": compare(found),
        "memory": memory(found[served[0]]) if served else [],
    }
    show(content)
    write_atomically(arguments.out, (json.dumps(content, indent=1) + "\n").encode())
    print(f"written: {arguments.out}")


if __name__ == "__main__":
    main()
