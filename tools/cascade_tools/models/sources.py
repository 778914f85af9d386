"""Finds the model of a tier by what `cascade.yaml` says of its source."""

from __future__ import annotations

from cascade_tools.errors import UsageError
from cascade_tools.models.onnx_source import OnnxSource
from cascade_tools.models.source import ExportableSource
from cascade_tools.models.torch_source import TorchSource
from cascade_tools.spec import Cascade, Tier


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
