"""How good placements are, and how long they take, beside simpler ways to place.

Every case is one `solve` as `cascade-tools place` calls it, in a process of its own on one thread. Times are
wall seconds, *stolen* is what the host took of the cores meanwhile. Prints a table and keeps
build/benchmarks/placement.json, case by case, so that some can be run again: `python -m benchmarks.placement
six-64`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
OUT = Path("build/benchmarks/placement.json")
LIMIT_S = 300.0
NAMES = ("giant_only", "full_lp", "greedy", "dedicated")


@dataclass(frozen=True)
class Case:
    """One placement problem and its bars: seconds, and gap to the proven bound (None for no bar).

    `share` of the highest rate is the goal's rate where something is minimised.
    """

    ladder: str
    gpus: dict[str, int]
    rule: str
    bar_s: float | None = None
    bar_gap: float | None = None
    per_host: int = 8
    batches: tuple[int, ...] = ()
    minimise: str | None = None
    share: float = 0.6


ABC = {"A": 400, "B": 300, "C": 300}
TEN = {kind: 10 * number for kind, number in ABC.items()}
SMALL = {"A": 24, "B": 20, "C": 20}
ABD = {"A": 400, "B": 300, "D": 300}  # no GPU holds the giant in one piece
ABD_TEN = {kind: 10 * number for kind, number in ABD.items()}
ABD_SMALL = {"A": 24, "B": 20, "D": 20}
CASES = {
    "vit-8-loose": Case("vit", {"A": 8}, "loose", 20.0, 1e-6),
    "vit-8-strict": Case("vit", {"A": 8}, "strict", 20.0),
    "t5-16-loose": Case("t5", {"A": 8, "B": 8}, "loose", 20.0),
    "t5-16-strict": Case("t5", {"A": 8, "B": 8}, "strict", 20.0),
    "t5-12-loose": Case("t5", {"B": 4, "D": 8}, "loose", 20.0),
    "llm-8-loose": Case("llm", {"A": 8}, "loose", 20.0),
    "llm-16-loose": Case("llm", {"A": 8, "B": 8}, "loose", 20.0),
    "llm-16-strict": Case("llm", {"A": 8, "B": 8}, "strict", 20.0),
    "llm-8B-loose": Case("llm", {"B": 8}, "loose", 20.0),
    "six-8-loose": Case("six", {"A": 4, "B": 4}, "loose", 20.0, per_host=4),
    "six-16-loose": Case("six", {"A": 8, "B": 8}, "loose", 20.0),
    "six-16-strict": Case("six", {"A": 8, "B": 8}, "strict", 20.0),
    "six-16BD-loose": Case("six", {"B": 8, "D": 8}, "loose", 20.0),
    "six-16ABC-loose": Case("six", {"A": 8, "B": 4, "C": 4}, "loose", 20.0, per_host=4),
    "six-16ABC-strict": Case("six", {"A": 8, "B": 4, "C": 4}, "strict", 20.0, per_host=4),
    "whole-64-loose": Case("six_whole", SMALL, "loose", 10.0, 0.03),
    "whole-64-strict": Case("six_whole", SMALL, "strict", 10.0, 0.03),
    "six-64-loose": Case("six", SMALL, "loose", 10.0, 0.03, per_host=4),
    "six-64-strict": Case("six", SMALL, "strict", 10.0, 0.03, per_host=4),
    "cut-64-loose": Case("six", ABD_SMALL, "loose", 10.0, 0.03, per_host=4),
    "cut-64-strict": Case("six", ABD_SMALL, "strict", 10.0, 0.03, per_host=4),
    "batches-64-loose": Case("six_whole", SMALL, "loose", 10.0, 0.03, batches=(1, 4, 16)),
    "gpus-64": Case("six", SMALL, "loose", 10.0, None, per_host=4, minimise="gpus"),
    "energy-64": Case("six", SMALL, "loose", 10.0, None, per_host=4, minimise="energy"),
    "whole-1000-loose": Case("six_whole", ABC, "loose", 8.0, 0.01),
    "whole-1000-strict": Case("six_whole", ABC, "strict", 8.0, 0.01),
    "six-1000-loose": Case("six", ABC, "loose", 30.0, 0.01, per_host=4),
    "six-1000-strict": Case("six", ABC, "strict", 30.0, 0.01, per_host=4),
    "cut-1000-loose": Case("six", ABD, "loose", 30.0, 0.01, per_host=4),
    "cut-1000-strict": Case("six", ABD, "strict", 30.0, 0.01, per_host=4),
    "gpus-1000": Case("six", ABC, "loose", 30.0, None, per_host=4, minimise="gpus"),
    "energy-1000": Case("six", ABC, "loose", 30.0, None, per_host=4, minimise="energy"),
    "whole-10000-loose": Case("six_whole", TEN, "loose", 8.0, 0.005),
    "whole-10000-strict": Case("six_whole", TEN, "strict", 8.0, 0.005),
    "six-10000-loose": Case("six", TEN, "loose", 30.0, 0.005, per_host=4),
    "six-10000-strict": Case("six", TEN, "strict", 30.0, 0.005, per_host=4),
    "cut-10000-loose": Case("six", ABD_TEN, "loose", 30.0, 0.005, per_host=4),
    "cut-10000-strict": Case("six", ABD_TEN, "strict", 30.0, 0.005, per_host=4),
}


def measured(case: Case) -> dict[str, Any]:
    """One case, in this process."""
    from benchmarks.clusters import problem
    from benchmarks.measuring import stolen_share
    from cascade_tools.planning.placement.baselines.baselines import baselines
    from cascade_tools.planning.placement.problem import Goal
    from cascade_tools.planning.placement.solve import solve
    from cascade_tools.planning.placement.verify import verify

    asked = problem(
        case.ladder, case.gpus, case.per_host, "strict" if case.rule == "strict" else "loose", case.batches
    )
    if case.minimise:
        rate = case.share * solve(asked).rate_rps
        asked = replace(asked, goal=Goal(rate, "energy" if case.minimise == "energy" else "gpus"))
    start_s = time.perf_counter()
    simple = baselines(asked)
    middle_s, times = time.perf_counter(), psutil.cpu_times()
    solution = solve(asked)
    end_s = time.perf_counter()
    return {
        "gpus": len(asked.devices),
        "rule": case.rule,
        "minimise": case.minimise,
        "seconds": end_s - middle_s,
        "stolen_share": stolen_share(times),
        "baselines_s": middle_s - start_s,
        "rate_rps": solution.rate_rps,
        "value": solution.value,
        "bound": solution.bound,
        "gap": solution.gap,
        "status": solution.status,
        "method": solution.method,
        "faults": verify(asked, solution),
        "baselines": {name: None if found is None else found.value for name, found in simple.items()},
    }


def run_apart(name: str) -> dict[str, Any]:
    """`measured` in a fresh process."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.placement", "--cell", name],
        env={**os.environ, **ONE_THREAD},
        stdout=subprocess.PIPE,
        timeout=LIMIT_S,
        check=True,
        text=True,
    )
    content: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return content


