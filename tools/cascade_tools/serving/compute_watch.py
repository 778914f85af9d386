"""What a model's server counts while a load runs, read many times a second.

    requests   ..|...|....|..|...        of one model, under load
    readings   ^ ^   ^    ^  ^           statistics API: requests so far, ns in the queue, ns computed
    windows     ===   ====               between two readings: the mean of the requests that ended there

Triton gives sums, no distribution. A window holds one request where the model is slow, and is then exact;
of a fast model it holds some dozens and is their mean. The median over the windows stands for the median
batch: the few windows in which the machine did something else do not move it, but it says nothing of single
requests.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import tritonclient.grpc as triton_grpc
from tritonclient.utils import InferenceServerException

from cascade_tools.errors import CascadeError
from cascade_tools.serving.watch import ModelCounts

EVERY_S = 0.02
TIMEOUT_S = 10.0
NANOSECONDS = 1e6


@dataclass(frozen=True)
class Window:
    """Requests that ended between two readings, and their means; `end_s` is of `time.perf_counter`."""

    end_s: float
    requests: int
    queue_ms: float
    compute_ms: float


class ComputeWatch:
    """Reads a model's counts until the block ends; the windows grow meanwhile."""

    def __init__(self, url: str, model: str) -> None:
        self._url = url
        self._model = model
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read_on, daemon=True)
        self._error: CascadeError | None = None
        self.windows: list[Window] = []

    def __enter__(self) -> Self:
        self._client = triton_grpc.InferenceServerClient(self._url)
        self._last = self._read()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        if kind is None and self._error is None:
            self._take(self._read())
        self._client.close()
        if kind is None and self._error is not None:
            raise self._error

    def _read_on(self) -> None:
        try:
            while not self._stop.wait(EVERY_S):
                self._take(self._read())
        except CascadeError as error:
            self._error = error

    def _take(self, now: ModelCounts) -> None:
        means = now.since(self._last)
        if means is not None:
            count = now.requests - self._last.requests
            self.windows.append(Window(time.perf_counter(), count, *means))
            self._last = now

    def _read(self) -> ModelCounts:
        try:
            found = self._client.get_inference_statistics(self._model, client_timeout=TIMEOUT_S).model_stats
        except InferenceServerException as error:
            raise CascadeError(f"model {self._model}: no statistics: {error.message()}") from None
        stats = [entry.inference_stats for entry in found]
        computed = sum(s.compute_input.ns + s.compute_infer.ns + s.compute_output.ns for s in stats)
        return ModelCounts(
            requests=sum(s.success.count for s in stats),
            queue_ms=sum(s.queue.ns for s in stats) / NANOSECONDS,
            compute_ms=computed / NANOSECONDS,
        )
