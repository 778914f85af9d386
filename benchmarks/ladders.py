"""The ladders of `benchmarks.router`, each with every router in one repository.

demo     the built digits cascade, its plan and its test rows
wide     random nets of 334, 26 thousand and 50 million parameters on 16 numbers; 30 % of the rows leave the
         first, 10 % reach the last
trivial  graphs of a few operators that read their answers off the row; the same shares
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from benchmarks.baselines import MAX_BATCH, baseline_files
from cascade_tools.artifacts import (
    Exported,
    GearPlan,
    InputSpec,
    Placement,
    PolicyTable,
    Route,
    RouterLimits,
)
from cascade_tools.repository.manifest import Files
from cascade_tools.runtime.plan import parse_policy
from cascade_tools.runtime.policy import ANSWER, route
from cascade_tools.serving.bare_cascade import BareTier, bare_placement, bare_plan, repository_files
from cascade_tools.spec import load_cascade
from cascade_tools.stages.export import EXPORTED_FILE
from cascade_tools.stages.gears import GEARS_FILE
from cascade_tools.stages.kept_rows import load_test_rows
from cascade_tools.stages.place import PLACEMENT_FILE
from cascade_tools.store import Workspace

Arrays = dict[str, npt.NDArray[Any]]

ROWS = 4000
LEAVE_FIRST, REACH_LAST = 0.30, 0.10
NEAR_A_CUT = 1e-4  # rows nearer than this are left out: rounding would decide where they go
INPUT = "X"
WIDTHS = {"wee": (16, 12, 10), "mid": (16, 128, 170, 10), "vast": (16, 5000, 5000, 5000, 10)}
SEED = 0


@dataclass(frozen=True)
class Ladder:
    """One ladder, ready to be served.

    Attributes:
        name: demo, wide or trivial; also of the served cascade, but for `digits`.
        gear: which gear of the plan it is.
        files: of the repository.
        models: of the tiers in use, smallest first, and `tiers` their indices in the full ladder.
        inputs: the rows that are sent; name -> [rows, ...].
        label: the answer of every row, and `answered`: the level of the tier in use that gives it.
        reached: bool [rows, tiers in use]: which rows visit which tier.
    """

    name: str
    cascade: str
    gear: str
    files: Files
    policy: PolicyTable
    models: tuple[str, ...]
    tiers: tuple[int, ...]
    specs: tuple[InputSpec, ...]
    inputs: Arrays
    label: npt.NDArray[np.int64]
    answered: npt.NDArray[np.int64]
    reached: npt.NDArray[np.bool_]

    @property
    def datatypes(self) -> dict[str, str]:
        """Triton's datatype of every input."""
        return {spec.name: spec.datatype for spec in self.specs}

    @property
    def easy(self) -> npt.NDArray[np.bool_]:
        """Rows that the first tier answers."""
        easy: npt.NDArray[np.bool_] = self.answered == 0
        return easy

    def take(self, index: npt.NDArray[Any]) -> Arrays:
        """The inputs of some rows."""
        return {name: values[index] for name, values in self.inputs.items()}


def demo(build: Path = Path("build")) -> Ladder:
    """The digits as built in `build/digits`; the gear of the lowest rates."""
    cascade = load_cascade(Path("ensembles/digits"))
    work = Workspace(cascade, build / cascade.name)
    plan = work.load(GEARS_FILE, GearPlan, "run")
    exported = work.load(EXPORTED_FILE, Exported, "run")
    graphs = {info.tier: work.path(exported.tier(info.tier).file).read_bytes() for info in plan.ladder}
    rows = load_test_rows(work)
    plan = plan.model_copy(update={"gears": (plan.gears[0].model_copy(update={"up_to_rps": None}),)})
    placement = work.load(PLACEMENT_FILE, Placement, "run")
    return _ladder("demo", f"first of its plan: {_told(plan)}", plan, placement, graphs, rows.inputs)


def wide() -> Ladder:
    """Three random nets; the cuts are quantiles of their confidences on the rows that are sent."""
    rng = np.random.default_rng(SEED)
    rows = rng.standard_normal((ROWS, 16), np.float32)
    graphs = {name: _net(widths, rng) for name, widths in WIDTHS.items()}
    return _made("wide", graphs, (0.02, 0.03, 7.0), {INPUT: rows})


def trivial() -> Ladder:
    """Tier i reads its confidence off number i of the row, and its label off number 8 + i."""
    rows = np.random.default_rng(SEED).random((ROWS, 16), np.float32)
    graphs = {name: _reader(number) for number, name in enumerate(("first", "second", "third"))}
    return _made("trivial", graphs, (0.02, 0.02, 0.02), {INPUT: rows})


LADDERS: dict[str, Callable[[], Ladder]] = {"demo": demo, "wide": wide, "trivial": trivial}


def _made(name: str, graphs: dict[str, bytes], p50_ms: tuple[float, ...], inputs: Arrays) -> Ladder:
    """A ladder with a plan of our own; one instance per tier."""
    tiers = [
        BareTier(tier, graphs[tier], own_ms, 2.0 * own_ms + 1.0, 0.1 * own_ms)
        for tier, own_ms in zip(graphs, p50_ms, strict=True)
    ]
    plan = bare_plan(
        name,
        (InputSpec(name=INPUT, datatype="FP32", dims=(16,)),),
        10,
        tiers,
        _policy(tuple(graphs), graphs, inputs),
        RouterLimits(rows_in_flight=4096, max_batch_size=MAX_BATCH, shadow_share=0.0),
    )
    return _ladder(name, "its only one", plan, bare_placement(name, tiers), graphs, inputs)


