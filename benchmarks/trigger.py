"""The batch trigger beside the fast shape: the same cascade, its last gear with and without it.

The plan is swapped under the running server; the settings take turns (three passes, medians). Prints a table,
writes build/benchmarks/trigger.json. `make bench-trigger`.
"""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path
from typing import Any

from benchmarks.ladders import LADDERS, Ladder
from benchmarks.measuring import QUICK, REPOSITORIES, Bench, served
from benchmarks.plan_swap import swap_plan
from cascade_tools.machine.facts import machine
from cascade_tools.repository.manifest import PLAN_FILE
from cascade_tools.serving.embedded import Server
from cascade_tools.serving.perf_analyzer import find_perf_analyzer

OUT = Path("build/benchmarks/trigger.json")
SETTINGS = ((1, 0.0), (4, 5.0), (16, 5.0), (16, 20.0))  # min_queue, max_wait_ms
CLIENTS = (8, 32)
PASSES = 3


def _put(ladder: Ladder, server: Server, min_queue: int, max_wait_ms: float) -> None:
    """Give every gear of the served plan the trigger."""
    name = f"{ladder.cascade}/{PLAN_FILE}"
    plan = json.loads(ladder.files[name])
    for gear in plan["gears"]:
        gear |= {"min_queue": min_queue, "max_wait_ms": max_wait_ms}
    swap_plan(server, REPOSITORIES / ladder.name / "current" / name, json.dumps(plan).encode())


def main() -> None:
    """Measure, print, write."""
    ladder = LADDERS["demo"]()
    found: dict[tuple[int, float, int], list[dict[str, float]]] = {}
    with served(ladder) as server:
        bench = Bench(ladder, server, find_perf_analyzer(), QUICK)
        bench.check(("cascade",))
        for number in range(PASSES):
            for min_queue, max_wait_ms in SETTINGS if number % 2 == 0 else SETTINGS[::-1]:
                _put(ladder, server, min_queue, max_wait_ms)
                for clients in CLIENTS:
                    result = bench.measure("cascade", clients)
                    found.setdefault((min_queue, max_wait_ms, clients), []).append(
                        {"rps": result.throughput_rps, "p50_ms": result.p50_ms, "p99_ms": result.p99_ms}
                    )
        _put(ladder, server, *SETTINGS[-1])
        bench.check(("cascade",))  # with the longest wait, too, every answer is the policy's
    rows: list[dict[str, Any]] = []
    print("  min_queue  max_wait ms  clients   requests/s   p50 ms   p99 ms")
    for (min_queue, max_wait_ms, clients), runs in found.items():
        middle = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        rows.append({"min_queue": min_queue, "max_wait_ms": max_wait_ms, "clients": clients} | middle)
        print(
            f"  {min_queue:9} {max_wait_ms:12g} {clients:8} {middle['rps']:12.0f} "
            f"{middle['p50_ms']:8.1f} {middle['p99_ms']:8.1f}"
        )
    OUT.parent.mkdir(parents=True, exist_ok=True)
    content = {"machine": machine(), "date": time.strftime("%Y-%m-%d"), "rows": rows}
    OUT.write_text(json.dumps(content, indent=1) + "\n")
    print(f"written: {OUT}")


if __name__ == "__main__":
    main()
