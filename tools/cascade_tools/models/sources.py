"""Finds the model of a tier by what `cascade.yaml` says of its source."""

from __future__ import annotations

from cascade_tools.errors import UsageError
from cascade_tools.models.hf_source import check_folder, from_folder
from cascade_tools.models.onnx_source import OnnxSource
from cascade_tools.models.source import ExportableSource
from cascade_tools.models.timm_source import from_timm
from cascade_tools.models.torch_source import from_callable
from cascade_tools.spec import Cascade, Tier


def check_sources(cascade: Cascade) -> None:
    """See that the files of all tiers are there, before the first model runs for minutes.

    Raises:
        UsageError: one is missing, or is not what it should be.
    """
    for tier in cascade.tiers:
        field = _check_files(cascade, tier)
        if tier.source.hf is not None:
            check_folder(cascade.folder / tier.source.hf, field)


def load_source(cascade: Cascade, tier: Tier) -> ExportableSource:
    """Load the model of one tier that is not adopted.

    Raises:
        UsageError: a file is missing, or the callable, the weights or the graph do not fit.
        EnvironmentLacks: the package that brings the model is not installed.
    """
    source, folder, field = tier.source, cascade.folder, _check_files(cascade, tier)
    if source.onnx is not None:
        return OnnxSource(folder / source.onnx, field, source.output)
    if source.hf is not None:
        return from_folder(folder / source.hf, field, cascade.calibration.mask)
    if source.timm is not None:
        assert source.weights is not None
        return from_timm(source.timm, folder / source.weights, field)
    assert source.torch is not None
    return from_callable(folder, source.torch, source.weights, field)


def _check_files(cascade: Cascade, tier: Tier) -> str:
    """The field of a tier's source, whose files are there."""
    field = f"tiers.{tier.name}.source"
    for name in ("weights", "onnx"):
        path = getattr(tier.source, name)
        if path is not None and not (cascade.folder / path).is_file():
            raise UsageError(f"{field}.{name}: {cascade.folder / path}: no such file")
    return field
