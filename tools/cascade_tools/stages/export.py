"""Exports every tier with its fitted head to its format and checks the result against its source."""

from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from cascade_tools.artifacts import Calibration, Exported, ExportedTier
from cascade_tools.errors import UsageError
from cascade_tools.machine.facts import onnxruntime_version
from cascade_tools.models.head import ServedOutputs
from cascade_tools.models.served import open_exported
from cascade_tools.models.source import ExportableSource
from cascade_tools.models.sources import load_source
from cascade_tools.models.to_half import export_half
from cascade_tools.models.to_pt2 import write_pt2
from cascade_tools.models.to_tensorrt import build_plan, require_tensorrt
from cascade_tools.models.usercode import Rows, blame_user_code, load_rows
from cascade_tools.models.write_onnx import write_onnx
from cascade_tools.spec import Format, Tier
from cascade_tools.stages.calibrate import CALIBRATION_FILE
from cascade_tools.stages.cut import cut_into_stages
from cascade_tools.stages.exported_files import EXPORTED_FILE, FOLDER, put_in_place, recorded, staged
from cascade_tools.stages.precision import (
    ask_both,
    half_precision,
    labelled_rows,
    require_parity,
)
from cascade_tools.stages.progress import Reporter
from cascade_tools.store import Workspace, readable_disk_errors

__all__ = ["EXPORTED_FILE", "export"]

PARITY_ROWS = 64
IN_HALF: tuple[Format, ...] = ("onnx_fp16", "tensorrt")
SUFFIX: dict[Format, str] = {"onnx": "onnx", "onnx_fp16": "onnx", "pt2": "pt2", "tensorrt": "plan"}
TIMING_CACHE = "timing.cache"


def export(work: Workspace, made_from: dict[str, str], report: Reporter) -> None:
    """Write `export/<tier>.<format's suffix>` and `exported.json`; adopted tiers stay as they are.

    All of it or, if one tier fails, nothing but TensorRT's timing cache.

    Raises:
        UsageError: a model does not export.
        CheckFailed: an exported model answers differently from its source.
        EnvironmentLacks: a format needs a GPU or a package that is not here.
    """
    cascade = work.cascade
    calibration = work.load(CALIBRATION_FILE, Calibration, "calibrate")
    if calibration.tokens is not None and cascade.serving.probabilities:
        raise UsageError(
            "serving.probabilities: models that label tokens return labels alone", "set it to false"
        )
    tiers = [tier for tier in cascade.tiers if tier.source.triton is None]
    if any(tier.format == "tensorrt" for tier in tiers):
        require_tensorrt()  # before the others are exported
    rows = load_rows(cascade, "validation")
    exported = []
    with readable_disk_errors(work.build), staged(work) as folder:
        with report.task("  exporting, and comparing with the sources") as advance:
            for done, tier in enumerate(tiers):
                exported.append(_export_tier(work, tier, calibration, rows, folder))
                advance(done + 1, len(tiers))
        packages = ("torch", "onnx", "onnxscript")
        made = Exported(
            cascade=cascade.name,
            made_from=made_from,
            tiers=tuple(exported),
            environment={
                "python": platform.python_version(),
                "onnxruntime": onnxruntime_version(),
                **{name: version(name) for name in packages},
            },
        )
        put_in_place(work, folder, made)


def _export_tier(
    work: Workspace, tier: Tier, calibration: Calibration, rows: Rows, folder: Path
) -> ExportedTier:
    serving = work.cascade.serving
    source = load_source(work.cascade, tier)
    served = ServedOutputs(calibration.tier(tier.name), calibration.mask, serving.probabilities)
    path = folder / f"{tier.name}.{SUFFIX[tier.format]}"
    written = _write(work, tier, source, served, calibration, path)
    with blame_user_code(f"tiers.{tier.name}: opening the exported model", "take another format"):
        session = open_exported(path, tier.format)
    held_out, target = labelled_rows(work, calibration, rows)
    judged = held_out.take(slice(None, None, max(1, len(held_out) // PARITY_ROWS)))
    answers = ask_both(session, source, served, judged, serving.max_batch_size)
    half = None
    if tier.format in IN_HALF:
        with blame_user_code(f"tiers.{tier.name}: opening the model in half precision", "take format onnx"):
            judge = session if written.judged is None else open_exported(written.judged, "onnx")
        found = ask_both(judge, source, served, held_out, serving.max_batch_size)
        half = half_precision(tier.name, found, target)
    else:
        require_parity(tier.name, answers)
    main = recorded(path)
    made = ExportedTier(
        tier=tier.name,
        format=tier.format,
        file=main.file,
        sha256=main.sha256,
        beside=tuple(recorded(other) for other in written.beside),
        parameters=source.parameters,
        parity_rows=len(judged),
        parity_label_mismatches=answers.mismatches,
        parity_confidence_error=answers.error,
        half=half,
    )
    return cut_into_stages(work, tier, made, calibration.inputs, rows, path)


class _Written(NamedTuple):
    """Files beside the model, and the graph that is judged in its place, if any."""

    beside: tuple[Path, ...] = ()
    judged: Path | None = None


def _write(
    work: Workspace,
    tier: Tier,
    source: ExportableSource,
    served: ServedOutputs,
    calibration: Calibration,
    path: Path,
) -> _Written:
    """Write a tier in its format."""
    field = f"tiers.{tier.name}.source"
    if tier.format == "pt2":
        write_pt2(source.export_program(served, calibration.inputs), path)
        return _Written()
    if tier.format == "onnx":
        return _Written(write_onnx(source.export(served, calibration.inputs), path))
    tokens = () if calibration.tokens is None else (calibration.tokens,)
    dims = (*tokens, calibration.classes)
    graphs = export_half(source, dims, served, calibration.inputs, field)
    if tier.format == "onnx_fp16":
        judged = path.with_suffix(".judged.onnx")
        write_onnx(graphs.judged, judged)
        return _Written(write_onnx(graphs.served, path), judged)
    onnx_path = path.with_suffix(".onnx")
    write_onnx(graphs.served, onnx_path)
    cache = work.path(FOLDER) / TIMING_CACHE
    most = work.cascade.serving.max_batch_size
    record = build_plan(onnx_path, path, calibration.inputs, most, cache, field)
    record_path = path.with_name(f"{tier.name}.plan.json")
    record_path.write_text(record.model_dump_json(indent=1) + "\n")
    return _Written((record_path,))
