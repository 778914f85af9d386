"""Exported graphs, run and held against their sources."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime

from cascade_tools.artifacts import CalibratedTier, InputSpec, Reliability
from cascade_tools.models.head import ServedOutputs
from cascade_tools.models.source import ExportableSource
from cascade_tools.models.usercode import DATATYPES
from cascade_tools.runtime.head import apply_head

from .helpers import Array

TEMPERATURE = 1.3


def head_of(signal: str, temperature: float) -> CalibratedTier:
    """A head that was fitted on nothing."""
    nothing = Reliability(ece=0.0, ece_equal_width=0.0, nll=0.0, brier=0.0, auroc=None)
    return CalibratedTier.model_validate(
        {
            "tier": "small",
            "method": "temperature",
            "signal": signal,
            "temperature": temperature,
            "accuracy": 1.0,
            "before": nothing,
            "after": nothing,
        }
    )


def run_graph(graph: onnx.ModelProto, inputs: dict[str, Array]) -> dict[str, Array]:
    """Outputs by name."""
    onnx.checker.check_model(graph)
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, inputs), strict=True))


def specs_of(inputs: dict[str, Array]) -> tuple[InputSpec, ...]:
    """What a cascade's calibration says of these inputs."""
    return tuple(
        InputSpec(name=name, datatype=DATATYPES[values.dtype.name], dims=values.shape[1:])
        for name, values in inputs.items()
    )


def assert_answers_as_its_source(
    source: ExportableSource, rows: Callable[[int], dict[str, Array]], mask: str | None = None
) -> None:
    """The exported graph gives the source's labels and confidences, at several batch sizes."""
    head = head_of("max_probability", TEMPERATURE)
    graph = source.export(ServedOutputs(head, mask, False), specs_of(rows(1)))
    for count in (1, 2, 33):
        inputs = rows(count)
        counts = None if mask is None else inputs[mask] != 0
        wanted = apply_head(source.logits(inputs), TEMPERATURE, "max_probability", mask=counts)
        assert np.ptp(wanted.confidence) > 1e-3 or count < 3  # or any graph would do
        found = run_graph(graph, inputs)
        assert found["LABEL"].reshape(wanted.label.shape).tolist() == wanted.label.tolist()
        np.testing.assert_allclose(found["CONFIDENCE"][:, 0], wanted.confidence, atol=1e-4)
