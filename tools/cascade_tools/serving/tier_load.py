"""Load on one loaded tier: batches of one size from as many clients as it has instances.

    batch   |- warm-up -|- how often? -|= every batch once =|= every batch `repeat` times =|
    load                               |= repetition 1 =|= repetition 2 =| ... |= repetition n =|
    client                             |<- each sends a batch as soon as its last is answered ->|
    server                             ^  ^  ^  ^  ^  ^   statistics, read 50 times a second

One client per instance: no batch waits for another, and every instance has one to work on. By the built-in
client, repetitions end when the medians of the last three lie within 5 %, or after `MOST_REPETITIONS`.
perf_analyzer measures three windows each time that it is started; it is started again, once at most, if those
disagree.

What the server counts for a small model is mostly the way to the model's process and back. So every batch is
also run `repeat` times within one request (`backends.repeated_tier`), so often that it takes `LONG_S`; of the
two medians

    model_ms     (many - once) / (repeat - 1)
    overhead_ms  once - model_ms: the server, its backend, and what it costs to be woken for one batch

A batch that takes `LONG_S` by itself is not repeated; nothing is taken off its time.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cascade_tools.artifacts import TimedBy
from cascade_tools.errors import CascadeError
from cascade_tools.planning.repetitions import COMPARED, spread, stable
from cascade_tools.serving.closed_loop import Batch, closed_loop
from cascade_tools.serving.compute_watch import ComputeWatch, Window
from cascade_tools.serving.perf_analyzer import run_perf_analyzer

REPETITION_S = 0.15
REPETITION_BATCHES = 3
MOST_REPETITIONS = 6
MOST_STARTS = 2
WARM_UP_BATCHES = 3
LONG_S = 0.06  # the error of what is taken off for the server is this much smaller
GROWTH, MOST_REPEATS = 2, 4096
SHORTEST_WINDOW_S = 0.3
SHORTEST_MS = 1e-3
TICK_S = 0.002
LARGEST_INPUT_BYTES = 32 * 2**20  # of the rows that perf_analyzer reads, before base64


@dataclass(frozen=True)
class Load:
    """What server and clients saw of one load; ms of one request.

    Attributes:
        compute_ms: median over the windows of the last repetitions; see `compute_watch`.
        spread: of the medians of the last repetitions.
        queue_ms: mean wait before a request began.
        client_p50_ms: and `client_p99_ms`, of single requests.
        rate: requests per second that the clients got of all instances.
    """

    compute_ms: float
    spread: float
    queue_ms: float
    client_p50_ms: float
    client_p99_ms: float
    rate: float
    timed_by: TimedBy


@dataclass(frozen=True)
class TierLoad:
    """One batch size.

    Attributes:
        once: every batch run once, as it is served.
        model_ms: of one batch.
        overhead_ms: of one batch; 0 where batches are so long that they were not repeated.
        spread: of the repetitions that `model_ms` is from.
        repeat: how often batches were run in one request for it.
    """

    once: Load
    model_ms: float
    overhead_ms: float
    spread: float
    repeat: int


@dataclass(frozen=True)
class Target:
    """The one tier that is loaded, and what sends the batches.

    Attributes:
        url: gRPC address of the server.
        program: perf_analyzer; None for the built-in client.
    """

    url: str
    model: str
    instances: int
    program: Path | None


def load_tier(target: Target, batches: Sequence[Batch]) -> TierLoad:
    """Warm a tier up and measure it with batches of one size, sent in turns.

    Raises:
        CascadeError: a batch failed, or nothing was answered.
    """
    request_s = _warm_up(target, batches, 1)
    # Grown, not computed from the first request: that is mostly what the server adds.
    repeat, long_s = 1, request_s
    while long_s < LONG_S and repeat < MOST_REPEATS:
        repeat *= GROWTH
        long_s = _warm_up(target, batches, repeat)
    once = _load(target, batches, 1, request_s)
    if repeat == 1:
        return TierLoad(once, once.compute_ms, 0.0, once.spread, 1)
    many = _load(target, batches, repeat, long_s)
    model_ms = max(SHORTEST_MS, (many.compute_ms - once.compute_ms) / (repeat - 1))
    return TierLoad(once, model_ms, max(0.0, once.compute_ms - model_ms), many.spread, repeat)


def _warm_up(target: Target, batches: Sequence[Batch], repeat: int) -> float:
    """Seconds of the quickest request as a client sees it; every instance has had some by then."""
    with closed_loop(target.url, target.model, batches, target.instances, repeat) as loop:
        while len(loop.latencies_ms) < WARM_UP_BATCHES * target.instances:
            loop.check()
            time.sleep(TICK_S)
    return min(loop.latencies_ms) / 1000.0


def _load(target: Target, batches: Sequence[Batch], repeat: int, request_s: float) -> Load:
    repetition_s = max(REPETITION_S, REPETITION_BATCHES * request_s)
    if target.program is None:
        return _by_client(target, batches, repeat, repetition_s)
    return _by_perf_analyzer(target, target.program, batches, repeat, repetition_s)


def _by_client(target: Target, batches: Sequence[Batch], repeat: int, repetition_s: float) -> Load:
    with (
        ComputeWatch(target.url, target.model) as watch,
        closed_loop(target.url, target.model, batches, target.instances, repeat) as loop,
    ):
        edges_s, answered = [time.perf_counter()], [0]
        while len(edges_s) <= MOST_REPETITIONS and not (
            answered[-1] and stable(_medians(_between(watch.windows, edges_s)))
        ):
            time.sleep(repetition_s)
            loop.check()
            edges_s.append(time.perf_counter())
            answered.append(len(loop.latencies_ms))
    if not answered[-1]:
        raise CascadeError(f"{target.model}: no batch was answered in {edges_s[-1] - edges_s[0]:.0f} s")
    first = max(0, len(edges_s) - 1 - COMPARED)
    if answered[first] == answered[-1]:  # a machine that stood still
        first = 0
    latencies_ms = loop.latencies_ms[answered[first] : answered[-1]]
    p50, p99 = np.percentile(latencies_ms, (50, 99)).tolist()
    rate = len(latencies_ms) / (edges_s[-1] - edges_s[first])
    return _result(_between(watch.windows, edges_s), p50, p99, rate, "client")


def _by_perf_analyzer(
    target: Target, program: Path, batches: Sequence[Batch], repeat: int, repetition_s: float
) -> Load:
    rows = _joined(batches)
    size = len(next(iter(batches[0].values())))
    window_s = max(SHORTEST_WINDOW_S, repetition_s)
    repetitions: list[list[Window]] = []
    for _ in range(MOST_STARTS):
        with ComputeWatch(target.url, target.model) as watch:
            seen = run_perf_analyzer(
                program,
                target.url,
                target.model,
                rows,
                target.instances,
                window_s,
                batch=size,
                repeat=repeat,
            )
        edges_s = np.linspace(watch.windows[0].end_s, watch.windows[-1].end_s, COMPARED + 1).tolist()
        repetitions += _between(watch.windows, edges_s)
        if stable(_medians(repetitions)):
            break
    return _result(repetitions, seen.p50_ms, seen.p99_ms, seen.throughput_rps / size, "perf_analyzer")


def _joined(batches: Sequence[Batch]) -> dict[str, npt.NDArray[Any]]:
    """The rows of as many whole batches as perf_analyzer should read; at least of one."""
    size = sum(values.nbytes for values in batches[0].values())
    some = batches[: max(1, LARGEST_INPUT_BYTES // max(1, size))]
    return {name: np.concatenate([batch[name] for batch in some]) for name in some[0]}


def _between(windows: Sequence[Window], edges_s: Sequence[float]) -> list[list[Window]]:
    """The windows that ended between one edge and the next; a repetition without any is left out."""
    found = [
        [window for window in windows if start < window.end_s <= end]
        for start, end in itertools.pairwise(edges_s)
    ]
    return [repetition for repetition in found if repetition]


def _medians(repetitions: Sequence[Sequence[Window]]) -> list[float]:
    return [float(np.median([window.compute_ms for window in repetition])) for repetition in repetitions]


def _result(
    repetitions: Sequence[Sequence[Window]],
    client_p50_ms: float,
    client_p99_ms: float,
    rate: float,
    timed_by: TimedBy,
) -> Load:
    last = [window for repetition in repetitions[-COMPARED:] for window in repetition]
    return Load(
        compute_ms=float(np.median([window.compute_ms for window in last])),
        spread=spread(_medians(repetitions)),
        queue_ms=sum(window.queue_ms * window.requests for window in last) / sum(w.requests for w in last),
        client_p50_ms=client_p50_ms,
        client_p99_ms=client_p99_ms,
        rate=rate,
        timed_by=timed_by,
    )
