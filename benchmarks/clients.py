"""The loads that perf_analyzer cannot send, from a process of their own (`python -m benchmarks.clients JOB`).

cascade_in_client   a closed loop of clients that hold the policy themselves and ask tier after tier
open_loop           requests at fixed times, whether or not the ones before are answered
"""

from __future__ import annotations

import asyncio
import gc
import json
import subprocess
import sys
import tempfile
import time
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tritonclient.grpc.aio as triton_grpc

from cascade_tools.errors import CascadeError
from cascade_tools.serving.load import row_request
from cascade_tools.store import load_npz

ANSWER = -1
REQUEST_TIMEOUT_S = 60.0
PROCESS_TIMEOUT_S = 300.0
WARM_UP_S = 0.5


@dataclass(frozen=True)
class Step:
    """One model to ask, and where its confidence sends a row."""

    model: str
    cuts: tuple[float, ...]
    to: tuple[int, ...]


@dataclass(frozen=True)
class _Job:
    url: str
    steps: list[dict[str, Any]]
    datatypes: dict[str, str]
    clients: int
    seconds: float
    at_s: list[float]  # an open loop: when each row is sent; empty for a closed loop
    inputs: str
    results: str
    first: tuple[int, ...] = ()  # the step that each row begins with; empty for the first step


@dataclass(frozen=True)
class ClosedLoop:
    """What a closed loop gave: rows per second, and latency per request in the order of their ends."""

    throughput_rps: float
    latency_ms: npt.NDArray[np.float64]


def cascade_in_client(
    url: str,
    steps: list[Step],
    inputs: dict[str, npt.NDArray[Any]],
    datatypes: dict[str, str],
    clients: int,
    seconds: float,
) -> ClosedLoop:
    """Clients that do the cascade themselves, over gRPC."""
    found = _run(_Job(url, [asdict(step) for step in steps], datatypes, clients, seconds, [], "", ""), inputs)
    return ClosedLoop(float(found["throughput_rps"]), found["latency_ms"])


def open_loop(
    url: str,
    models: Sequence[str],
    asked: npt.NDArray[np.int64],
    inputs: dict[str, npt.NDArray[Any]],
    datatypes: dict[str, str],
    at_s: list[float],
) -> npt.NDArray[np.float64]:
    """Send row i to `models[asked[i]]` at second `at_s[i]`.

    Returns:
        Latency in ms, which counts from then, sent late or not.
    """
    steps = [asdict(Step(model, (), (ANSWER,))) for model in models]
    job = _Job(url, steps, datatypes, 0, 0.0, at_s, "", "", tuple(asked.tolist()))
    latency: npt.NDArray[np.float64] = _run(job, inputs)["latency_ms"]
    return latency


def _run(job: _Job, inputs: dict[str, npt.NDArray[Any]]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="cascade-clients-") as folder:
        rows, results = Path(folder) / "rows.npz", Path(folder) / "results.npz"
        np.savez(rows, **inputs)
        file = Path(folder) / "job.json"
        file.write_text(json.dumps(asdict(job) | {"inputs": str(rows), "results": str(results)}))
        command = [sys.executable, "-m", "benchmarks.clients", str(file)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PROCESS_TIMEOUT_S)
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise CascadeError(f"sending rows to {job.steps[0]['model']} failed: {last}")
        return load_npz(results)


class _Sender:
    """Sends single rows through the steps."""

    def __init__(self, job: _Job, rows: dict[str, npt.NDArray[Any]], client: Any) -> None:
        self.count = len(next(iter(rows.values())))
        self._client = client
        self._steps = [Step(s["model"], tuple(s["cuts"]), tuple(s["to"])) for s in job.steps]
        self._requests = [row_request(job.datatypes, rows, row) for row in range(self.count)]
        self._first = job.first or (0,) * self.count
        self._wanted = [triton_grpc.InferRequestedOutput(name) for name in ("LABEL", "CONFIDENCE")]

    async def ask(self, row: int) -> None:
        """One row to its answer."""
        level = self._first[row]
        while level != ANSWER:
            step = self._steps[level]
            answer = await self._client.infer(
                step.model, self._requests[row], outputs=self._wanted, client_timeout=REQUEST_TIMEOUT_S
            )
            level = step.to[bisect_right(step.cuts, answer.as_numpy("CONFIDENCE")[0, 0])]


async def _closed(job: _Job, sender: _Sender) -> dict[str, Any]:
    begin = time.perf_counter() + WARM_UP_S
    end = begin + job.seconds
    latency_ms: list[float] = []

    async def one_client(first: int) -> None:
        row = first
        while (start := time.perf_counter()) < end:
            await sender.ask(row % sender.count)
            stop = time.perf_counter()
            if begin <= stop <= end:
                latency_ms.append(1000.0 * (stop - start))
            row += job.clients

    await asyncio.gather(*[one_client(number) for number in range(job.clients)])
    return {"latency_ms": np.array(latency_ms), "throughput_rps": len(latency_ms) / job.seconds}


async def _open(job: _Job, sender: _Sender) -> dict[str, Any]:
    latency_ms = np.zeros(len(job.at_s))
    for row in range(min(32, sender.count)):
        await sender.ask(row)
    begin = time.perf_counter()

    async def one(row: int, due: float) -> None:
        await sender.ask(row)
        latency_ms[row] = 1000.0 * (time.perf_counter() - due)

    tasks = []
    for row, at_s in enumerate(job.at_s):
        due = begin + at_s
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        tasks.append(asyncio.create_task(one(row, due)))
    await asyncio.gather(*tasks)
    return {"latency_ms": latency_ms}


async def _main(job: _Job) -> None:
    async with triton_grpc.InferenceServerClient(job.url) as client:
        sender = _Sender(job, load_npz(Path(job.inputs)), client)
        gc.freeze()
        results = await (_open(job, sender) if job.at_s else _closed(job, sender))
    np.savez(job.results, **results)


if __name__ == "__main__":
    asyncio.run(_main(_Job(**json.loads(Path(sys.argv[1]).read_text()))))
