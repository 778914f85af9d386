"""A cascade whose tiers do nothing: what is left is the router, and the server around it.

A row says itself whether the first tier, which the router runs in its own process, is sure of it; the second
is called by BLS.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from cascade_tools.artifacts import InputSpec, PolicyTable, Route, RouterLimits
from cascade_tools.artifacts.profile import INLINE_ENTRY_MS
from cascade_tools.repository.manifest import Files
from cascade_tools.runtime.policy import ANSWER
from cascade_tools.serving.bare_cascade import BareTier, bare_placement, bare_plan, repository_files

ROUTER = "idle"
NEAR, FAR = "near", "far"
FAR_MODEL = f"{ROUTER}_{FAR}"
INPUT = "ROW"
FEATURES = 256
MAX_BATCH = 32


def idle_rows(sure: bool) -> dict[str, npt.NDArray[Any]]:
    """One row that the first tier answers, or that goes on to the second."""
    return {INPUT: np.full((1, FEATURES), 1.0 if sure else 0.0, np.float32)}


def idle_files() -> Files:
    """The repository of the cascade."""
    graph = _graph()
    planned_ms = {NEAR: 0.01, FAR: 2.0 * INLINE_ENTRY_MS}
    tiers = [BareTier(name, graph, own_ms, own_ms, 0.0) for name, own_ms in planned_ms.items()]
    routes = (Route(cuts=(0.5,), to=(1, ANSWER)), Route(cuts=(), to=(ANSWER,)))
    plan = bare_plan(
        ROUTER,
        (InputSpec(name=INPUT, datatype="FP32", dims=(FEATURES,)),),
        2,
        tiers,
        PolicyTable(tiers=(NEAR, FAR), routes=routes),
        RouterLimits(rows_in_flight=4096, max_batch_size=MAX_BATCH, shadow_share=0.0),
    )
    return repository_files(plan, bare_placement(ROUTER, tiers), dict.fromkeys(planned_ms, graph))


def _graph() -> bytes:
    """The confidence is the row's first number, the label the same as a whole number."""
    from onnx import TensorProto, helper, numpy_helper

    nodes = [
        helper.make_node("Gather", [INPUT, "at"], ["CONFIDENCE"], axis=1),
        helper.make_node("Cast", ["CONFIDENCE"], ["LABEL"], to=TensorProto.INT64),
    ]
    graph = helper.make_graph(
        nodes,
        "idle",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["rows", FEATURES])],
        [
            helper.make_tensor_value_info("LABEL", TensorProto.INT64, ["rows", 1]),
            helper.make_tensor_value_info("CONFIDENCE", TensorProto.FLOAT, ["rows", 1]),
        ],
        [numpy_helper.from_array(np.array([0], np.int64), "at")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    content: bytes = model.SerializeToString()
    return content
