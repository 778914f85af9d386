"""Where an ONNX graph may be cut into stages, and the stages that the cuts give.

    inputs --+--> | patches, block 1, 2 | --x--> | block 3, 4 | --x--> | block 5, 6, head | --> LABEL ...
             |                                       ^                         ^
             +---------------------------------------+-------- a mask ---------+

A cut is possible where at most `MOST_CROSSING` tensors cross, each with the batch as its first dimension,
and the graph's own inputs go to every stage that reads them. Never crossing are initializers (a weight that
two stages read is in both); what little work makes from the inputs alone, such as a mask that is added to
scores; and what has no batch dimension, such as a shape: the later stage makes these again, from what does
cross. What would have to be made again with a weight of any size has no cut there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from cascade_tools.artifacts import InputSpec
from cascade_tools.errors import UsageError
from cascade_tools.models.node_runs import MadeTensor, NodeRuns
from cascade_tools.models.write_onnx import LIMIT_BYTES
from cascade_tools.planning.partition import Chain, CutPoint

if TYPE_CHECKING:
    import onnx_ir as ir

MOST_CROSSING = 3
LIGHT_ELEMENTS = 1024  # a larger float initializer is a weight
PASSED_ON = "HIDDEN_"
# Triton's names of what may be an input or an output; it has no numpy type for BF16.
DATATYPES = {
    "FLOAT": "FP32",
    "FLOAT16": "FP16",
    "DOUBLE": "FP64",
    "INT64": "INT64",
    "INT32": "INT32",
    "INT16": "INT16",
    "INT8": "INT8",
    "UINT8": "UINT8",
    "BOOL": "BOOL",
}
# Cheap to run again: arithmetic on masks and positions, and everything about shapes.
_LIGHT = """
    Abs Add Ceil Clip CumSum Div Floor Max Min Mod Mul Neg Pow Sign Sqrt Sub
    ReduceMax ReduceMin ReduceProd ReduceSum
    And Equal Greater GreaterOrEqual Less LessOrEqual Not Or Where Xor
    Cast CastLike Concat ConstantOfShape Expand Flatten Gather GatherElements GatherND Identity Range Reshape
    ScatterND Shape Size Slice Split Squeeze Tile Transpose Trilu Unsqueeze
