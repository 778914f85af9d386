"""What every node of a graph takes and makes, as ONNX Runtime's profiler saw it on real rows."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from cascade_tools.models.source import Inputs

NODE = "_kernel_time"  # behind the node's name, in the events of the profiler
# ONNX Runtime's names of element types, Triton's, and bytes.
TYPES = {
    "float": "FP32",
    "float16": "FP16",
    "double": "FP64",
    "int64": "INT64",
    "int32": "INT32",
    "int16": "INT16",
    "int8": "INT8",
    "uint8": "UINT8",
    "bool": "BOOL",
}
ITEM_BYTES = {
    "FP64": 8,
    "INT64": 8,
    "FP32": 4,
    "INT32": 4,
    "FP16": 2,
    "INT16": 2,
    "INT8": 1,
    "UINT8": 1,
    "BOOL": 1,
}


@dataclass(frozen=True)
class MadeTensor:
    """One output of a node: Triton's datatype, and the dims behind the batch.

    Empty dims: the first dimension is not the batch, or there is no other one.
    """

    datatype: str
    dims: tuple[int, ...]

    @property
    def item_bytes(self) -> int:
        """Of one element."""
        return ITEM_BYTES[self.datatype]


@dataclass(frozen=True)
class NodeRuns:
    """By name of a node: its median time, and what its outputs are.

    A node that ONNX Runtime has not run under its own name is in neither.
    """

    time_ms: dict[str, float]
    made: dict[str, tuple[MadeTensor, ...]]


def run_nodes(graph: Path, small: Sequence[Inputs], timed: Sequence[Inputs]) -> NodeRuns:
    """Run a graph, node by node as it stands, on one thread.

    Args:
        graph: an ONNX file in a folder where the profiler may leave its file.
        small: two batches of different sizes, which show what the batch dimension is.
        timed: equal batches for the times; the first warms up.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    # Anything else fuses nodes, and the times could not be told apart.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.enable_profiling = True
    options.profile_file_prefix = str(graph.with_suffix(".nodes"))
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    rows = [len(next(iter(batch.values()))) for batch in small]
    for batch in (*small, *timed):
        session.run(None, batch)
    events = json.loads(Path(session.end_profiling()).read_bytes())
    seen = defaultdict[str, list[Any]](list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(NODE):
            seen[event["name"].removesuffix(NODE)].append(event)
    runs = len(small) + len(timed)
    # A node of an inner graph runs several times, or not at all.
    whole = {name: sorted(found, key=_start) for name, found in seen.items() if len(found) == runs}
    return NodeRuns(
        {
            name: median(event["dur"] for event in found[-len(timed) + 1 :]) / 1000.0
            for name, found in whole.items()
        },
        {
            name: _made([event["args"]["output_type_shape"] for event in found[: len(small)]], rows)
            for name, found in whole.items()
        },
    )


def _start(event: dict[str, Any]) -> int:
    return int(event["ts"])


def _made(outputs: list[list[dict[str, list[int]]]], rows: list[int]) -> tuple[MadeTensor, ...]:
    """Of each output, by its shapes in runs of different sizes."""
    found = []
    for shapes in zip(*outputs, strict=True):
        kind = next(iter(shapes[0]), "")
        sizes: list[list[int]] = [next(iter(shape.values()), []) for shape in shapes]
        is_batch = [size[:1] for size in sizes] == [[count] for count in rows]
        same = len({tuple(size[1:]) for size in sizes}) == 1
        dims = tuple(sizes[0][1:]) if is_batch and same and all(sizes[0]) else ()
        found.append(MadeTensor(TYPES.get(kind, ""), dims))
    return tuple(found)
