"""The models of a ladder where they come from: run them for logits, and export them with their head."""

from __future__ import annotations

import contextlib
import io
import logging
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
from tritonclient.utils import triton_to_np_dtype

from cascade_tools.artifacts import CalibratedTier, InputSpec
from cascade_tools.errors import UsageError
from cascade_tools.runtime.head import NO_LABEL, SMALLEST_PROBABILITY
from cascade_tools.spec import Cascade, Tier
from cascade_tools.stages.usercode import blame_user_code, call

if TYPE_CHECKING:
    import onnx
    import torch

Inputs = dict[str, npt.NDArray[Any]]
OPSET = 20
PREFIX = "cascade_"  # of everything in a head that is joined to a graph


@dataclass(frozen=True)
class ServedOutputs:
    """What is fused onto a model: its head, the input that masks tokens, and whether PROBS are wanted."""

    head: CalibratedTier
    mask: str | None
    probabilities: bool


class Source(Protocol):
    """A tier's model as its owner made it."""

    def logits(self, inputs: Inputs) -> npt.NDArray[np.float32]:
        """Logits [rows, classes], or [rows, tokens, classes], of one batch."""


class ExportableSource(Source, Protocol):
    """One that becomes a graph with its head."""

    parameters: int

    def export(self, served: ServedOutputs, inputs: tuple[InputSpec, ...]) -> bytes:
        """An ONNX graph with outputs LABEL, CONFIDENCE and, where asked, PROBS."""


def load_source(cascade: Cascade, tier: Tier) -> ExportableSource:
    """Load the model of one tier that is not adopted.

    Raises:
        UsageError: a file is missing, or the callable, the weights or the graph do not fit.
    """
    field = f"tiers.{tier.name}.source"
    for name in ("weights", "onnx"):
        path = getattr(tier.source, name)
        if path is not None and not (cascade.folder / path).is_file():
            raise UsageError(f"{field}.{name}: {cascade.folder / path}: no such file")
    if tier.source.onnx is not None:
        return OnnxSource(cascade.folder / tier.source.onnx, field)
    assert tier.source.torch is not None
    return TorchSource(cascade.folder, tier.source.torch, tier.source.weights, field)


class TorchSource:
    """A `torch.nn.Module` from a callable, with its weights."""

    def __init__(self, folder: Path, reference: str, weights: str | None, field: str) -> None:
        import torch

        module = call(folder, reference, f"{field}.torch")
        if not isinstance(module, torch.nn.Module):
            raise UsageError(
                f"{field}.torch: {reference} returned {type(module).__name__}, not a torch.nn.Module"
            )
        if weights is not None:
            _load_weights(module, folder / weights, f"{field}.weights")
        self._module = module.eval()
        self._field = field
        self.parameters = sum(p.numel() for p in module.parameters())

    def logits(self, inputs: Inputs) -> npt.NDArray[np.float32]:
        """See `Source`."""
        import torch

        with torch.inference_mode(), blame_user_code(f"{self._field}: forward"):
            found = self._module(*[torch.from_numpy(values) for values in inputs.values()])
            return np.asarray(found.float().numpy(), np.float32)

    def export(self, served: ServedOutputs, inputs: tuple[InputSpec, ...]) -> bytes:
        """See `Source`."""
        names = [spec.name for spec in inputs]
        mask = None if served.mask is None else names.index(served.mask)
        return _export(_with_head(self._module, len(names), mask, served), inputs, self._field)