"""
LIGHT = frozenset(_LIGHT.split())


@dataclass(frozen=True)
class Cut:
    """One place: the values that cross there, in the order in which they are made."""

    point: CutPoint
    values: tuple[ir.Value, ...]


@dataclass(frozen=True)
class StageGraph:
    """One stage, by itself a model.

    Attributes:
        inputs: tensors without the batch dimension, `outputs` likewise.
        crossing_bytes: of all tensors that cross behind it, per row; 0 for the last.
        weights_bytes: of its initializers.
    """

    model: ir.Model
    inputs: tuple[InputSpec, ...]
    outputs: tuple[InputSpec, ...]
    crossing_bytes: int
    weights_bytes: int


class CuttableGraph:
    """A graph as a chain of nodes. Nodes that only work lightly on the graph's inputs are in no place of it.

    Args:
        path: of the ONNX file.
        inputs: of the model, with the sizes that requests have.
        name: for messages.

    Raises:
        UsageError: not an ONNX file that can be cut.
    """

    def __init__(self, path: Path, inputs: tuple[InputSpec, ...], name: str) -> None:
        import onnx_ir as ir
        from onnx_ir.passes import common

        self.name = name
        self._inputs = {spec.name: spec for spec in inputs}
        try:
            self.model = ir.load(path)
            passes = (common.InlinePass(), common.RemoveUnusedNodesPass(), common.NameFixPass())
            self.model = ir.passes.Sequential(*passes)(self.model).model
        except Exception as error:
            raise UsageError(f"{name}: {path}: not a graph that can be cut: {error}") from None
        self._light: set[ir.Node] = set()
        for node in self.model.graph:
            if self._is_light(node):
                self._light.add(node)
        self.nodes = tuple(node for node in self.model.graph if node not in self._light)
        self._place = {node: place for place, node in enumerate(self.nodes)}
        self._tensor: dict[ir.Value, MadeTensor] = {}

    @property
    def weights_bytes(self) -> int:
        """Of all initializers."""
        return _weights_bytes(self.model.graph)

    def _is_light(self, node: ir.Node) -> bool:
        """Made of the graph's inputs with little work, or of weights alone."""
        made = [value for value in _read(node) if value.producer() is not None]
        if any(value.producer() not in self._light for value in made):
            return False
        from_inputs = made or any(
            value.is_graph_input() and not value.is_initializer() for value in _read(node)
        )
        if not from_inputs:
            return "Random" not in node.op_type and node.op_type not in ("Bernoulli", "Multinomial")
        return _is_cheap(node)

    def cuts(self, made: Mapping[str, Sequence[MadeTensor]]) -> tuple[Cut, ...]:
        """All places where the graph may be cut.

        Args:
            made: by name of a node, what its outputs were found to be.

        Raises:
            UsageError: an output of the graph does not have the batch as its first dimension.
        """
        passing = _Passing(self._light, {value: tensor for value, tensor in self._tensors(made)})
        last_read = self._last_reads()
        # A stage without weights is none: no cut before the first of them, nor behind the last.
        working = [
            place for place, node in enumerate(self.nodes) if any(_is_weight(v) for v in self._held(node))
        ]
        found: list[Cut] = []
        live: dict[ir.Value, int] = {}
        for place, node in enumerate(self.nodes, start=1):
            live |= {value: last_read[value] for value in node.outputs if value in last_read}
            live = {value: last for value, last in live.items() if last >= place}
            crossing = passing.across(live) if working and working[0] < place <= working[-1] else None
            if crossing and len(crossing) <= MOST_CROSSING:
                ordered = sorted(crossing, key=self._made_at)
                count = sum(passing.bytes_of(value) for value in ordered)
                found.append(Cut(CutPoint(place, count), tuple(ordered)))
        strange = [value.name for value in self.model.graph.outputs if value not in passing.tensors]
        if strange:
            raise UsageError(f"{self.name}: the graph's output {strange[0]} is not [rows, ...] when it runs")
        self._tensor = passing.tensors
        return tuple(found)

    def _tensors(self, made: Mapping[str, Sequence[MadeTensor]]) -> Iterable[tuple[ir.Value, MadeTensor]]:
        for node in self.nodes:
            tensors = made.get(node.name or "", ())
            if len(tensors) != len(node.outputs):  # one that nobody wants may be missing
                continue
            for value, tensor in zip(node.outputs, tensors, strict=True):
                # ONNX Runtime may have run an FP16 node in FP32; the graph says what the value is.
                datatype = tensor.datatype if value.dtype is None else DATATYPES.get(value.dtype.name)
                if datatype in DATATYPES.values() and tensor.dims:
                    assert datatype is not None
                    yield value, MadeTensor(datatype, tensor.dims)

    def _last_reads(self) -> dict[ir.Value, int]:
        """Of each value, the place of the last node of the chain that reads it."""
        return {value: place for place, node in enumerate(self.nodes) for value in _read(node)}

    def _made_at(self, value: ir.Value) -> tuple[int, int]:
        producer = value.producer()
        assert producer is not None
        return self._place[producer], value.index() or 0

    def chain(self, runs: NodeRuns, cuts: Sequence[Cut]) -> Chain:
        """Times, weights and cut points for `planning/partition.py`."""
        return Chain(
            self.name,
            tuple(runs.time_ms.get(node.name or "", 0.0) for node in self.nodes),
            tuple(self._weights(node) for node in self.nodes),
            tuple(cut.point for cut in cuts),
        )

    def _weights(self, node: ir.Node) -> dict[str, int]:
        """Bytes of the initializers that a node holds, by name."""
        return {value.name or "": _bytes(value) for value in self._held(node)}

    def _held(self, node: ir.Node) -> set[ir.Value]:
        """The initializers that a node reads, directly or through light nodes."""
        found: set[ir.Value] = set()
        left, seen = [node], {node}
        while left:
            for value in _read(left.pop()):
                producer = value.producer()
                if value.is_initializer():
                    found.add(value)
                elif producer in self._light and producer not in seen:
                    seen.add(producer)
                    left.append(producer)
        return found

    def stages(self, cuts: Sequence[Cut]) -> tuple[StageGraph, ...]:
        """The graphs between the cuts; tensors that cross are renamed to names that any server takes."""
        names = self._names(cuts)
        edges = [0, *(cut.point.position for cut in cuts), len(self.nodes)]
        before: tuple[ir.Value, ...] = ()
        stages = []
        for number, (start, end) in enumerate(pairwise(edges)):
            last = number == len(cuts)
            after = () if last else cuts[number].values
            outputs = [value for value in after if value not in before]
            outputs += [
                value
                for value in self.model.graph.outputs
                if value not in outputs and self._answers_in(value, start, end, last)
            ]
            crossing = 0 if last else cuts[number].point.crossing_bytes
            stages.append(self._extract(before, outputs, names, crossing))
            before = after
        return tuple(stages)

    def _answers_in(self, value: ir.Value, start: int, end: int, last: bool) -> bool:
        """The graph's own output is made in this stage."""
        producer = value.producer()
        if producer is None or producer in self._light:
            return last
        return start <= self._place[producer] < end

    def _names(self, cuts: Sequence[Cut]) -> dict[ir.Value, str]:
        taken = {
            value.name or ""
            for node in self.model.graph.all_nodes()
            for value in (*node.inputs, *node.outputs)
            if value
        } | {value.name or "" for value in self.model.graph.inputs}
        prefix = PASSED_ON
        while any(name.startswith(prefix) for name in taken):
            prefix = f"X_{prefix}"
        values = sorted({value for cut in cuts for value in cut.values}, key=self._made_at)
        own = {value for value in values if value.is_graph_output()}
        return {
            value: (value.name or "") if value in own else f"{prefix}{number}"
            for number, value in enumerate(values)
        }

    def _extract(
        self,
        before: Sequence[ir.Value],
        outputs: Sequence[ir.Value],
        names: Mapping[ir.Value, str],
        crossing: int,
    ) -> StageGraph:
        import onnx_ir as ir

        own = [value for value in self.model.graph.inputs if not value.is_initializer()]
        graph = ir.convenience.extract(self.model.graph, [*own, *before], outputs)
        specs_in: list[InputSpec] = []
        for value, source in zip(tuple(graph.inputs), (*own, *before), strict=True):
            if not value.uses() and not value.is_graph_output():
                graph.inputs.remove(value)
                continue
            specs_in.append(
                self._inputs[source.name or ""] if source in own else self._label(value, source, names)
            )
        specs_out = [self._label(v, source, names) for v, source in zip(graph.outputs, outputs, strict=True)]
        model = ir.Model(graph, ir_version=self.model.ir_version, functions=[*self.model.functions.values()])
        return StageGraph(model, tuple(specs_in), tuple(specs_out), crossing, _weights_bytes(graph))

    def _label(self, value: ir.Value, source: ir.Value, names: Mapping[ir.Value, str]) -> InputSpec:
        """Give a stage's input or output its name and shape."""
        import onnx_ir as ir

        tensor = self._tensor[source]
        value.name = names.get(source, source.name)
        value.shape = ir.Shape(["batch", *tensor.dims])
        if value.dtype is None:
            numbers = {triton: onnx for onnx, triton in DATATYPES.items()}
            value.dtype = ir.DataType[numbers[tensor.datatype]]
        return InputSpec(name=value.name or "", datatype=tensor.datatype, dims=tensor.dims)


