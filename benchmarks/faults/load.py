"""The clients, in a process of their own: gRPC on asyncio, a closed loop with a ceiling on the rate.

Run as `python -m benchmarks.faults.load JOB.json`. Prints the number of finished requests while it runs, and
writes one record per request. A request that has neither an answer nor an error after 10 s is given up.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.utils import InferenceServerException

from cascade_tools.store import load_npz

CLIENT_DEADLINE_S = 10.0
PAUSE_S = {"rows are in flight": 0.02, "UNAVAILABLE": 0.3, "NOT_FOUND": 0.3}  # before a client sends again
TOLD_EVERY_S = 0.05
CHANNELS = 4
SEVERAL_ROWS = 0.2  # share of the requests that hold 2 to 8 rows
# A server that was started again is to be found at once.
CHANNEL = [
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 200),
]
KINDS = ("plain", "odd", "cancelled", "hopeless", "malformed")
ANSWERED, ERROR, GIVEN_UP, CANCELLED = range(4)

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Job:
    """What to send.

    Attributes:
        rows: .npz with `rows`, the first `ordinary` of which are finite.
        requests: how many; or 0, and `seconds` for how long.
        rate_rps: requests per second at most.
        mix: kind of request -> share.
        max_batch: rows that the server takes at once.
    """

    url: str
    model: str
    input: str
    rows: str
    results: str
    ordinary: int
    clients: int
    requests: int
    seconds: float
    rate_rps: float
    mix: dict[str, float]
    max_batch: int
    seed: int


@dataclass
class Records:
    """One entry per request, and one per answered row in the order of the requests."""

    kind: array[int] = field(default_factory=lambda: array("b"))
    begun_s: array[float] = field(default_factory=lambda: array("d"))
    ended_s: array[float] = field(default_factory=lambda: array("d"))
    outcome: array[int] = field(default_factory=lambda: array("b"))
    text: array[int] = field(default_factory=lambda: array("i"))
    rows: array[int] = field(default_factory=lambda: array("i"))
    answers: array[int] = field(default_factory=lambda: array("i"))
    own_id: array[int] = field(default_factory=lambda: array("b"))
    row: array[int] = field(default_factory=lambda: array("i"))
    label: array[int] = field(default_factory=lambda: array("q"))
    confidence: array[float] = field(default_factory=lambda: array("f"))
    tier: array[int] = field(default_factory=lambda: array("i"))
    flags: array[int] = field(default_factory=lambda: array("i"))
    texts: dict[str, int] = field(default_factory=dict)

    def add(self, kind: int, begun_s: float, outcome: int, text: str, rows: Array, answer: Any) -> None:
        """Keep what became of one request; `answer` is (has its own id, outputs by name) or None."""
        self.kind.append(kind)
        self.begun_s.append(begun_s)
        self.ended_s.append(time.time())
        self.outcome.append(outcome)
        self.text.append(self.texts.setdefault(text, len(self.texts)))
        self.rows.append(len(rows))
        if answer is None:
            self.answers.append(0)
            self.own_id.append(1)
            return
        own_id, outputs = answer
        self.own_id.append(own_id)
        self.answers.append(len(outputs["LABEL"]))
        sent = rows.tolist() + [-1] * max(0, len(outputs["LABEL"]) - len(rows))
        self.row.extend(sent[: len(outputs["LABEL"])])
        for name, column in (
            ("LABEL", self.label),
            ("CONFIDENCE", self.confidence),
            ("TIER", self.tier),
            ("FLAGS", self.flags),
        ):
            column.extend(outputs[name].ravel().tolist())

    def save(self, path: Path) -> None:
        """Write everything as arrays."""
        columns = {name: np.array(value) for name, value in vars(self).items() if name != "texts"}
        np.savez(path, texts=np.array(list(self.texts), np.str_), **columns)


@dataclass
class Question:
    """One request as it is sent; `rows` says whose answers are right."""

    kind: int
    rows: Array
    inputs: list[Any]
    parameters: dict[str, Any] | None = None
    cancel_after_s: float | None = None


def tensor(name: str, values: Array, datatype: str = "FP32") -> Any:
    """One input."""
    made = triton.InferInput(name, list(values.shape), datatype)
    made.set_data_from_numpy(values)
    return made


class Questions:
    """Makes the requests of a job, the same ones for the same seed."""

    def __init__(self, job: Job, rows: Array) -> None:
        self._job = job
        self._rows = rows
        self._rng = np.random.default_rng(job.seed)
        self._names = list(job.mix)
        self._edges = np.cumsum([job.mix[name] for name in self._names])
        self._make: dict[str, Callable[[], Question]] = {
            "plain": self._plain,
            "odd": self._odd,
            "cancelled": self._cancelled,
            "hopeless": self._hopeless,
            "malformed": self._malformed,
        }
        self._faulty: Iterator[Callable[[], Question]] = iter(())

    def next(self) -> Question:
        """The next request."""
        place = int(np.searchsorted(self._edges, self._rng.random() * self._edges[-1], side="right"))
        return self._make[self._names[min(place, len(self._names) - 1)]]()

    def _ask(self, kind: str, rows: Array, **more: Any) -> Question:
        inputs = [tensor(self._job.input, self._rows[rows])]
        return Question(KINDS.index(kind), rows, inputs, **more)

    def _size(self) -> int:
        return int(self._rng.integers(2, 9)) if self._rng.random() < SEVERAL_ROWS else 1

    def _some(self, count: int) -> Array:
        return self._rng.integers(0, self._job.ordinary, count)

    def _plain(self) -> Question:
        return self._ask("plain", self._some(self._size()))

    def _odd(self) -> Question:
        """Odd rows, alone or among ordinary ones."""
        rows = self._some(self._size())
        rows[self._rng.integers(0, len(rows))] = self._rng.integers(self._job.ordinary, len(self._rows))
        return self._ask("odd", rows)

    def _cancelled(self) -> Question:
        after_s = float(self._rng.uniform(0.0, 0.01))
        return self._ask("cancelled", self._some(self._size()), cancel_after_s=after_s)

    def _hopeless(self) -> Question:
        choices = ({"deadline_ms": 0}, {"deadline_ms": 1}, {"deadline_ms": -5}, {"deadline_unix_ms": 1})
        chosen = choices[int(self._rng.integers(0, len(choices)))]
        return self._ask("hopeless", self._some(self._size()), parameters=dict(chosen))

    def _malformed(self) -> Question:
        """Requests that must be refused, one kind after the other."""
        made = next(self._faulty, None)
        if made is None:
            self._faulty = iter(self._all_malformed())
            made = next(self._faulty)
        return made()

    def _all_malformed(self) -> list[Callable[[], Question]]:
        name, wide = self._job.input, self._rows.shape[1]
        kind, nothing = KINDS.index("malformed"), np.zeros(0, np.int64)

        def of(inputs: list[Any], parameters: dict[str, Any] | None = None) -> Callable[[], Question]:
            return lambda: Question(kind, nothing, inputs, parameters)

        one = self._rows[:1]
        return [
            of([tensor(name, np.zeros((1, wide - 1), np.float32))]),
            of([tensor(name, np.zeros((2, wide + 1), np.float32))]),
            of([tensor(name, np.zeros((1, wide, 1), np.float32))]),
            of([tensor(name, one[0])]),
            of([tensor(name, one.astype(np.int64), "INT64")]),
            of([tensor(name, one.astype(np.float64), "FP64")]),
            of([tensor(name, np.zeros((0, wide), np.float32))]),
            of([tensor(name, np.zeros((self._job.max_batch + 1, wide), np.float32))]),
            of([tensor("OTHER", one)]),
            of([]),
            of([tensor(name, one), tensor("OTHER", one)]),
            of([tensor(name, one)], {"deadline_ms": "soon"}),
            of([tensor(name, one)], {"deadline_unix_ms": "never"}),
        ]


class Clients:
    """All clients of one job."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._questions = Questions(job, load_npz(Path(job.rows))["rows"])
        self._records = Records()
        self._begun = 0
        self._finished = 0
        self._slot_s = 0.0
        self._until_s = 0.0

    async def run(self) -> Records:
        """Send everything and wait for the last outcome."""
        self._slot_s = time.monotonic()
        self._until_s = self._slot_s + self._job.seconds
        channels = [
            triton_aio.InferenceServerClient(self._job.url, channel_args=CHANNEL) for _ in range(CHANNELS)
        ]
        telling = asyncio.create_task(self._tell())
        try:
            await asyncio.gather(*[self._one(channels[i % CHANNELS]) for i in range(self._job.clients)])
        finally:
            telling.cancel()
            for channel in channels:
                await channel.close()
        return self._records

    async def _tell(self) -> None:
        while True:
            print(self._finished, flush=True)
            await asyncio.sleep(TOLD_EVERY_S)

    def _is_over(self) -> bool:
        if self._job.requests:
            return self._begun >= self._job.requests
        return time.monotonic() >= self._until_s

    async def _one(self, channel: Any) -> None:
        while not self._is_over():
            number = self._begun
            self._begun += 1
            now = time.monotonic()
            self._slot_s = max(now, self._slot_s + 1.0 / self._job.rate_rps)
            if self._slot_s > now:
                await asyncio.sleep(self._slot_s - now)
            text = await self._send(channel, self._questions.next(), f"{self._job.seed}-{number}")
            self._finished += 1
            await asyncio.sleep(next((pause_s for part, pause_s in PAUSE_S.items() if part in text), 0.0))

    async def _send(self, channel: Any, question: Question, identity: str) -> str:
        """One request; keep what becomes of it; return its error, if it is one."""
        begun_s = time.time()

        def keep(outcome: int, text: str = "", answer: Any = None) -> str:
            self._records.add(question.kind, begun_s, outcome, text, question.rows, answer)
            return text

        call = asyncio.ensure_future(
            channel.infer(
                self._job.model,
                question.inputs,
                request_id=identity,
                parameters=question.parameters,
                client_timeout=CLIENT_DEADLINE_S,
            )
        )
        try:
            if question.cancel_after_s is not None:
                await asyncio.wait([call], timeout=question.cancel_after_s)
                if not call.done():
                    call.cancel()
            found = await call
        except asyncio.CancelledError:
            return keep(CANCELLED, "CANCELLED: by the client")
        except InferenceServerException as error:
            status = str(error.status() or "").removeprefix("StatusCode.")
            given_up = status == "DEADLINE_EXCEEDED"
            return keep(GIVEN_UP if given_up else ERROR, f"{status}: {error.message()}")
        response = found.get_response()
        outputs = {output.name: found.as_numpy(output.name) for output in response.outputs}
        return keep(ANSWERED, answer=(response.id == identity, outputs))


def main() -> None:
    """Entry point of the sending process."""
    job = Job(**json.loads(Path(sys.argv[1]).read_text()))
    asyncio.run(Clients(job).run()).save(Path(job.results))


if __name__ == "__main__":
    main()
