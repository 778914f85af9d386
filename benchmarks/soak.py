"""A long load at 70 % of the capacity: is every request answered, and does memory stay where it is?

The cascade of `benchmarks.chaos`, served as `cascade-tools serve` does it. First the capacity is measured in
a closed loop, then the load is held below it while the memory of the server's processes and its shared memory
are sampled. Slopes are of the means of blocks of equal length after the first fifth, which is warm-up; their
standard error is that of the regression on those means. Writes build/benchmarks/soak.json.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil

from benchmarks.faults.judge import judge
from benchmarks.faults.ladder import CASCADE, NAMES
from benchmarks.faults.scene import SECOND_SEND, Load, Scene
from cascade_tools.cli.output import show_table
from cascade_tools.machine.facts import machine
from cascade_tools.serving.embedded import SHARED_MEMORY
from cascade_tools.serving.stubs import live_stubs

OUT = Path("build/benchmarks/soak.json")
FOLDER = Path("build/benchmarks/soak")
CLIENTS = 32
SHARE = 0.7
CAPACITY_S = 10.0
NO_CEILING_RPS = 1e9
SAMPLE_EVERY_S = 1.0
WARM_UP = 0.2
BLOCKS = 20
MIB = 2.0**20
STEADY = {"plain": 1.0}
WHAT = (CASCADE, *(f"{CASCADE}_{name}" for name in NAMES), "tritonserver", "shared memory")

Array = npt.NDArray[np.float64]


def sample_mib(server: int) -> dict[str, float]:
    """Resident memory by model (all its instances) and of the server, and its shared memory."""
    found = dict.fromkeys(WHAT, 0.0)
    found["tritonserver"] = psutil.Process(server).memory_info().rss / MIB
    for stub, model in live_stubs(server).items():
        found[model] += psutil.Process(stub).memory_info().rss / MIB
    regions = SHARED_MEMORY.glob(f"cascade_{os.getpid()}_*")
    found["shared memory"] = sum(region.stat().st_blocks * 512 for region in regions) / MIB
    return found


def slope(time_s: Array, mib: Array) -> tuple[float, float]:
    """MiB per hour and its standard error, over the means of blocks."""
    first = int(WARM_UP * len(mib))
    x, y = (
        np.array([block.mean() for block in np.array_split(values[first:], BLOCKS)])
        for values in (time_s, mib)
    )
    x = (x - x.mean()) / 3600.0
    rise = float((x @ y) / (x @ x))
    rest = y - y.mean() - rise * x
    return rise, float(np.sqrt((rest @ rest) / (len(x) - 2) / (x @ x)))


def capacity_rps(scene: Scene) -> float:
    """Requests per second in a closed loop without a ceiling."""
    with scene.load_of(
        requests=0, seconds=CAPACITY_S, mix=STEADY, clients=CLIENTS, rate_rps=NO_CEILING_RPS
    ) as load:
        records = load.results()
    return len(records["ended_s"]) / float(records["ended_s"].max() - records["begun_s"].min())


def watch(scene: Scene, load: Load) -> tuple[Array, dict[str, Array]]:
    """Samples until the load is over: seconds, and MiB by what."""
    times: list[float] = []
    samples: list[dict[str, float]] = []
    while load.is_running:
        times.append(time.monotonic())
        samples.append(sample_mib(scene.server.process.pid))
        time.sleep(SAMPLE_EVERY_S)
    return np.array(times) - times[0], {name: np.array([s[name] for s in samples]) for name in WHAT}


def run(seconds: float) -> dict[str, Any]:
    """The whole soak; everything that is written."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    with Scene(FOLDER) as scene:
        scene.wait_until_whole()
        capacity = capacity_rps(scene)
        rate_rps = SHARE * capacity
        with scene.load_of(
            requests=0, seconds=seconds, mix=STEADY, clients=CLIENTS, rate_rps=rate_rps, seed=1
        ) as load:
            times, memory = watch(scene, load)
            records = load.results()
        verdict = judge(scene.oracle, records, scene.plans_since(0.0), (), (), scene.logged(SECOND_SEND))
    latency_ms = 1000.0 * (records["ended_s"] - records["begun_s"])
    slopes = {name: slope(times, values) for name, values in memory.items()}
    return {
        "machine": machine(),
        "seconds": seconds,
        "capacity_rps": capacity,
        "rate_rps": rate_rps,
        "sent_rps": verdict.sent / float(records["ended_s"].max() - records["begun_s"].min()),
        "p50_ms": float(np.quantile(latency_ms, 0.5)),
        "p99_ms": float(np.quantile(latency_ms, 0.99)),
        "requests": {
            name: getattr(verdict, name)
            for name in ("sent", "answered", "wrong", "degraded", "refused", "lost", "answered_twice")
        },
        "memory": [
            {
                "what": name,
                "begin_mib": float(values[int(WARM_UP * len(values))]),
                "end_mib": float(values[-1]),
                "slope_mib_per_h": slopes[name][0],
                "standard_error_mib_per_h": slopes[name][1],
            }
            for name, values in memory.items()
        ],
    }


def main() -> int:
    """Run, print, write; 1 if a request was lost, wrong, refused or answered twice."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0, help="at least 60")
    options = parser.parse_args()
    if not options.seconds >= 60.0:
        parser.error("--seconds: at least 60, or there is nothing to draw a slope through")
    found = run(options.seconds)
    requests = found["requests"]
    show_table(
        f"{requests['sent']} requests in {found['seconds']:.0f} s at {found['sent_rps']:.0f}/s, "
        f"{SHARE:.0%} of {found['capacity_rps']:.0f}/s: {requests['lost']} lost, {requests['wrong']} wrong, "
        f"{requests['refused']} refused; p50 {found['p50_ms']:.1f} ms, p99 {found['p99_ms']:.1f} ms",
        ["memory", "MiB after warm-up", "MiB at the end", "MiB per hour", "standard error"],
        [
            [
                m["what"],
                f"{m['begin_mib']:.1f}",
                f"{m['end_mib']:.1f}",
                f"{m['slope_mib_per_h']:+.2f}",
                f"{m['standard_error_mib_per_h']:.2f}",
            ]
            for m in found["memory"]
        ],
    )
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(found, indent=1) + "\n")
    print(f"written: {OUT}")
    return int(any(requests[name] for name in ("lost", "wrong", "refused", "answered_twice")))


if __name__ == "__main__":
    raise SystemExit(main())