class _Passing:
    """What goes across a cut in the place of a value that is read behind it."""

    def __init__(self, light: set[ir.Node], tensors: dict[ir.Value, MadeTensor]) -> None:
        self.tensors = tensors
        self._light = light
        self._known: dict[ir.Value, frozenset[ir.Value] | None] = {}

    def bytes_of(self, value: ir.Value) -> int:
        """Of one row."""
        tensor = self.tensors[value]
        return prod(tensor.dims) * tensor.item_bytes

    def across(self, live: Iterable[ir.Value]) -> frozenset[ir.Value] | None:
        """The values that have to cross; None where that is not possible."""
        found: frozenset[ir.Value] = frozenset()
        for value in live:
            sources = self._sources(value)
            if sources is None:
                return None
            found |= sources
        return found

    def _sources(self, value: ir.Value) -> frozenset[ir.Value] | None:
        if value not in self._known:
            self._known[value] = self._find(value)
        return self._known[value]

    def _find(self, value: ir.Value) -> frozenset[ir.Value] | None:
        producer = value.producer()
        if producer is None or producer in self._light:
            return frozenset()
        if value in self.tensors:
            return frozenset([value])
        return self.across(_read(producer)) if _is_cheap(producer) else None


def _bytes(initializer: ir.Value) -> int:
    return 0 if initializer.const_value is None else initializer.const_value.nbytes


def _weights_bytes(graph: ir.Graph) -> int:
    return sum(_bytes(value) for value in graph.initializers.values())


def _is_weight(initializer: ir.Value) -> bool:
    """No bias, no scalar, no shape: those have one dimension at most."""
    return initializer.const_value is not None and len(initializer.const_value.shape) > 1


def _read(node: ir.Node) -> list[ir.Value]:
    """The values of the main graph that a node reads, those that its inner graphs read included."""
    import onnx_ir as ir

    found = [value for value in node.inputs if value is not None]
    inner = [attribute for attribute in node.attributes.values() if isinstance(attribute, ir.Attr)]
    graphs = [a.as_graph() for a in inner if a.type == ir.AttributeType.GRAPH]
    graphs += [graph for a in inner if a.type == ir.AttributeType.GRAPHS for graph in a.as_graphs()]
    for graph in graphs:
        for deep in graph.all_nodes():
            found += [value for value in deep.inputs if value is not None and value.graph is node.graph]
    return found


def _is_cheap(node: ir.Node) -> bool:
    """May be run again in a later stage: little work and no weight."""
    if node.domain not in ("", "ai.onnx") or node.op_type not in LIGHT:
        return False
    tensors = [value.const_value for value in _read(node) if value.is_initializer()]
    return not any(t is not None and t.dtype.is_floating_point() and t.size > LIGHT_ELEMENTS for t in tensors)


def save_graph(
    model: ir.Model, weights_bytes: int, path: Path, limit_bytes: int = LIMIT_BYTES
) -> tuple[Path, ...]:
    """Write a graph; return the further files that it refers to, as `write_onnx` does.

    Weights that stand beside the graph that was cut are read while they are written, not before.
    """
    import onnx_ir as ir

    if weights_bytes < limit_bytes:
        ir.save(ir.external_data.load_to_model(model), path)
        return ()
    beside = path.with_suffix(".weights")
    ir.save(model, path, external_data=beside.name, size_threshold_bytes=LIGHT_ELEMENTS)
    return (beside,)
