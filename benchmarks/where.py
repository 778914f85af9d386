"""Where the time of one request goes at 1 client, for a row that the first tier accepts.

Triton's statistics split what the server sees into queue, input, compute and output. Python and the tier are
timed here, in process, on such a row; what is left of the compute time is the way to the router's process
and back, and what is left of the client's is gRPC and Triton's front end. A BLS call is timed inside the
server by `serving/hop.py`: the router saves one for every tier that it runs itself. The cores are kept awake.
`make bench-where`; writes build/benchmarks/where.json.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as triton_grpc

from benchmarks.ladders import LADDERS, Ladder
from benchmarks.measuring import QUICK, Bench, served
from cascade_tools.backends.onnx_session import OnnxSession
from cascade_tools.machine.facts import machine
from cascade_tools.runtime.batch import Ticket
from cascade_tools.runtime.local import LocalTier
from cascade_tools.runtime.metrics import Family, Metrics
from cascade_tools.runtime.plan import PlanFile
from cascade_tools.runtime.router import Router
from cascade_tools.serving.awake import awake_cores
from cascade_tools.serving.hop import measure_hop
from cascade_tools.serving.perf_analyzer import find_perf_analyzer

OUT = Path("build/benchmarks/where.json")
CALLS = 2000
PARTS = ("queue", "compute_input", "compute_infer", "compute_output")


class _Nowhere:
    """A metric and its family that keep nothing; the real ones are written by another thread."""

    def Metric(self, labels: dict[str, str]) -> _Nowhere:
        return self

    def increment(self, value: float) -> None:
        """Nothing."""

    def set(self, value: float) -> None:
        """Nothing."""


def _median_us(call: Callable[[], object]) -> float:
    taken = []
    for _ in range(CALLS):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return 1e6 * statistics.median(taken)


def in_process_us(ladder: Ladder) -> tuple[float, float]:
    """Median time of the router's `execute` with its tier in it, and of the tier alone, for one easy row."""
    row = ladder.take(np.flatnonzero(ladder.easy)[:1])
    first = f"{ladder.models[0]}/1/model.onnx"
    with tempfile.TemporaryDirectory(prefix="cascade-where-") as folder:
        graph, plan = Path(folder) / "model.onnx", Path(folder) / "gear_plan.json"
        graph.write_bytes(ladder.files[first])
        plan.write_bytes(ladder.files[f"{ladder.cascade}/plan/gear_plan.json"])
        tier = LocalTier(OnnxSession(graph))

        def make_family(family: Family) -> _Nowhere:
            return _Nowhere()

        router = Router(
            PlanFile(plan),
            lambda info, inputs, probabilities: tier(inputs, probabilities),
            lambda batch, ticket: None,
            Metrics(make_family, {}),
            open_local=lambda plan: {ladder.models[0]: tier},
        )

        def one() -> None:
            router.admit(1)
            router.execute([Ticket(1, None, lambda: False, 0)], dict(row), 1)

        try:
            return _median_us(one), _median_us(lambda: tier(row, False))
        finally:
            router.close()


def server_us(bench: Bench, model: str) -> dict[str, float]:
    """Client's median and Triton's mean times of easy rows at one client."""
    rows = bench.ladder.take(bench.order[bench.ladder.easy[bench.order]])
    with triton_grpc.InferenceServerClient(bench.server.grpc_url) as client:

        def read() -> dict[str, tuple[int, int]]:
            found: Any = client.get_inference_statistics(model, as_json=True)
            stats = found["model_stats"][0]["inference_stats"]
            return {p: (int(stats[p].get("count", 0)), int(stats[p].get("ns", 0))) for p in PARTS}

        before = read()
        result = bench.perf(model, rows, 1, 1.0)
        after = read()
    found = {"client p50": 1000.0 * result.p50_ms}
    for part in PARTS:
        count = after[part][0] - before[part][0]
        found[part] = (after[part][1] - before[part][1]) / 1000.0 / max(1, count)
    return found


def main() -> None:
    """Measure, print, write."""
    ladder = LADDERS["wide"]()
    with awake_cores():
        whole_us, tier_us = in_process_us(ladder)
        hop = measure_hop()
        with served(ladder) as server:
            bench = Bench(ladder, server, find_perf_analyzer(), QUICK)
            router = server_us(bench, ladder.cascade)
            direct = server_us(bench, ladder.models[0])
    seen = sum(router[part] for part in PARTS)
    table = {
        "client, gRPC, Triton's front end": router["client p50"] - seen,
        "queue (Triton)": router["queue"],
        "input and output through shared memory": router["compute_input"] + router["compute_output"],
        "to the router's process and back (two wakes)": router["compute_infer"] - whole_us,
        "Python of the router": whole_us - tier_us,
        "the tier": tier_us,
        "all of it, at the client": router["client p50"],
        "the tier called directly, at the client": direct["client p50"],
        "one BLS call that the router does not make": 1000.0 * hop.latency_ms,
    }
    for name, value in table.items():
        print(f"  {name:48} {value:8.0f} us")
    content = {
        "machine": machine(),
        "date": time.strftime("%Y-%m-%d"),
        "microseconds": table,
        "router": router,
        "direct": direct,
    }
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(content, indent=1) + "\n")
    print(f"written: {OUT}")


if __name__ == "__main__":
    main()