class OnnxSource:
    """An ONNX graph whose only output is the logits."""

    def __init__(self, path: Path, field: str) -> None:
        import onnx
        import onnxruntime

        try:
            self._model = onnx.load(path)
            onnx.checker.check_model(self._model)
            self._session = onnxruntime.InferenceSession(
                self._model.SerializeToString(), providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise UsageError(f"{field}.onnx: {path}: not a usable ONNX graph: {error}") from None
        outputs = [output.name for output in self._session.get_outputs()]
        if len(outputs) != 1:
            raise UsageError(f"{field}.onnx: must have one output, the logits; has {outputs}")
        kind = self._session.get_outputs()[0].type
        if kind != "tensor(float)":
            raise UsageError(
                f"{field}.onnx: its logits are {kind}, they must be tensor(float)", "add a Cast to FLOAT"
            )
        self._output = outputs[0]
        self._field = field
        self.parameters = sum(int(np.prod(tensor.dims)) for tensor in self._model.graph.initializer)

    def logits(self, inputs: Inputs) -> npt.NDArray[np.float32]:
        """See `Source`."""
        names = {entry.name for entry in self._session.get_inputs()}
        if names != set(inputs):
            raise UsageError(f"{self._field}.onnx: inputs {sorted(names)} but the data has {sorted(inputs)}")
        with blame_user_code(f"{self._field}: run"):
            return np.asarray(self._session.run(None, inputs)[0], np.float32)

    def export(self, served: ServedOutputs, inputs: tuple[InputSpec, ...]) -> bytes:
        """See `Source`."""
        import onnx
        import torch
        from onnx import compose, version_converter

        row = {spec.name: _zeros(spec, rows=1) for spec in inputs}
        logits = InputSpec(name="LOGITS", datatype="FP32", dims=self.logits(row).shape[1:])
        masks = tuple(spec for spec in inputs if spec.name == served.mask)
        head = _with_head(torch.nn.Identity(), 1, 1 if masks else None, served)
        head_graph = onnx.load_from_string(_export(head, (logits, *masks), self._field))
        with blame_user_code(f"{self._field}.onnx: joining the graph with its head"):
            own = next(o.version for o in self._model.opset_import if o.domain in ("", "ai.onnx"))
            opset = max(own, OPSET)
            bottom = version_converter.convert_version(self._model, opset)
            top = version_converter.convert_version(head_graph, opset)
            bottom.ir_version = top.ir_version = max(bottom.ir_version, top.ir_version)
            top = compose.add_prefix(top, PREFIX, rename_outputs=False)
            merged = compose.merge_models(bottom, top, io_map=[(self._output, f"{PREFIX}LOGITS")])
            for spec in masks:  # the model and its head read the same input
                _join_inputs(merged.graph, spec.name, f"{PREFIX}{spec.name}")
            graph: bytes = merged.SerializeToString()
        return graph


def _zeros(spec: InputSpec, rows: int) -> npt.NDArray[Any]:
    return np.zeros((rows, *spec.dims), triton_to_np_dtype(spec.datatype))


def _load_weights(module: torch.nn.Module, path: Path, field: str) -> None:
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
        module.load_state_dict(state)
    except (SafetensorError, RuntimeError, OSError, ValueError, EOFError, TypeError) as error:
        text = " ".join(str(error).split())[:300] or type(error).__name__
        raise UsageError(f"{field}: {path}: do not fit the module: {text}") from None
    except Exception as error:  # what unpickling refuses has no common class
        raise UsageError(
            f"{field}: {path}: not loadable as plain weights ({type(error).__name__})",
            "save a state_dict as .safetensors",
        ) from None


def _join_inputs(graph: onnx.GraphProto, kept: str, other: str) -> None:
    """Feed what reads the graph's input `other` from its input `kept`."""
    for node in graph.node:
        node.input[:] = [kept if name == other else name for name in node.input]
    graph.input.remove(next(entry for entry in graph.input if entry.name == other))


def _with_head(
    body: torch.nn.Module, body_inputs: int, mask: int | None, served: ServedOutputs
) -> torch.nn.Module:
    """The body, which reads the first inputs, with its head; `mask` is the position of the mask."""
    import torch

    head = served.head

    class WithHead(torch.nn.Module):
        """The model, then temperature, softmax, label and confidence; see `runtime/head.py`."""

        start: torch.Tensor
        length: torch.Tensor
        slope: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.body = body
            if head.curve is not None:
                at, confidence = (torch.tensor(v, dtype=torch.float64) for v in head.curve)
                self.low = float(confidence[0])
                self.register_buffer("start", at[:-1].float())
                self.register_buffer("length", (at[1:] - at[:-1]).float())
                self.register_buffer(
                    "slope", ((confidence[1:] - confidence[:-1]) / (at[1:] - at[:-1])).float()
                )

        def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
            logits = self.body(*inputs[:body_inputs]).float()
            probs = torch.softmax(logits / head.temperature, dim=-1)
            top = torch.topk(probs, min(2, probs.shape[-1]), dim=-1)
            confidence = top.values[..., :1]
            classes = probs.shape[-1]
            if head.signal == "margin" and classes > 1:
                confidence = confidence - top.values[..., 1:2]
            if head.signal == "entropy" and classes > 1:
                surprise = -torch.log(torch.clamp(probs, min=SMALLEST_PROBABILITY))
                confidence = 1.0 - (probs * surprise).sum(dim=-1, keepdim=True) / math.log(classes)
            # ArgMax, not TopK: of equal logits both must name the first class.
            label = torch.argmax(logits, dim=-1, keepdim=True)
            if logits.ndim == 3:
                label, confidence = label.squeeze(-1), confidence.squeeze(-1)
                if mask is not None:
                    counts = inputs[mask] != 0
                    label = torch.where(counts, label, NO_LABEL)
                    confidence = torch.where(counts, confidence, 1.0)
                confidence = torch.amin(confidence, dim=1, keepdim=True)
            if head.curve is not None:
                # Each piece adds its slope times how far the signal has come along it.
                along = torch.clamp(confidence - self.start, min=0.0)
                confidence = self.low + (torch.minimum(along, self.length) * self.slope).sum(-1, keepdim=True)
            return (label, confidence, probs) if served.probabilities else (label, confidence)

    return WithHead().eval()


def _export(module: torch.nn.Module, inputs: tuple[InputSpec, ...], field: str) -> bytes:
    import torch

    example = tuple(torch.from_numpy(_zeros(spec, rows=2)) for spec in inputs)
    batch = torch.export.Dim("batch", min=1, max=4096)
    names = ["LABEL", "CONFIDENCE", "PROBS"]
    with _quiet(), blame_user_code(f"{field}: export to ONNX"):
        program = torch.onnx.export(
            module,
            example,
            dynamo=True,
            opset_version=OPSET,
            input_names=[spec.name for spec in inputs],
            output_names=names[: len(module(*example))],
            dynamic_shapes={"inputs": tuple({0: batch} for _ in inputs)},
            verbose=False,
        )
        assert program is not None
        graph: bytes = program.model_proto.SerializeToString()
        return graph


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter speaks of its own internals; what matters comes back as an exception."""
    chatty = logging.getLogger("torch.onnx")
    level = chatty.level
    chatty.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        chatty.setLevel(level)
