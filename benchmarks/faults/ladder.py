"""A small cascade of three random nets, without training, and its repository.

The nets disagree on nearly every row, so an answer tells which tier gave it and for which row: no two rows
get the same label with the same confidence from any tiers.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, TensorProto, helper, numpy_helper

from cascade_tools.artifacts import GearPlan, InputSpec, PolicyTable, Route, RouterLimits
from cascade_tools.repository import place
from cascade_tools.repository.manifest import PLAN_FILE, make_manifest
from cascade_tools.repository.render import ONNX_SESSION, VERSION
from cascade_tools.runtime.policy import ANSWER
from cascade_tools.serving.bare_cascade import BareTier, bare_placement, bare_plan, repository_files

CASCADE = "chaos"
INPUT = "ROW"
FEATURES = 64
CLASSES = 97
MAX_BATCH = 16
ROWS_IN_FLIGHT = 512
OPSET = 17
# Hidden layers, instances, p50 and p99 in ms: given and not measured, since only deadlines use them.
TIERS: dict[str, tuple[tuple[int, ...], int, float, float]] = {
    "tiny": ((16,), 1, 0.05, 5.0),
    "middle": ((256,), 2, 0.1, 6.0),
    "giant": ((1024, 1024), 1, 1.0, 10.0),
}
NAMES = tuple(TIERS)
SHARPNESS = 6.0  # spreads the confidences over most of 0 to 1

Array = npt.NDArray[Any]


def graphs(seed: int = 0) -> dict[str, bytes]:
    """ONNX of every tier: ROW float32 [n, 64] -> LABEL int64 [n, 1], CONFIDENCE float32 [n, 1]."""
    rng = np.random.default_rng(seed)
    return {name: _net(name, hidden, rng).SerializeToString() for name, (hidden, *_) in TIERS.items()}


def _net(name: str, hidden: tuple[int, ...], rng: np.random.Generator) -> ModelProto:
    nodes, weights, last = [], [], INPUT
    sizes = (FEATURES, *hidden, CLASSES)
    for layer, (size_in, size_out) in enumerate(pairwise(sizes)):
        final = layer == len(hidden)
        scale = (SHARPNESS if final else 1.0) * np.sqrt(2.0 / size_in)
        matrix = (scale * rng.standard_normal((size_in, size_out))).astype(np.float32)
        weights.append(numpy_helper.from_array(matrix, f"weight{layer}"))
        nodes.append(helper.make_node("MatMul", [last, f"weight{layer}"], [f"sum{layer}"]))
        last = f"sum{layer}"
        if not final:
            nodes.append(helper.make_node("Relu", [last], [f"hidden{layer}"]))
            last = f"hidden{layer}"
    nodes += [
        helper.make_node("Softmax", [last], ["probability"], axis=1),
        helper.make_node("ArgMax", ["probability"], ["LABEL"], axis=1, keepdims=1),
        helper.make_node("ReduceMax", ["probability"], ["CONFIDENCE"], axes=[1], keepdims=1),
    ]
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["n", FEATURES])],
        [
            helper.make_tensor_value_info("LABEL", TensorProto.INT64, ["n", 1]),
            helper.make_tensor_value_info("CONFIDENCE", TensorProto.FLOAT, ["n", 1]),
        ],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)


def policies(confidence: Array) -> dict[str, PolicyTable]:
    """The policy of the steady load, `base`, and seven others to be swapped in.

    Args:
        confidence: float32 [rows, tiers], of ordinary rows; the cuts are quantiles of it.
    """

    def cut(tier: int, share: float) -> float:
        return float(np.quantile(confidence[:, tier], share))

    def full(skip: float, accept: float, accept_next: float) -> PolicyTable:
        return PolicyTable(
            tiers=NAMES,
            routes=(
                Route(cuts=(cut(0, skip), cut(0, accept)), to=(2, 1, ANSWER)),
                Route(cuts=(cut(1, accept_next),), to=(2, ANSWER)),
                Route(cuts=(), to=(ANSWER,)),
            ),
        )

    def pair(first: int, second: int, accept: float) -> PolicyTable:
        return PolicyTable(
            tiers=(NAMES[first], NAMES[second]),
            routes=(Route(cuts=(cut(first, accept),), to=(1, ANSWER)), Route(cuts=(), to=(ANSWER,))),
        )

    def alone(tier: int) -> PolicyTable:
        return PolicyTable(tiers=(NAMES[tier],), routes=(Route(cuts=(), to=(ANSWER,)),))

    return {
        "base": full(0.15, 0.45, 0.5),
        "eager": full(0.05, 0.2, 0.3),
        "careful": full(0.3, 0.7, 0.8),
        "without middle": pair(0, 2, 0.5),
        "without tiny": pair(1, 2, 0.5),
        "without giant": pair(0, 1, 0.5),
        "giant alone": alone(2),
        "tiny alone": alone(0),
    }


def gear_plan(policy: PolicyTable, graphs: dict[str, bytes], **limits: float) -> GearPlan:
    """A plan of one gear."""
    settings = {"rows_in_flight": ROWS_IN_FLIGHT, "max_batch_size": MAX_BATCH, **limits}
    inputs = (InputSpec(name=INPUT, datatype="FP32", dims=(FEATURES,)),)
    return bare_plan(CASCADE, inputs, CLASSES, _tiers(graphs), policy, RouterLimits.model_validate(settings))


def _tiers(graphs: dict[str, bytes]) -> list[BareTier]:
    return [
        BareTier(name, graphs[name], p50_ms, p99_ms, p50_ms, instances)
        for name, (_, instances, p50_ms, p99_ms) in TIERS.items()
    ]


def put_repository(root: Path, plan: GearPlan, graphs: dict[str, bytes]) -> Path:
    """Write the repository for the embedded server; return it."""
    files = repository_files(plan, bare_placement(CASCADE, _tiers(graphs)), graphs)
    # Tiers inside the router could not be broken apart from it.
    del files[f"{CASCADE}/{VERSION}/{ONNX_SESSION}"]
    files[f"{CASCADE}/{PLAN_FILE}"] = plan.model_dump_json().encode()  # as it is written when swapped
    return place.put(root, files, make_manifest(CASCADE, "embedded", files))
