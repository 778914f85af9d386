"""What a request costs beside the tiers, told apart by what it makes the router do.

CPU time of each party under several loads, as a sum over what happened meanwhile:

    router's process   = a * batches + b * requests + c * calls of tiers + d * late answers
    rest of the server = likewise, and what it spends in a second without any request
    client             = e * groups of answers + f * requests

Least squares of the relative errors; no part is negative. The same request takes three times as long where
it comes alone as in a full batch, so none of the parts can be left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls

FloatArray = npt.NDArray[np.float64]
TICK_MS = 20.0  # Linux counts a process's CPU time in steps of 10 ms
QUANTILES = 20


class Parts(NamedTuple):
    """CPU time in ms of one batch, request, call and late answer."""

    batch_ms: float
    request_ms: float
    call_ms: float
    late_ms: float


@dataclass(frozen=True)
class Load:
    """What happened in one run.

    Attributes:
        seconds: it took, for what the server does anyway.
        requests: of one row; `late` of them were answered after a call.
        batches: of the router.
        calls: of the second tier.
        router_ms: CPU time of the router's process, `server_ms` of all others of the server.
        client_ms: of the client, for `client_requests`: the server's counts have its warm-up, too.
    """

    seconds: float
    requests: int
    late: int
    batches: int
    calls: int
    router_ms: float
    server_ms: float
    client_ms: float
    client_requests: int

    def at_full_speed(self, slowness: float) -> Load:
        """The CPU times that cores take which are so many times faster."""
        return replace(
            self,
            router_ms=self.router_ms / slowness,
            server_ms=self.server_ms / slowness,
            client_ms=self.client_ms / slowness,
        )


def router_parts(loads: Sequence[Load]) -> Parts:
    """Of the router's process."""
    return Parts(*_fit([load.router_ms for load in loads], [_counts(load) for load in loads]))


def server_parts(loads: Sequence[Load]) -> Parts:
    """Of the rest of the server."""
    counts = [(*_counts(load), load.seconds) for load in loads]
    return Parts(*_fit([load.server_ms for load in loads], counts)[:4])


def client_parts(loads: Sequence[Load]) -> Parts:
    """Of the client; it sees the answers of a batch, or of a call, at once."""
    counts = []
    for load in loads:
        groups = load.calls if load.late else load.batches
        counts.append((groups * load.client_requests / load.requests, load.client_requests))
    group_ms, request_ms = _fit([load.client_ms for load in loads], counts)
    return Parts(group_ms, request_ms, 0.0, 0.0)


def rest_ms(latency_ms: FloatArray, explained_ms: float) -> tuple[float, ...]:
    """What requests that come alone take beside the parts: quantiles, ascending.

    Args:
        latency_ms: of such requests, float64 [requests].
        explained_ms: sum of all parts of one of them.
    """
    middles = (np.arange(QUANTILES) + 0.5) / QUANTILES
    return tuple(np.maximum(0.0, np.quantile(latency_ms - explained_ms, middles)).tolist())


def _counts(load: Load) -> tuple[float, ...]:
    return load.batches, load.requests, load.calls, load.late


def _fit(spent_ms: Sequence[float], counts: Sequence[Sequence[float]]) -> list[float]:
    spent = np.asarray(spent_ms, np.float64)
    weight = 1.0 / np.maximum(spent, TICK_MS)
    parts, _ = nnls(np.asarray(counts, np.float64) * weight[:, None], spent * weight)
    return [float(part) for part in parts]
