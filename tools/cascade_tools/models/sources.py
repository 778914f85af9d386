"""Finds the model of a tier by what `cascade.yaml` says of its source."""

from __future__ import annotations

from cascade_tools.errors import UsageError
from cascade_tools.models.hf_source import from_folder
from cascade_tools.models.onnx_source import OnnxSource
from cascade_tools.models.source import ExportableSource
from cascade_tools.models.timm_source import from_timm
from cascade_tools.models.torch_source import from_callable
from cascade_tools.spec import Cascade, Tier


def load_source(cascade: Cascade, tier: Tier) -> ExportableSource:
    """Load the model of one tier that is not adopted.

    Raises:
        UsageError: a file is missing, or the callable, the weights or the graph do not fit.
        EnvironmentLacks: the package that brings the model is not installed.
    """
    source, folder, field = tier.source, cascade.folder, f"tiers.{tier.name}.source"
    for name in ("weights", "onnx"):
        path = getattr(source, name)
        if path is not None and not (folder / path).is_file():
            raise UsageError(f"{field}.{name}: {folder / path}: no such file")
    if source.onnx is not None:
        return OnnxSource(folder / source.onnx, field, source.output)
    if source.hf is not None:
        return from_folder(folder / source.hf, field, cascade.calibration.mask)
    if source.timm is not None:
        assert source.weights is not None
        return from_timm(source.timm, folder / source.weights, field)
    assert source.torch is not None
    return from_callable(folder, source.torch, source.weights, field)
