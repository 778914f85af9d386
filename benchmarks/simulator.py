"""How fast the simulator is: requests per second of wall time, on one core.

A ladder of four tiers on six devices, a policy with skips, and a router whose costs are all counted, so that
every kind of event takes place. Batches are what comes of the arrivals; the mean over all tiers is printed.
`make bench-simulator`; writes build/benchmarks/simulator_speed.json.
"""

from __future__ import annotations

import json
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from cascade_tools.machine.facts import machine
from cascade_tools.planning.simulator.engine import simulate
from cascade_tools.planning.simulator.system import (
    Recorded,
    ServiceTime,
    SimDevice,
    SimGear,
    SimRouter,
    SimTier,
    System,
    Work,
)
from cascade_tools.planning.traces.generators import poisson
from cascade_tools.runtime.plan import parse_policy

OUT = Path("build/benchmarks/simulator_speed.json")
SEED = 0
TURNS = 3
RECORDED_ROWS = 20_000
NAMES = ("tiny", "small", "base", "giant")
POLICY = {
    "tiers": list(NAMES),
    "routes": [
        {"cuts": [0.1, 0.5], "to": [2, 1, -1]},
        {"cuts": [0.5], "to": [2, -1]},
        {"cuts": [0.5], "to": [3, -1]},
        {"cuts": [], "to": [-1]},
    ],
}
BATCH_MS = (0.5, 1.5, 2.5, 4.0)  # of a batch of one, by tier
ROW_MS = (0.005, 0.01, 0.02, 0.05)  # of each further row
HOMES = ((0,), (0,), (1, 2), (3, 4, 5))
ROUTER = 6  # its device
LARGEST = 128


@dataclass(frozen=True)
class Case:
    """Load, and the rate that is asked of the simulator."""

    name: str
    rate_rps: float
    requests: int
    max_batch: int
    bar: float


CASES = (
    Case("one by one", 200.0, 100_000, 1, 30_000.0),
    Case("batches", 18_000.0, 1_000_000, LARGEST, 300_000.0),
    Case("large batches", 30_000.0, 1_000_000, LARGEST, 300_000.0),
)


@dataclass(frozen=True)
class Row:
    """What was found: medians of the turns."""

    name: str
    max_batch: int
    mean_batch: float
    requests: int
    per_s: float
    bar: float


def ladder(max_batch: int) -> System:
    """The system that is simulated."""
    size = np.arange(max_batch)
    tiers = tuple(
        SimTier(
            name,
            {"gpu": ServiceTime(base + row * size, np.full(max_batch, 0.3), 0.01 * (1.0 + size))},
            (home,),
            ask_ms=0.4,
            ask_cpu_ms=0.5,
        )
        for name, base, row, home in zip(NAMES, BATCH_MS, ROW_MS, HOMES, strict=True)
    )
    router = SimRouter(
        max_batch_size=max_batch,
        rows_in_flight=10**6,
        device=ROUTER,
        cores=16,
        own=Work(batch_ms=0.1, request_ms=0.01, call_ms=0.1),
        server=Work(batch_ms=0.2, request_ms=0.02, late_ms=0.01),
        client=Work(batch_ms=0.1, request_ms=0.02),
        rest_ms=(0.1, 0.2, 0.4),
    )
    gear = SimGear(None, parse_policy(POLICY, "policy"))
    return System(tiers, (*[SimDevice("gpu") for _ in range(ROUTER)], SimDevice("cpu")), router, (gear,))


def measure(case: Case, recorded: Recorded) -> Row:
    """Median of a few runs of one case."""
    rng = np.random.default_rng(SEED)
    arrival_s = poisson(case.rate_rps, case.requests / case.rate_rps, SEED)
    rows = rng.integers(0, RECORDED_ROWS, len(arrival_s))
    system = ladder(case.max_batch)
    taken_s = []
    for _ in range(TURNS):
        start = time.perf_counter()
        found = simulate(system, arrival_s, rows, recorded)
        taken_s.append(time.perf_counter() - start)
    mean = float((found.mean_batch * found.batches).sum() / found.batches.sum())
    per_s = len(arrival_s) / statistics.median(taken_s)
    return Row(case.name, case.max_batch, mean, len(arrival_s), per_s, case.bar)


def main() -> None:
    """Measure, print, write."""
    rng = np.random.default_rng(SEED)
    shape = (RECORDED_ROWS, len(BATCH_MS))
    recorded = Recorded(rng.random(shape).astype(np.float32), rng.random(shape) < 0.9)
    rows = [measure(case, recorded) for case in CASES]
    print("| load | largest batch | mean batch | requests | requests/s of wall time | bar |")
    print("|---|--:|--:|--:|--:|--:|")
    for row in rows:
        print(
            f"| {row.name} | {row.max_batch} | {row.mean_batch:.1f} | {row.requests:,} | {row.per_s:,.0f} "
            f"| {row.bar:,.0f} |"
        )
    content = {
        "machine": machine(),
        "date": time.strftime("%Y-%m-%d"),
        "rows": [asdict(row) for row in rows],
    }
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(content, indent=1) + "\n")
    print(f"written: {OUT}")


if __name__ == "__main__":
    main()
