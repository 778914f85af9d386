"""Runs the source models once on the labelled rows and fits each tier's confidence head."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cascade_tools.artifacts import CalibratedTier, Calibration, Reliability, ScoreTable
from cascade_tools.errors import ArtifactError, UsageError
from cascade_tools.planning.calibration import Head, best_head, fit_head, reliability
from cascade_tools.planning.splits import split_rows
from cascade_tools.spec import Cascade
from cascade_tools.stages.progress import Advance, Reporter
from cascade_tools.stages.sources import Source, load_source
from cascade_tools.stages.usercode import Rows, load_rows
from cascade_tools.store import Workspace, load_npz, readable_disk_errors, save_score_table

CALIBRATION_FILE = "calibration.json"
SCORES_FILE = "scores.npz"
BATCH = 32
SPLIT_SEED = 0
PARTS = ("fit", "search", "verify")

Logits = npt.NDArray[np.float32]


def calibrate(work: Workspace, made_from: dict[str, str], report: Reporter) -> None:
    """Write `calibration.json` and `scores.npz`.

    Raises:
        UsageError: a tier's outputs do not fit, are not finite, or a label is out of range.
    """
    cascade = work.cascade
    rows = load_rows(cascade, "validation")
    logits = {}
    for tier in cascade.tiers:
        source = load_source(cascade, tier)
        with report.task(f"  {tier.name}: {len(rows)} rows through the source model") as advance:
            logits[tier.name] = run_source(source, rows, advance)
    classes = check_logits(cascade, logits, rows)
    if cascade.data.labels == "giant":
        rows = replace(rows, target=logits[cascade.tier_names[-1]].argmax(axis=1))
    split = split_rows(rows.target, rows.group, cascade.calibration.splits.model_dump(), SPLIT_SEED)
    if len(set(split.tolist())) < len(PARTS):
        raise UsageError(
            f"data.validation: {len(rows)} rows in {len(np.unique(rows.group))} group(s); heads are fitted, "
            "policies searched and promises verified on different groups, so there must be at least three"
        )
    fit = split == "fit"
    heads = [_fit(cascade, name, values, rows, fit) for name, values in logits.items()]
    scores = [head_of(tier)(logits[tier.tier]) for tier in heads]
    table = ScoreTable(
        tiers=cascade.tier_names,
        confidence=np.stack([score.confidence for score in scores], axis=1),
        label=np.stack([score.label for score in scores], axis=1),
        target=rows.target,
        group=rows.group,
        split=split,
    )
    calibration = Calibration(
        cascade=cascade.name,
        made_from=made_from,
        inputs=rows.specs(),
        classes=classes,
        labels=cascade.data.labels,
        rows={part: int((split == part).sum()) for part in PARTS},
        tiers=tuple(heads),
    )
    with readable_disk_errors(work.build):
        save_score_table(work.path(SCORES_FILE), table)
        work.save(CALIBRATION_FILE, calibration)


def check_on(work: Workspace, path: Path) -> dict[str, Reliability]:
    """The fitted heads on other rows: an .npz with `logits_<tier>` [rows, classes] and `target` [rows].

    Raises:
        ArtifactError: not such a file, or it does not fit the calibration; names the array.
    """
    calibration = work.load(CALIBRATION_FILE, Calibration, "calibrate")
    arrays = load_npz(path)
    found = {}
    for tier in calibration.tiers:
        name = f"logits_{tier.tier}"
        for wanted in (name, "target"):
            if wanted not in arrays:
                raise ArtifactError(f"{path}: no array {wanted!r}")
        logits, target = arrays[name], arrays["target"]
        if target.ndim != 1 or target.dtype.kind not in "iu" or logits.dtype.kind != "f":
            raise ArtifactError(f"{path}: {name} must be float [rows, classes] and target int [rows]")
        if logits.shape != (len(target), calibration.classes) or not len(target):
            wanted_shape = [len(target), calibration.classes]
            raise ArtifactError(f"{path}: {name} must have shape {wanted_shape}, has {list(logits.shape)}")
        if not np.isfinite(logits).all() or target.min() < 0 or target.max() >= calibration.classes:
            raise ArtifactError(
                f"{path}: {name} must be finite and target within 0..{calibration.classes - 1}"
            )
        found[tier.tier] = reliability(logits, target, head_of(tier))
    return found


def run_source(source: Source, rows: Rows, advance: Advance) -> Logits:
    """Logits [rows, classes] of all rows, two batches at a time, in order."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    starts = range(0, len(rows), BATCH)
    try:
        with ThreadPoolExecutor(max_workers=max(1, threads)) as pool:
            parts = []
            for done, part in enumerate(
                pool.map(lambda s: source.logits(rows.take(slice(s, s + BATCH)).inputs), starts)
            ):
                parts.append(part)
                advance(done + 1, len(starts))
    finally:
        torch.set_num_threads(threads)
    if any(part.ndim != 2 for part in parts):
        return parts[0]
    return np.concatenate(parts)


def check_logits(cascade: Cascade, logits: dict[str, Logits], rows: Rows) -> int:
    """The number of classes, if all tiers agree on it and all values are finite.

    Raises:
        UsageError: names the tier or the field that does not fit.
    """
    classes = None
    for name, values in logits.items():
        if values.ndim != 2 or len(values) != len(rows) or values.shape[1] < 1:
            raise UsageError(f"tiers.{name}: must give logits [rows, classes], gave {list(values.shape)}")
        classes = classes or values.shape[1]
        if values.shape[1] != classes:
            raise UsageError(
                f"tiers.{name}: gives {values.shape[1]} classes, tier {cascade.tiers[0].name} gives {classes}"
            )
        broken = int((~np.isfinite(values)).any(axis=1).sum())
        if broken:
            raise UsageError(
                f"tiers.{name}: {broken} of {len(rows)} rows of data.validation give NaN or infinite logits",
                "mend the model or its input scaling; a cascade cannot be calibrated on these",
            )
    assert classes is not None
    low, high = int(rows.target.min()), int(rows.target.max())
    if low < 0 or high >= classes:
        raise UsageError(
            f"data.validation: target has labels {low} to {high}, "
            f"but the tiers have {classes} classes: 0 to {classes - 1}"
        )
    return classes


def head_of(tier: CalibratedTier) -> Head:
    """The head of an artifact, to apply."""
    return Head(tier.method, tier.signal, tier.temperature, tier.curve)


def _fit(
    cascade: Cascade, tier: str, logits: Logits, rows: Rows, fit: npt.NDArray[np.bool_]
) -> CalibratedTier:
    choice = cascade.calibration
    known, target = logits[fit], rows.target[fit]
    if choice.method == "auto":
        head = best_head(known, target, rows.group[fit], choice.signal)
    else:
        head = fit_head(known, target, choice.method, choice.signal)
    held_out, held_target = logits[~fit], rows.target[~fit]
    return CalibratedTier(
        tier=tier,
        method=head.method,
        signal=head.signal,
        temperature=head.temperature,
        curve=head.curve,
        accuracy=float((held_out.argmax(axis=1) == held_target).mean()),
        before=reliability(held_out, held_target, Head("none", choice.signal)),
        after=reliability(held_out, held_target, head),
    )
