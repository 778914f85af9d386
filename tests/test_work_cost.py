"""What a request costs is told apart by what it makes the router do."""

from __future__ import annotations

import numpy as np
import pytest

from cascade_tools.planning.work_cost import (
    Load,
    Parts,
    client_parts,
    rest_ms,
    router_parts,
    server_parts,
)

ROUTER = Parts(0.7, 0.1, 0.9, 0.2)
SERVER = Parts(0.25, 0.2, 1.1, 0.15)
CLIENT = Parts(0.7, 0.3, 0.0, 0.0)
IDLE_MS = 12.0  # of the server, per second
WARM_UP = 32


def _load(sure: bool, requests: int, batches: int, seconds: float) -> Load:
    calls, late = (0, 0) if sure else (batches, requests)
    counts = (batches, requests, calls, late)

    def total(parts: Parts) -> float:
        return sum(part * count for part, count in zip(parts, counts, strict=True))

    share = (requests - WARM_UP) / requests
    return Load(
        seconds=seconds,
        requests=requests,
        late=late,
        batches=batches,
        calls=calls,
        router_ms=total(ROUTER),
        server_ms=total(SERVER) + IDLE_MS * seconds,
        client_ms=share * (CLIENT.batch_ms * batches + CLIENT.request_ms * requests),
        client_requests=requests - WARM_UP,
    )


LOADS = [
    _load(sure, requests, batches, seconds)
    for sure in (True, False)
    for requests, batches, seconds in ((130, 128, 2.0), (350, 250, 1.8), (1200, 60, 1.4))
]


def test_each_part_is_found() -> None:
    assert router_parts(LOADS) == pytest.approx(ROUTER)
    assert server_parts(LOADS) == pytest.approx(SERVER)
    assert client_parts(LOADS) == pytest.approx(CLIENT)


def test_no_part_is_negative() -> None:
    noisy = [
        Load(1.0, 100, 0, batches, 0, router_ms, 10.0, 10.0, 100)
        for batches, router_ms in ((100, 50.0), (10, 70.0))
    ]
    parts = router_parts(noisy)
    assert min(parts) == 0.0 and parts.request_ms > 0.0


def test_the_rest_is_what_the_parts_do_not_explain() -> None:
    found = np.array(rest_ms(np.linspace(2.0, 6.0, 1001), 3.0))
    assert (np.diff(found) >= 0.0).all() and found[0] == 0.0
    assert float(np.median(found)) == pytest.approx(1.0) and found[-1] == pytest.approx(2.9)


def test_cpu_times_are_told_at_full_speed() -> None:
    load = Load(1.0, 10, 0, 5, 0, 30.0, 60.0, 90.0, 10)
    assert load.at_full_speed(1.5) == Load(1.0, 10, 0, 5, 0, 20.0, 40.0, 60.0, 10)
