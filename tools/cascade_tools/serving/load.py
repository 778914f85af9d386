"""Closed-loop load from a process of its own, so that its CPU time is apart from the server's.

Run as `python -m cascade_tools.serving.load JOB.json`; the job names an .npz of inputs and where the
results go. `run_load` and `compare_latency_ms` do both ends.
"""

from __future__ import annotations

import asyncio
import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tritonclient.grpc.aio as triton_grpc

from cascade_tools.errors import CascadeError
from cascade_tools.serving.awake import awake_cores
from cascade_tools.store import bytes_as_plain, load_npz

TIMEOUT_S = 600.0
REQUEST_TIMEOUT_S = 60.0
WARM_UP_REQUESTS = 32
TURN_ROWS = 50  # few enough that noise meets all models alike, enough that caches stay warm


@dataclass(frozen=True)
class Job:
    """What to send: one row per request, every row once to every model.

    A client takes `turn_rows` rows at a time and sends them to one model after the other.
    """

    url: str
    models: tuple[str, ...]
    clients: int
    turn_rows: int
    outputs: tuple[str, ...]
    datatypes: dict[str, str]
    inputs: str
    results: str


@dataclass(frozen=True)
class LoadResult:
    """What came back.

    Attributes:
        outputs: name -> [rows], or [rows, tokens], in the order of the rows sent.
        latency_ms: [rows].
        wall_s: from the first request to the last answer.
        client_cpu_s: CPU time of the sending process during that time.
    """

    outputs: dict[str, npt.NDArray[Any]]
    latency_ms: npt.NDArray[np.float64]
    wall_s: float
    client_cpu_s: float

    @property
    def throughput_rps(self) -> float:
        """Rows per second."""
        return len(self.latency_ms) / self.wall_s


def run_load(
    url: str,
    model: str,
    inputs: dict[str, npt.NDArray[Any]],
    datatypes: dict[str, str],
    clients: int,
    outputs: tuple[str, ...],
) -> LoadResult:
    """Send every row once from a process of its own and wait for the results.

    Raises:
        CascadeError: the server answered with an error or not at all.
    """
    found = _run(url, (model,), inputs, datatypes, clients, 1, outputs)
    return LoadResult(
        outputs={name: found[name] for name in outputs},
        latency_ms=found["latency_ms"][0],
        wall_s=float(found["wall_s"]),
        client_cpu_s=float(found["client_cpu_s"]),
    )


def compare_latency_ms(
    url: str,
    models: tuple[str, ...],
    inputs: dict[str, npt.NDArray[Any]],
    datatypes: dict[str, str],
) -> dict[str, npt.NDArray[np.float64]]:
    """Latency of every row at one client, per model: float64 [rows].

    The models take turns of 50 rows, so that whatever else the machine does meets them alike; the cores are
    kept awake (`awake`).

    Raises:
        CascadeError: the server answered with an error or not at all.
    """
    with awake_cores():
        found = _run(url, models, inputs, datatypes, 1, TURN_ROWS, ("LABEL",))
    return dict(zip(models, found["latency_ms"], strict=True))


def _run(
    url: str,
    models: tuple[str, ...],
    inputs: dict[str, npt.NDArray[Any]],
    datatypes: dict[str, str],
    clients: int,
    turn_rows: int,
    outputs: tuple[str, ...],
) -> dict[str, npt.NDArray[Any]]:
    with tempfile.TemporaryDirectory(prefix="cascade-load-") as folder:
        rows, results = Path(folder) / "rows.npz", Path(folder) / "results.npz"
        np.savez(rows, **{name: bytes_as_plain(values) for name, values in inputs.items()})
        job = Job(url, models, clients, turn_rows, outputs, datatypes, str(rows), str(results))
        description = Path(folder) / "job.json"
        description.write_text(json.dumps(asdict(job)))
        command = [sys.executable, "-m", "cascade_tools.serving.load", str(description)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise CascadeError(f"sending rows to {' and '.join(models)} failed: {last}")
        return load_npz(results)


async def _send_all(job: Job, rows: dict[str, npt.NDArray[Any]]) -> dict[str, Any]:
    count = len(next(iter(rows.values())))
    requests = [row_request(job.datatypes, rows, row) for row in range(count)]
    wanted = [triton_grpc.InferRequestedOutput(name) for name in job.outputs]
    latency_ms = np.zeros((len(job.models), count))
    answers: dict[str, list[Any]] = {name: [None] * count for name in job.outputs}
    async with triton_grpc.InferenceServerClient(job.url) as client:
        for row in range(min(WARM_UP_REQUESTS, count)):
            for model in job.models:
                await client.infer(model, requests[row], outputs=wanted)
        turns = iter(range(0, count, job.turn_rows))

        async def one_client() -> None:
            for first in turns:
                mine = range(first, min(first + job.turn_rows, count))
                for number, row in product(range(len(job.models)), mine):
                    start = time.perf_counter()
                    answer = await client.infer(
                        job.models[number], requests[row], outputs=wanted, client_timeout=REQUEST_TIMEOUT_S
                    )
                    latency_ms[number, row] = (time.perf_counter() - start) * 1000.0
                    for name in job.outputs:
                        values = answer.as_numpy(name)[0]
                        answers[name][row] = values if len(values) > 1 else values[0]

        cpu_before, start = cpu_s(), time.perf_counter()
        await asyncio.gather(*[one_client() for _ in range(job.clients)])
        wall_s, spent_s = time.perf_counter() - start, cpu_s() - cpu_before
    return {
        **{name: np.array(values) for name, values in answers.items()},
        "latency_ms": latency_ms,
        "wall_s": wall_s,
        "client_cpu_s": spent_s,
    }


def row_request(datatypes: dict[str, str], rows: dict[str, npt.NDArray[Any]], row: int) -> list[Any]:
    """The gRPC inputs of one row, as a batch of one."""
    tensors = []
    for name, values in rows.items():
        tensor = triton_grpc.InferInput(name, [1, *values.shape[1:]], datatypes[name])
        tensor.set_data_from_numpy(values[row : row + 1])
        tensors.append(tensor)
    return tensors


def cpu_s() -> float:
    """CPU time that this process has used so far."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """Entry point of the sending process."""
    job = Job(**json.loads(Path(sys.argv[1]).read_text()))
    results = asyncio.run(_send_all(job, load_npz(Path(job.inputs))))
    np.savez(job.results, **results)


if __name__ == "__main__":
    main()
