"""Runs the experiments, prints them, writes build/paper.json and docs/paper.md.

    python -m benchmarks.paper [--only 1,4] [--quick] [--build-dir build]

What was not run this time stays in both as it was. A quick run, too short to be read, writes to
build/paper/ alone.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from benchmarks.measuring import stolen_share
from benchmarks.paper import EXPERIMENTS
from benchmarks.paper.finding import Experiment, Finding
from benchmarks.paper.page import page, picture_name
from benchmarks.paper.setting import FULL, QUICK, Setting
from cascade_tools.errors import CascadeError, UsageError
from cascade_tools.machine.facts import machine
from cascade_tools.store import write_atomically

DOCS = Path("docs")
KEYS = {"said", "tables", "pictures", "seconds", "stolen_share", "date", "machine", "quick"}  # of `page`


def wanted(text: str | None) -> list[Experiment]:
    """The experiments of `--only`, or all.

    Raises:
        UsageError: a number is none of theirs.
    """
    if text is None:
        return list(EXPERIMENTS)
    known = {str(experiment.number): experiment for experiment in EXPERIMENTS}
    numbers = [part.strip() for part in text.split(",")]
    unknown = [number for number in numbers if number not in known]
    if unknown:
        raise UsageError(f"--only: no experiment {unknown[0]!r}", f"there are {', '.join(known)}")
    return [known[number] for number in dict.fromkeys(numbers)]


def entry(
    experiment: Experiment, finding: Finding, seconds: float, stolen: float, quick: bool
) -> dict[str, Any]:
    """One experiment for the JSON file."""
    return {
        "title": experiment.title,
        "paper": experiment.paper,
        "claim": experiment.claim,
        "said": list(finding.said),
        "tables": [table.content() for table in finding.tables],
        "pictures": sorted(finding.pictures),
        "seconds": round(seconds, 1),
        "stolen_share": round(stolen, 3),
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine(),
        "quick": quick,
    }


def read(path: Path) -> dict[str, Any]:
    """The experiments of earlier runs, by number; those of an older form are to be run again."""
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["experiments"]
    except (OSError, ValueError, KeyError):
        return {}
    return {number: known for number, known in found.items() if known.keys() >= KEYS}


def run(chosen: list[Experiment], setting: Setting, quick: bool) -> None:
    """Run them, and write after each: one that fails takes nothing with it."""
    folder = setting.build / "paper" / "quick" if quick else setting.build
    docs = folder if quick else DOCS
    out = folder / "paper.json"
    known = read(out)
    for experiment in chosen:
        setting.say(f"{experiment.number}. {experiment.title}")
        start, before = time.perf_counter(), psutil.cpu_times()
        finding = experiment.run(setting)
        seconds, stolen = time.perf_counter() - start, stolen_share(before)
        known[str(experiment.number)] = entry(experiment, finding, seconds, stolen, quick)
        for name, picture in finding.pictures.items():
            write_atomically(docs / picture_name(experiment.number, name), picture.encode())
        known = {str(e.number): known[str(e.number)] for e in EXPERIMENTS if str(e.number) in known}
        write_atomically(out, json.dumps({"experiments": known}, indent=1).encode() + b"\n")
        write_atomically(docs / "paper.md", page(EXPERIMENTS, known).encode())
        for text in finding.said:
            print(f"{experiment.number}. {text}", flush=True)
        setting.say(f"  {seconds:.0f} s")
    print(f"written: {out}, {docs / 'paper.md'}")


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", metavar="N,M", help="numbers of the experiments to run")
    parser.add_argument("--quick", action="store_true", help="briefly: to see that it runs")
    parser.add_argument("--build-dir", type=Path, default=Path("build"))
    given = parser.parse_args()
    try:
        setting = Setting(given.build_dir, QUICK if given.quick else FULL)
        run(wanted(given.only), setting, given.quick)
    except CascadeError as error:
        print(f"error: {error.message}" + (f"\n  {error.hint}" if error.hint else ""), file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
