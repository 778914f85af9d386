"""How cheap the found policies are, beside the published way, and what finding them takes.

Every cell runs in a process of its own on one thread, so that its peak memory is its own. Writes
build/benchmarks/search.json.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
CELLS = [(4, 50_000), (4, 1_000_000), (6, 50_000), (6, 1_000_000)]
DROPS = (0.0, 0.5)
# Seconds of process CPU time; MiB; and at most this share of the baseline's cost, by drop.
BARS = {
    (4, 50_000): (1.0, {0.0: 0.99, 0.5: 1.0}),
    (4, 1_000_000): (10.0, {0.0: 0.99, 0.5: 1.0}),
    (6, 50_000): (5.0, {0.0: 0.95, 0.5: 0.95}),
    (6, 1_000_000): (25.0, {0.0: 0.95, 0.5: 0.95}),
}
MEMORY_BAR_MIB = 512
OUT = Path("build/benchmarks/search.json")


def cell(tiers: int, rows: int, drop: float, *, baseline: bool) -> dict[str, Any]:
    """One search, or the baseline on the same rows."""
    from benchmarks.populations import COST, draw
    from benchmarks.published import published
    from cascade_tools.planning.decide import decide
    from cascade_tools.planning.evaluate import Question

    table = draw(rows, tiers, seed=0).table
    question = Question(COST[tiers], drop)
    before_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    start_s = time.process_time()
    if baseline:
        found = published(table, question)
    else:
        chosen = decide(table, question, guarantee=False).chosen
        assert chosen is not None
        found = chosen
    return {
        "cpu_s": time.process_time() - start_s,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "before_mib": before_mib,
        "cost": found.cost,
        "accuracy_drop": found.accuracy_drop,
        "tiers": list(found.table.tiers),
    }


def run_apart(tiers: int, rows: int, drop: float, *, baseline: bool) -> dict[str, Any]:
    """`cell` in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.search", "--cell", str(tiers), str(rows), str(drop)]
    done = subprocess.run(
        [*command, *(["--baseline"] if baseline else [])],
        env={**os.environ, **ONE_THREAD},
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    content: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return content


def main() -> None:
    """All cells, or one of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cell", nargs=3, metavar=("TIERS", "ROWS", "DROP"))
    parser.add_argument("--baseline", action="store_true")
    arguments = parser.parse_args()
    if arguments.cell:
        tiers, rows, drop = arguments.cell
        print(json.dumps(cell(int(tiers), int(rows), float(drop), baseline=arguments.baseline)))
        return
    from cascade_tools.machine.facts import machine

    found = []
    print("tiers      rows  drop   CPU s   bar   MiB     cost published  ratio   bar")
    for tiers, rows in CELLS:
        for drop in DROPS:
            ours = run_apart(tiers, rows, drop, baseline=False)
            theirs = run_apart(tiers, rows, drop, baseline=True)
            ratio = ours["cost"] / theirs["cost"]
            seconds, ratios = BARS[tiers, rows]
            found.append(
                {
                    "tiers": tiers,
                    "rows": rows,
                    "max_accuracy_drop": drop,
                    "search": ours,
                    "published": theirs,
                    "ratio": ratio,
                    "bar_s": seconds,
                    "bar_ratio": ratios[drop],
                    "bar_mib": MEMORY_BAR_MIB,
                }
            )
            print(
                f"{tiers:5} {rows:9,} {drop:5} {ours['cpu_s']:7.2f} {seconds:5.0f} {ours['peak_mib']:5} "
                f"{ours['cost']:8.5f} {theirs['cost']:9.5f} {ratio:6.3f} {ratios[drop]:5}",
                flush=True,
            )
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps({"machine": machine(), "rows": found}, indent=1) + "\n")
    print(f"written: {OUT}")


if __name__ == "__main__":
    main()
