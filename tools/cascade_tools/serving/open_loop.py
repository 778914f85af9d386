"""Requests at given times, whatever became of the ones before: the sending process of `replay`.

Run as `python -m cascade_tools.serving.open_loop JOB.json`. It goes through tritonclient's own connection
with messages that are built beforehand, so that sending costs as little as gRPC allows: the generator often
shares its cores with the server.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tritonclient.grpc.aio as triton_grpc
from tritonclient.grpc import service_pb2
from tritonclient.utils import serialize_byte_tensor

from cascade_tools.serving.alarm import Alarm
from cascade_tools.serving.load import cpu_s
from cascade_tools.store import load_npz

METHOD = "/inference.GRPCInferenceService/ModelInfer"
REQUEST_TIMEOUT_S = 60.0
WARM_UP_REQUESTS = 32
LEAD_S = 0.1  # from the end of the warm-up to second 0 of the trace
LABEL, TIER = "LABEL", "TIER"
ANSWERED, REFUSED, FAILED = 0, 1, 2
# UNAVAILABLE may be a lost connection or a broken tier, too; these are the router's words, and Triton's.
REFUSALS = ("rows are in flight", "maximum queue size")
KEPT_ERRORS = 5


@dataclass(frozen=True)
class Job:
    """What to send; the .npz `inputs` holds the rows under `input:NAME`, `rows` and `arrival_s`.

    `outputs` are those that are asked for: LABEL, and of a cascade TIER.
    """

    url: str
    model: str
    datatypes: dict[str, str]
    inputs: str
    results: str
    outputs: tuple[str, ...]


class Connection(triton_grpc.InferenceServerClient):  # type: ignore[misc]
    """tritonclient's connection, for messages that are bytes already."""

    def ask(self) -> Any:
        """A callable: serialized request -> call, which gives the serialized response."""
        return self._channel.unary_unary(METHOD)


def serialized(
    model: str,
    datatypes: dict[str, str],
    rows: dict[str, npt.NDArray[Any]],
    row: int,
    outputs: Sequence[str],
) -> bytes:
    """The request of one row, as a batch of one."""
    request = service_pb2.ModelInferRequest(model_name=model)
    for name, values in rows.items():
        one = np.ascontiguousarray(values[row : row + 1])
        request.inputs.add(name=name, datatype=datatypes[name], shape=one.shape)
        content = serialize_byte_tensor(one).item() if datatypes[name] == "BYTES" else one.tobytes()
        request.raw_input_contents.append(content)
    for name in outputs:
        request.outputs.add(name=name)
    content_of_all: bytes = request.SerializeToString()
    return content_of_all


class OpenLoop:
    """One run over one connection.

    Args:
        ask: of a `Connection`.
        requests: serialized, by row.
        rows: row of each request of the trace.
        arrival_s: when each is sent, ascending.
    """

    def __init__(self, ask: Any, requests: list[bytes], rows: list[int], arrival_s: list[float]) -> None:
        self._ask = ask
        self._requests = requests
        self._rows = rows
        self._arrival_s = arrival_s
        count = len(rows)
        self.sent_s = np.zeros(count)
        self.done_s = np.zeros(count)
        self.status = np.full(count, FAILED, np.int8)
        self.label: list[bytes] = [b""] * count
        self.tier = np.full(count, -1, np.int64)
        self.errors: dict[str, None] = {}
        self.begin_s = 0.0
        self._next = 0
        self._open: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Send everything, each at its time, and wait for the last answer."""
        loop = asyncio.get_running_loop()
        self._all_sent = loop.create_future()
        self._alarm = Alarm(loop, self._send_due)
        try:
            self.begin_s = time.perf_counter() + LEAD_S
            self._alarm.set(self.begin_s + self._arrival_s[0])
            await self._all_sent
            while self._open:
                await asyncio.wait(self._open)
        finally:
            self._alarm.close()

    def _send_due(self) -> None:
        try:
            while self._next < len(self._rows):
                due_s = self.begin_s + self._arrival_s[self._next]
                if due_s > time.perf_counter():
                    self._alarm.set(due_s)
                    return
                task = asyncio.create_task(self._one(self._next))
                self._open.add(task)
                task.add_done_callback(self._open.discard)
                self._next += 1
        except Exception as error:
            self._all_sent.set_exception(error)
        else:
            self._all_sent.set_result(None)

    async def _one(self, number: int) -> None:
        self.sent_s[number] = time.perf_counter()
        try:
            response = await self._ask(self._requests[self._rows[number]], timeout=REQUEST_TIMEOUT_S)
        except Exception as error:
            self.done_s[number] = time.perf_counter()
            self._note(number, error)
            return
        self.done_s[number] = time.perf_counter()
        self.label[number], tier = read_answer(response)
        if tier:
            self.tier[number] = int.from_bytes(tier, "little", signed=True)
        self.status[number] = ANSWERED

    def _note(self, number: int, error: Any) -> None:
        """Keep apart what the server's admission refuses and everything else that gRPC raises."""
        code = error.code().name if hasattr(error, "code") else type(error).__name__
        text = str(error.details() if hasattr(error, "details") else error)
        if code == "UNAVAILABLE" and any(words in text for words in REFUSALS):
            self.status[number] = REFUSED
        elif len(self.errors) < KEPT_ERRORS:
            self.errors[f"{code}: {text}"] = None


def read_answer(response: bytes) -> tuple[bytes, bytes]:
    """Raw contents of LABEL and TIER; nothing of TIER where it was not asked for."""
    message = service_pb2.ModelInferResponse.FromString(response)
    raw = message.raw_output_contents
    if len(raw) == 1:
        return raw[0], b""
    first, second = (0, 1) if message.outputs[0].name == LABEL else (1, 0)
    return raw[first], raw[second]


def go_first() -> None:
    """Run before all other work, where the user may, as if the generator had a machine of its own.

    It needs a fraction of a millisecond per request; Linux leaves 5 % of the time to others in any case.
    """
    with suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))


async def _main(job: Job) -> None:
    arrays = load_npz(Path(job.inputs))
    inputs = {name.removeprefix("input:"): v for name, v in arrays.items() if name.startswith("input:")}
    count = len(next(iter(inputs.values())))
    requests = [serialized(job.model, job.datatypes, inputs, row, job.outputs) for row in range(count)]
    async with Connection(job.url) as connection:
        ask = connection.ask()
        for number in range(WARM_UP_REQUESTS):
            await ask(requests[number % count], timeout=REQUEST_TIMEOUT_S)
        loop = OpenLoop(ask, requests, arrays["rows"].tolist(), arrays["arrival_s"].tolist())
        gc.collect()
        gc.freeze()
        gc.disable()  # a pause of the collector would be lateness
        before_s = cpu_s()
        await loop.run()
        spent_s = cpu_s() - before_s
    label = np.frombuffer(b"".join(loop.label), np.int64)
    np.savez(
        job.results,
        begin_s=loop.begin_s,
        sent_s=loop.sent_s,
        done_s=loop.done_s,
        status=loop.status,
        label=label,
        tier=loop.tier,
        errors=np.array(list(loop.errors), np.str_),
        client_cpu_s=spent_s,
    )


if __name__ == "__main__":
    go_first()  # before gRPC starts threads, which inherit it
    asyncio.run(_main(Job(**json.loads(Path(sys.argv[1]).read_text()))))
