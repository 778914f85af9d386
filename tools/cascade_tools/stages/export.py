"""Exports every tier with its fitted head to ONNX and checks the graph against its source."""

from __future__ import annotations

import platform
from importlib.metadata import version

import numpy as np

from cascade_tools.artifacts import Calibration, Exported, ExportedTier
from cascade_tools.errors import CheckFailed, UsageError
from cascade_tools.models.head import ServedOutputs
from cascade_tools.models.source import Source
from cascade_tools.models.sources import load_source
from cascade_tools.models.usercode import Rows, blame_user_code, load_rows
from cascade_tools.runtime.head import apply_head
from cascade_tools.spec import Tier
from cascade_tools.stages.calibrate import CALIBRATION_FILE
from cascade_tools.stages.progress import Reporter
from cascade_tools.store import Workspace, digest_bytes, readable_disk_errors, write_atomically

EXPORTED_FILE = "exported.json"
PARITY_ROWS = 64
CONFIDENCE_TOLERANCE = 1e-4
# Where the two best classes are closer than this, either label is the same answer.
TIE = 1e-5


def export(work: Workspace, made_from: dict[str, str], report: Reporter) -> None:
    """Write `export/<tier>.onnx` and `exported.json`; adopted tiers stay as they are.

    Raises:
        UsageError: a model does not export.
        CheckFailed: a graph answers differently from its source.
    """
    cascade = work.cascade
    calibration = work.load(CALIBRATION_FILE, Calibration, "calibrate")
    if calibration.tokens is not None and cascade.serving.probabilities:
        raise UsageError(
            "serving.probabilities: models that label tokens return labels alone", "set it to false"
        )
    rows = load_rows(cascade, "validation")
    step = max(1, len(rows) // PARITY_ROWS)
    sample = rows.take(slice(None, None, step))
    exported = []
    tiers = [tier for tier in cascade.tiers if tier.source.triton is None]
    with report.task("  exporting to ONNX and comparing with the sources") as advance:
        for done, tier in enumerate(tiers):
            exported.append(_export_tier(work, tier, calibration, sample))
            advance(done + 1, len(tiers))
    packages = ("torch", "onnx", "onnxruntime", "onnxscript")
    with readable_disk_errors(work.build):
        work.save(
            EXPORTED_FILE,
            Exported(
                cascade=cascade.name,
                made_from=made_from,
                tiers=tuple(exported),
                environment={
                    "python": platform.python_version(),
                    **{name: version(name) for name in packages},
                },
            ),
        )


def _export_tier(work: Workspace, tier: Tier, calibration: Calibration, sample: Rows) -> ExportedTier:
    source = load_source(work.cascade, tier)
    head = calibration.tier(tier.name)
    served = ServedOutputs(head, calibration.mask, work.cascade.serving.probabilities)
    graph = source.export(served, calibration.inputs)
    mismatches, error = _compare(graph, source, served, sample)
    if mismatches or error > CONFIDENCE_TOLERANCE:
        raise CheckFailed(
            f"tier {tier.name}: the exported graph differs from its source: {mismatches} of "
            f"{len(sample)} labels, confidence by up to {error:.2e}",
            "look for operators that behave differently in ONNX, such as data-dependent branches",
        )
    file = f"export/{tier.name}.onnx"
    with readable_disk_errors(work.path(file)):
        write_atomically(work.path(file), graph)
    return ExportedTier(
        tier=tier.name,
        format="onnx",
        file=file,
        sha256=digest_bytes(graph),
        parameters=source.parameters,
        parity_rows=len(sample),
        parity_label_mismatches=mismatches,
        parity_confidence_error=error,
    )


def _compare(graph: bytes, source: Source, served: ServedOutputs, sample: Rows) -> tuple[int, float]:
    """Label mismatches (ties apart) and the largest difference of the confidences."""
    import onnxruntime

    head = served.head
    with blame_user_code(f"tiers.{head.tier}: running the exported graph"):
        session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
        label, confidence = session.run(["LABEL", "CONFIDENCE"], sample.inputs)
    mask = None if served.mask is None else sample.inputs[served.mask] != 0
    wanted = apply_head(source.logits(sample.inputs), head.temperature, head.signal, head.curve, mask)
    top = np.sort(wanted.probabilities, axis=-1)
    clear = np.ones(wanted.label.shape, bool)
    if top.shape[-1] > 1:
        clear = top[..., -1] - top[..., -2] > TIE
    mismatches = int(((label.reshape(wanted.label.shape) != wanted.label) & clear).sum())
    return mismatches, float(np.abs(confidence.ravel() - wanted.confidence).max())
