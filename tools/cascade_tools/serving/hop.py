"""What one hop costs: a call from a model to another inside the embedded server.

    latency   CALLS calls one after the other; the median
    CPU       PASSES times CALLS calls from several threads; CPU seconds of all processes over calls,
              the median pass

A row pays one hop for every tier that it visits and that the router does not run itself, so such a tier that
is cheaper than a hop cannot pay; for the others see `local_step.py`.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tritonclient.grpc as triton_grpc
from tritonclient.utils import InferenceServerException

from cascade_tools.artifacts import Hop, RouterCost
from cascade_tools.errors import CascadeError
from cascade_tools.repository import place
from cascade_tools.repository.manifest import Content, make_manifest
from cascade_tools.repository.render import hop_files
from cascade_tools.serving.embedded import Server, embedded_triton
from cascade_tools.serving.local_step import measure_local_step_ms
from cascade_tools.serving.router_cost import measure_router
from cascade_tools.serving.router_files import idle_files

CALLS = 500
PASSES = 3
THREADS = 8


def measure_hop() -> Hop:
    """What a hop costs, without the router's own costs; see `measure_hop_and_router`."""
    return measure_hop_and_router(router=False)[0]


def measure_hop_and_router(*, router: bool = True) -> tuple[Hop, RouterCost | None]:
    """Start the embedded server with models that do nothing, and time calls and requests.

    Args:
        router: its costs are wanted, too.

    Raises:
        EnvironmentLacks: the embedded server does not run here.
        CascadeError: a call failed.
    """
    with tempfile.TemporaryDirectory(prefix="cascade-hop-") as folder:
        files: dict[str, Content] = {**hop_files(), **(idle_files() if router else {})}
        repository = place.put(Path(folder), files, make_manifest("hop", "embedded", files))
        with (
            embedded_triton(repository) as server,
            triton_grpc.InferenceServerClient(server.grpc_url) as client,
        ):
            _call(client, THREADS)  # warm-up
            alone = _call(client, 1)
            spent_s = []
            for _ in range(PASSES):
                before = _cpu_s(server)
                _call(client, THREADS)
                spent_s.append(_cpu_s(server) - before)
            hop = Hop(
                latency_ms=1000.0 * float(np.median(alone)),
                cpu_ms=1000.0 * float(np.median(spent_s)) / CALLS,
                step_ms=measure_local_step_ms(),
                origin="measured",
            )
            return hop, measure_router(server, hop) if router else None


def _cpu_s(server: Server) -> float:
    return sum(server.cpu_seconds().values())


def _call(client: triton_grpc.InferenceServerClient, threads: int) -> npt.NDArray[np.float64]:
    inputs = []
    for name, value in (("CALLS", CALLS), ("THREADS", threads)):
        tensor = triton_grpc.InferInput(name, [1], "INT32")
        tensor.set_data_from_numpy(np.array([value], np.int32))
        inputs.append(tensor)
    try:
        answer = client.infer("hop_probe", inputs)
    except InferenceServerException as error:
        raise CascadeError(
            f"a call between models failed: {error.message()}", "is the machine overloaded? run it again"
        ) from None
    return np.asarray(answer.as_numpy("SECONDS"), np.float64)