def line(name: str, row: dict[str, Any]) -> str:
    """One line of the table; a ratio above 1 says that the placement is so many times better."""
    case = CASES[name]
    ratios = []
    for baseline in NAMES:
        value = row["baselines"][baseline]
        better = (value, row["value"]) if case.minimise else (row["value"], value)
        ratios.append("    -" if not value else f"{better[0] / better[1]:5.2f}")
    bar_s = "-" if case.bar_s is None else f"{case.bar_s:.0f}"
    bar_gap = "-" if case.bar_gap is None else f"{100.0 * case.bar_gap:.1f}"
    missed = row["faults"] or row["seconds"] > (case.bar_s or 1e9) or row["gap"] > (case.bar_gap or 1e9)
    return (
        f"| {name:18} | {row['gpus']:6,} | {row['seconds']:6.2f} | {bar_s:>3} | "
        f"{row['stolen_share']:4.0%} | {100.0 * row['gap']:6.3f} | "
        f"{bar_gap:>4} | {row['value']:13,.2f} | {' | '.join(ratios)} | {row['method']:8} | "
        f"{'missed' if missed else ''}"
    )


def main() -> None:
    """The cases that are named, or all."""
    if sys.argv[1:2] == ["--cell"]:
        print(json.dumps(measured(CASES[sys.argv[2]])))
        return
    from cascade_tools.machine.facts import machine

    wanted = [name for name in CASES if not sys.argv[1:] or any(name.startswith(a) for a in sys.argv[1:])]
    rows: dict[str, Any] = json.loads(OUT.read_text())["cases"] if OUT.exists() and sys.argv[1:] else {}
    OUT.parent.mkdir(parents=True, exist_ok=True)
    print("| case | GPUs | seconds | bar | stolen | gap, % | bar | rate, GPUs or W ", end="")
    print("| x giant | x full | x greedy | x dedicated | by | |")
    for name in wanted:
        rows[name] = run_apart(name) | {"bar_s": CASES[name].bar_s, "bar_gap": CASES[name].bar_gap}
        print(line(name, rows[name]), flush=True)
        OUT.write_text(json.dumps({"machine": machine(), "cases": rows}, indent=1) + "\n")
    print(f"written: {OUT}")


if __name__ == "__main__":
    main()