def _policy(tiers: tuple[str, ...], graphs: dict[str, bytes], inputs: Arrays) -> PolicyTable:
    """Accept cuts by which the wanted shares of these rows go on."""
    waiting = np.arange(len(next(iter(inputs.values()))))
    rows = len(waiting)
    routes = []
    for level, share in enumerate((LEAVE_FIRST, REACH_LAST)):
        _, confidence = _run(graphs[tiers[level]], {name: v[waiting] for name, v in inputs.items()})
        order = np.argsort(confidence)
        count = round(share * rows)
        low, high = confidence[order[count - 1]], confidence[order[count]]
        routes.append(Route(cuts=(float((low + high) / 2.0),), to=(level + 1, ANSWER)))
        waiting = waiting[order[:count]]
    return PolicyTable(tiers=tiers, routes=(*routes, Route(cuts=(), to=(ANSWER,))))


def _ladder(
    name: str, gear: str, plan: GearPlan, placement: Placement, graphs: dict[str, bytes], inputs: Arrays
) -> Ladder:
    table = plan.gears[0].policy
    label, answered, reached, clear = _follow(table, graphs, inputs)
    files = repository_files(plan, placement, graphs)
    order = [info.tier for info in plan.ladder]
    ladder = Ladder(
        name=name,
        cascade=plan.cascade,
        gear=gear,
        files=files,
        policy=table,
        models=tuple(plan.ladder[order.index(tier)].model for tier in table.tiers),
        tiers=tuple(order.index(tier) for tier in table.tiers),
        specs=plan.inputs,
        inputs={n: values[clear] for n, values in inputs.items()},
        label=label[clear],
        answered=answered[clear],
        reached=reached[clear],
    )
    files |= baseline_files(ladder.specs, ladder.policy, ladder.models, ladder.tiers)
    return ladder


def _follow(table: PolicyTable, graphs: dict[str, bytes], inputs: Arrays) -> tuple[Any, Any, Any, Any]:
    """Send every row through the policy in this process: label, level, visits, and whether it is clear."""
    policy = parse_policy(table.model_dump(), "policy")
    rows = len(next(iter(inputs.values())))
    goal, answered = np.zeros(rows, np.int64), np.zeros(rows, np.int64)
    label, clear = np.zeros(rows, np.int64), np.ones(rows, bool)
    reached = np.zeros((rows, len(policy.tiers)), bool)
    for level, tier in enumerate(policy.tiers):
        mine = np.flatnonzero(goal == level)
        found, confidence = _run(graphs[tier], {name: values[mine] for name, values in inputs.items()})
        reached[mine, level], answered[mine], label[mine] = True, level, found
        cuts = policy.bands[level].cuts
        clear[mine] &= (np.abs(cuts[None, :] - confidence[:, None]) > NEAR_A_CUT).all(axis=1)
        goal[mine] = route(policy.bands[level], confidence)
    return label, answered, reached, clear


def _run(graph: bytes, inputs: Arrays) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    label, confidence = session.run(["LABEL", "CONFIDENCE"], inputs)
    return label.ravel(), confidence.ravel()


def _net(widths: tuple[int, ...], rng: np.random.Generator) -> bytes:
    """A random net whose logits have a spread of about 2, with softmax confidence."""
    nodes, weights = [], []
    last = INPUT
    for number, (fan_in, fan_out) in enumerate(itertools.pairwise(widths)):
        final = number == len(widths) - 2
        scale = np.float32((2.0 if final else np.sqrt(2.0)) / np.sqrt(fan_in))
        matrix = rng.standard_normal((fan_in, fan_out), np.float32) * scale
        weights += [
            numpy_helper.from_array(matrix, f"w{number}"),
            numpy_helper.from_array(np.zeros(fan_out, np.float32), f"b{number}"),
        ]
        out = "logits" if final else f"sum{number}"
        nodes.append(helper.make_node("Gemm", [last, f"w{number}", f"b{number}"], [out]))
        if not final:
            last = f"hidden{number}"
            nodes.append(helper.make_node("Relu", [out], [last]))
    nodes += [
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
        helper.make_node("ReduceMax", ["probabilities"], ["CONFIDENCE"], axes=[1], keepdims=1),
        helper.make_node("ArgMax", ["logits"], ["LABEL"], axis=1, keepdims=1),
    ]
    return _graph(nodes, weights)


def _reader(number: int) -> bytes:
    """A graph that copies one number of the row and scales another."""
    indices = [
        numpy_helper.from_array(np.array([value], np.int64), name)
        for name, value in (("at", number), ("label_at", 8 + number))
    ]
    scale = numpy_helper.from_array(np.array(1000.0, np.float32), "scale")
    nodes = [
        helper.make_node("Gather", [INPUT, "at"], ["CONFIDENCE"], axis=1),
        helper.make_node("Gather", [INPUT, "label_at"], ["picked"], axis=1),
        helper.make_node("Mul", ["picked", "scale"], ["scaled"]),
        helper.make_node("Cast", ["scaled"], ["LABEL"], to=TensorProto.INT64),
    ]
    return _graph(nodes, [*indices, scale])


def _graph(nodes: list[Any], weights: list[Any]) -> bytes:
    graph = helper.make_graph(
        nodes,
        "tier",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["rows", 16])],
        [
            helper.make_tensor_value_info("LABEL", TensorProto.INT64, ["rows", 1]),
            helper.make_tensor_value_info("CONFIDENCE", TensorProto.FLOAT, ["rows", 1]),
        ],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content


def _told(plan: GearPlan) -> str:
    return " > ".join(plan.gears[0].policy.tiers)
