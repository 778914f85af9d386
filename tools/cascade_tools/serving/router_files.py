"""A cascade whose tiers do nothing: what is left is the router, and the server around it.

A row says itself whether the first tier, which the router runs in its own process, is sure of it; the second
is called by BLS.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from cascade_tools.artifacts import (
    Gear,
    GearPlan,
    Hysteresis,
    InputSpec,
    LadderTier,
    PlacedDevice,
    PlacedInstances,
    Placement,
    PolicyTable,
    Route,
    RouterLimits,
)
from cascade_tools.artifacts.profile import INLINE_ENTRY_MS
from cascade_tools.repository.place import PLAN_FILE, Content
from cascade_tools.repository.render import VERSION, code_files, render_configs
from cascade_tools.runtime.policy import ANSWER
from cascade_tools.store import digest_bytes

ROUTER = "idle"
NEAR, FAR = "near", "far"
FAR_MODEL = f"{ROUTER}_{FAR}"
INPUT = "ROW"
FEATURES = 256
MAX_BATCH = 32


def idle_rows(sure: bool) -> dict[str, npt.NDArray[Any]]:
    """One row that the first tier answers, or that goes on to the second."""
    return {INPUT: np.full((1, FEATURES), 1.0 if sure else 0.0, np.float32)}


def idle_files() -> dict[str, Content]:
    """The repository of the cascade."""
    graph = _graph()
    planned_ms = {NEAR: 0.01, FAR: 2.0 * INLINE_ENTRY_MS}
    plan = GearPlan(
        cascade=ROUTER,
        made_from={},
        inputs=(InputSpec(name=INPUT, datatype="FP32", dims=(FEATURES,)),),
        classes=2,
        probabilities=False,
        ladder=tuple(
            LadderTier(
                tier=tier,
                model=f"{ROUTER}_{tier}",
                sha256=digest_bytes(graph),
                p50_ms=own_ms,
                p99_ms=own_ms,
                further_row_ms=0.0,
            )
            for tier, own_ms in planned_ms.items()
        ),
        gears=(_gear(),),
        hysteresis=Hysteresis(),
        limits=RouterLimits(rows_in_flight=4096, max_batch_size=MAX_BATCH, shadow_share=0.0),
        cost_unit="none",
    )
    configs = render_configs(plan, _placement(), "embedded")
    files: dict[str, Content] = {name: text.encode() for name, text in configs.items()}
    files |= code_files(plan, "embedded")
    files[f"{ROUTER}/{PLAN_FILE}"] = plan.model_dump_json(indent=1).encode()
    return files | {f"{info.model}/{VERSION}/model.onnx": graph for info in plan.ladder}


def _gear() -> Gear:
    routes = (Route(cuts=(0.5,), to=(1, ANSWER)), Route(cuts=(), to=(ANSWER,)))
    return Gear(
        up_to_rps=None,
        policy=PolicyTable(tiers=(NEAR, FAR), routes=routes),
        min_queue=1,
        max_wait_ms=0.0,
        predicted_accuracy=1.0,
        predicted_cost=0.0,
    )


def _placement() -> Placement:
    """One instance of each tier; nothing but their number is rendered."""
    return Placement(
        cascade=ROUTER,
        made_from={},
        rate_rps=1.0,
        bound_rps=1.0,
        gap=0.0,
        status="given",
        giant_only_rps=None,
        batch={NEAR: 1, FAR: 1},
        devices=(
            PlacedDevice(type="cpu", kind="cpu", gpu=None, memory_mib=1, used_memory_mib=1.0, busy_share=0.0),
        ),
        instances=tuple(
            PlacedInstances(tier=tier, device=0, count=1, busy_instances=0.0) for tier in (NEAR, FAR)
        ),
    )


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
