"""What server and client spend on a request beside the tiers.

A cascade whose tiers do nothing (`router_files`) gets requests from the generator of `replay`: few, many, and
more than can be served; rows that the first tier answers in the router's process, and rows that are handed
to a thread, which calls the second tier and answers late. `planning/work_cost.py` tells from CPU times and
Triton's counts what a batch, a request, a call and a late answer cost whom; what requests that come alone
take longer than that is kept as quantiles. All of it is work of CPUs, so times are told at their full speed.
"""

from __future__ import annotations

import time
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import tritonclient.grpc as triton_grpc

from cascade_tools.artifacts import Hop, RouterCost, WorkCost
from cascade_tools.machine.stolen import calmest
from cascade_tools.planning.outcomes import FloatArray
from cascade_tools.planning.traces.generators import poisson
from cascade_tools.planning.work_cost import Load, Parts, client_parts, rest_ms, router_parts, server_parts
from cascade_tools.serving.embedded import Server
from cascade_tools.serving.replay import replay
from cascade_tools.serving.router_files import FAR_MODEL, INPUT, ROUTER, idle_rows

SEED = 0


class _Rate(NamedTuple):
    rps: float
    seconds: float


RATES = (_Rate(100.0, 1.0), _Rate(400.0, 0.8), _Rate(3000.0, 0.4))  # the first is the one for `rest_ms`


class _Counts(NamedTuple):
    """Since the server's start: requests and batches of the router, calls of the second tier, CPU seconds."""

    requests: int
    batches: int
    calls: int
    cpu_s: dict[str, float]


def measure_router(server: Server, hop: Hop) -> RouterCost:
    """Put load on a running server that has the files of `router_files`.

    Raises:
        CascadeError: requests failed.
    """
    loads: list[Load] = []
    alone_ms = np.zeros(0)
    with triton_grpc.InferenceServerClient(server.grpc_url) as client:
        for sure in (True, False):
            for rate in RATES:
                (load, latency_ms), _, slowness = calmest(partial(_load, server, client, sure, rate))
                loads.append(load.at_full_speed(slowness))
                alone_ms = alone_ms if len(alone_ms) else latency_ms / slowness
    router, rest, of_client = router_parts(loads), server_parts(loads), client_parts(loads)
    explained_ms = sum(parts.batch_ms + parts.request_ms for parts in (router, rest, of_client))
    # Routing through the first tier is that tier's step.
    router = router._replace(batch_ms=max(0.0, router.batch_ms - hop.step_ms))
    return RouterCost(
        router=_cost(router),
        server=_cost(rest),
        client=_cost(of_client),
        rest_ms=rest_ms(alone_ms, explained_ms),
        origin="measured",
    )


def _cost(parts: Parts) -> WorkCost:
    return WorkCost(**parts._asdict())


def _load(server: Server, client: Any, sure: bool, rate: _Rate) -> tuple[Load, FloatArray]:
    arrival_s = poisson(rate.rps, rate.seconds, SEED)
    before, begin_s = _counts(server, client), time.monotonic()
    found = replay(
        server.grpc_url,
        ROUTER,
        idle_rows(sure),
        {INPUT: "FP32"},
        np.zeros(len(arrival_s), np.int64),
        arrival_s,
        target=np.zeros(1, np.int64),
        awake=True,
    )
    after, seconds = _counts(server, client), time.monotonic() - begin_s
    spent_ms = {
        model: 1000.0 * (cpu_s - before.cpu_s.get(model, 0.0)) for model, cpu_s in after.cpu_s.items()
    }
    router_ms = spent_ms.pop(ROUTER)
    requests = after.requests - before.requests
    load = Load(
        seconds=seconds,
        requests=requests,
        late=0 if sure else requests,
        batches=after.batches - before.batches,
        calls=after.calls - before.calls,
        router_ms=router_ms,
        server_ms=sum(spent_ms.values()),
        client_ms=1000.0 * found.client_cpu_s,
        client_requests=len(arrival_s),
    )
    return load, found.outcomes.latency_ms[np.isfinite(found.outcomes.latency_ms)]


def _counts(server: Server, client: Any) -> _Counts:
    router = client.get_inference_statistics(ROUTER, as_json=True)["model_stats"][0]
    far = client.get_inference_statistics(FAR_MODEL, as_json=True)["model_stats"][0]
    return _Counts(
        requests=int(router["inference_stats"]["success"].get("count", 0)),
        batches=int(router.get("execution_count", 0)),
        calls=int(far["inference_stats"]["success"].get("count", 0)),
        cpu_s=server.cpu_seconds(),
    )
