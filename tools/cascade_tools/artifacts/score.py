"""The served cascade beside its last tier."""

from __future__ import annotations

from typing import Literal

from cascade_tools.artifacts.base import Artifact, Value
from cascade_tools.artifacts.profile import Origin


class TierScore(Value):
    """One tier of the served ladder; `accuracy` on the test rows, the times from the profile."""

    name: str
    parameters: int
    accuracy: float
    cpu_ms_per_row: float
    energy_j: float | None
    energy_origin: Origin | None
    answer_share: float


class ServedScore(Value):
    """One served model, as a client measured it through Triton.

    Attributes:
        accuracy: over all test rows.
        latency_mean_ms: at 1 client.
        throughput_rps: at `Score.clients` clients.
        cpu_ms_per_request: CPU time of the tiers' and the router's processes over requests, at
            `Score.clients` clients.
        router_cpu_ms_per_request: the router's share of it; None where there is none.
        server_cpu_ms_per_request: of tritonserver itself.
        client_cpu_ms_per_request: of the sending process.
        energy_j: per request; modelled from the CPU time of all server processes, or measured for the
            whole machine, the client included.
    """

    accuracy: float
    latency_mean_ms: float
    latency_p50_ms: float
    latency_p99_ms: float
    throughput_rps: float
    cpu_ms_per_request: float
    router_cpu_ms_per_request: float | None
    server_cpu_ms_per_request: float
    client_cpu_ms_per_request: float
    energy_j: float | None
    energy_origin: Origin | None


class Score(Artifact):
    """The last tier alone against the cascade on the test rows.

    Attributes:
        allowance: accuracy that may be given up, as a fraction.
        promise_held: measured accuracy is within the allowance.
        accuracy_drop_bound: fraction; where certified, from validation rows that the search never saw.
        certified: that bound is a promise, and within the allowance.
    """

    kind: Literal["score"] = "score"
    tiers: tuple[TierScore, ...]
    giant: ServedScore
    cascade_score: ServedScore
    allowance: float
    accuracy_drop_bound: float
    certified: bool
    promise_held: bool
    test_rows: int
    latency_rows: int
    clients: int
    environment: dict[str, str]
