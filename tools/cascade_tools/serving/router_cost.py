"""What the server spends on a request beside the tiers: client, front end, router, late answers.

A cascade whose tiers do nothing (`router_files`) answers closed-loop clients for half a second each time:

                 1 client    8 clients
    sure row     A           B            answered by the first tier, in the router's process
    doubtful row C           D            handed to a thread, which calls the second and answers late

    batch, row   the router's `execute` by batch size in B (Triton's statistics), a line, scaled to meet A:
                 what the clients take from it is not its own. Routing through a tier is that tier's step
    front        latency of A less its `execute`; CPU time of a request of B less its part of `execute`
    hand-off     latency of C less that of A, less a hop
    late row     what a request of D takes of the CPU more than one of B, less its part of the hops and
                 hand-offs that it shares with others
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import tritonclient.grpc as triton_grpc

from cascade_tools.artifacts import Hop, RouterCost
from cascade_tools.serving.awake import awake_cores
from cascade_tools.serving.closed_loop import closed_loop
from cascade_tools.serving.embedded import Server
from cascade_tools.serving.router_files import FAR_MODEL, ROUTER, idle_rows

SECONDS = 0.5
CLIENTS = 8
PARTS = ("compute_input", "compute_infer", "compute_output")
NANOSECONDS = 1e6

Runs = dict[int, tuple[int, float]]  # by batch size: how often, and the ms of all of these


@dataclass(frozen=True)
class _Load:
    """One run.

    Attributes:
        latency_ms: median at the client.
        cpu_ms: of all processes of the server, per request.
        calls: of the second tier, per request.
        runs: of the router's `execute`.
    """

    latency_ms: float
    cpu_ms: float
    calls: float
    runs: Runs

    @property
    def mean_batch(self) -> float:
        """Rows of a batch of the router."""
        rows = sum(size * count for size, (count, _) in self.runs.items())
        return rows / max(1, sum(count for count, _ in self.runs.values()))


def measure_router(server: Server, hop: Hop) -> RouterCost:
    """Put load on a running server that has the files of `router_files`.

    Raises:
        CascadeError: a request failed.
    """
    with awake_cores(), triton_grpc.InferenceServerClient(server.grpc_url) as client:
        for sure in (True, False):
            _load(server, client, sure, CLIENTS)  # warm-up
        sure_1, sure_8 = (_load(server, client, True, clients) for clients in (1, CLIENTS))
        late_1, late_8 = (_load(server, client, False, clients) for clients in (1, CLIENTS))
    base_ms, row_ms = execute_line(sure_1.runs, sure_8.runs)
    late_ms = max(0.0, late_1.latency_ms - sure_1.latency_ms - hop.latency_ms)
    each_ms = late_row_ms(late_8.cpu_ms - sure_8.cpu_ms, late_8.calls, hop.cpu_ms, late_ms)
    return RouterCost(
        front_ms=max(0.0, sure_1.latency_ms - base_ms - row_ms),
        front_cpu_ms=max(0.0, sure_8.cpu_ms - base_ms / sure_8.mean_batch - row_ms),
        batch_ms=max(0.0, base_ms - hop.step_ms),
        row_ms=row_ms,
        hand_off_ms=late_ms - each_ms,
        late_row_ms=each_ms,
        origin="measured",
    )


def late_row_ms(more_ms: float, calls: float, hop_cpu_ms: float, alone_ms: float) -> float:
    """The row of more = calls x (hop + alone - row) + row; `alone_ms` is a hand-off with one row."""
    if calls >= 0.9:  # every row had a call of its own: what is a row's and what a call's cannot be told
        return 0.0
    row_ms = (more_ms - calls * (hop_cpu_ms + alone_ms)) / (1.0 - calls)
    return min(alone_ms, max(0.0, row_ms))


def execute_line(alone: Runs, together: Runs) -> tuple[float, float]:
    """What `execute` takes without a row, and for each; neither is negative.

    Args:
        alone: of one client, whose batches have one row.
        together: of several; least squares over its batches, scaled so that a batch of one takes as long as
            it does alone.
    """
    sizes = np.array(list(together), np.float64)
    counts = np.array([count for count, _ in together.values()], np.float64)
    means = np.array([total for _, total in together.values()]) / counts
    middle, level = np.average(sizes, weights=counts), np.average(means, weights=counts)
    spread = np.average((sizes - middle) ** 2, weights=counts)
    rise = np.average((sizes - middle) * means, weights=counts) / spread if spread > 0.0 else 0.0
    rise = min(max(0.0, float(rise)), float(level / middle))
    one = float(level - rise * (middle - 1.0))
    alone_ms = sum(total for _, total in alone.values()) / sum(count for count, _ in alone.values())
    return alone_ms * (one - rise) / one, alone_ms * rise / one


def _load(server: Server, client: Any, sure: bool, clients: int) -> _Load:
    before, spent_s = _counts(client), sum(server.cpu_seconds().values())
    with closed_loop(server.grpc_url, ROUTER, [idle_rows(sure)], clients) as loop:
        time.sleep(SECONDS)
    after, spent_s = _counts(client), sum(server.cpu_seconds().values()) - spent_s
    latency: npt.NDArray[np.float64] = np.asarray(loop.latencies_ms)
    runs = {
        size: (count - before[0].get(size, (0, 0.0))[0], total - before[0].get(size, (0, 0.0))[1])
        for size, (count, total) in after[0].items()
    }
    return _Load(
        latency_ms=float(np.median(latency)),
        cpu_ms=1000.0 * spent_s / len(latency),
        calls=(after[1] - before[1]) / len(latency),
        runs={size: run for size, run in runs.items() if run[0] > 0},
    )


def _counts(client: Any) -> tuple[Runs, int]:
    """The router's runs by batch size, and the calls of the second tier, since the server's start."""
    router = client.get_inference_statistics(ROUTER, as_json=True)["model_stats"][0]
    runs = {
        int(entry["batch_size"]): (
            int(entry["compute_infer"]["count"]),
            sum(int(entry[part].get("ns", 0)) for part in PARTS) / NANOSECONDS,
        )
        for entry in router.get("batch_stats", [])
    }
    far = client.get_inference_statistics(FAR_MODEL, as_json=True)["model_stats"][0]
    return runs, int(far["inference_stats"]["success"].get("count", 0))
