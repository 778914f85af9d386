"""Clients that send batch after batch, each as soon as the one before is answered."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy.typing as npt
import tritonclient.grpc as triton_grpc
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from cascade_tools.errors import CascadeError

REQUEST_TIMEOUT_S = 120.0

Batch = Mapping[str, npt.NDArray[Any]]


class ClosedLoop:
    """What the clients have seen so far; `latencies_ms` grows while they run, in the order of the answers."""

    def __init__(self, url: str, model: str, batches: Sequence[Batch], repeat: int) -> None:
        self._url = url
        self._model = model
        self._parameters = {"repeat": repeat} if repeat > 1 else None
        self._requests = [_tensors(batch) for batch in batches]
        self._stop = threading.Event()
        self.latencies_ms: list[float] = []
        self.error: CascadeError | None = None

    def stop(self) -> None:
        """No further batch is sent."""
        self._stop.set()

    def run(self, first: int) -> None:
        """One client, which begins with another batch than the others, until `stop`."""
        number = first
        with triton_grpc.InferenceServerClient(self._url) as client:
            while not self._stop.is_set():
                start = time.perf_counter()
                try:
                    client.infer(
                        self._model,
                        self._requests[number % len(self._requests)],
                        parameters=self._parameters,
                        client_timeout=REQUEST_TIMEOUT_S,
                    )
                except InferenceServerException as error:
                    self.error = CascadeError(f"model {self._model}: {error.message()}")
                    return
                self.latencies_ms.append(1000.0 * (time.perf_counter() - start))
                number += 1

    def check(self) -> None:
        """See that no request has failed.

        Raises:
            CascadeError: the first that did.
        """
        if self.error is not None:
            raise self.error


@contextmanager
def closed_loop(
    url: str, model: str, batches: Sequence[Batch], clients: int, repeat: int = 1
) -> Iterator[ClosedLoop]:
    """Send batches in turns from so many clients until the block ends.

    Args:
        url: gRPC address of the server.
        model: its name.
        batches: by the model's input names.
        clients: each has one request under way.
        repeat: parameter of every request, for models that know it; 1 for none.

    Raises:
        CascadeError: a request failed.
    """
    loop = ClosedLoop(url, model, batches, repeat)
    threads = [threading.Thread(target=loop.run, args=(number,), daemon=True) for number in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield loop
    finally:
        loop.stop()
        for thread in threads:
            thread.join()
    loop.check()


def _tensors(batch: Batch) -> list[Any]:
    tensors = []
    for name, values in batch.items():
        tensor = triton_grpc.InferInput(name, list(values.shape), np_to_triton_dtype(values.dtype))
        tensor.set_data_from_numpy(values)
        tensors.append(tensor)
    return tensors
