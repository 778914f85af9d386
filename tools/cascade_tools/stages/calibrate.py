"""Runs the source models once on the labelled rows and fits each tier's confidence head."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cascade_tools.artifacts import (
    AdoptedTier,
    CalibratedTier,
    Calibration,
    InputSpec,
    Reliability,
    ScoreTable,
)
from cascade_tools.errors import ArtifactError, UsageError
from cascade_tools.models.source import Source
from cascade_tools.models.sources import check_sources, load_source
from cascade_tools.models.usercode import Rows, load_rows
from cascade_tools.planning.calibration import (
    Head,
    best_head,
    fit_head,
    is_right,
    mask_of,
    reliability,
)
from cascade_tools.planning.splits import split_rows
from cascade_tools.runtime.head import NO_LABEL
from cascade_tools.serving.adopted import adopted_models
from cascade_tools.spec import Cascade
from cascade_tools.stages.adopted import AdoptedSource, adopt, looks_like_probabilities, served_inputs
from cascade_tools.stages.progress import Advance, Reporter
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
    check_sources(cascade)
    rows = load_rows(cascade, "validation")
    if cascade.data.labels == "target":
        _mask(cascade, rows)  # before the models run for minutes
    with _sources(cascade, rows, report) as found:
        sources, adopted, inputs = found
        logits = {}
        for tier in cascade.tiers:
            source = sources.get(tier.name) or load_source(cascade, tier)
            with report.task(f"  {tier.name}: {len(rows)} rows through the source model") as advance:
                logits[tier.name] = run_source(source, rows, advance)
    _warn_of_probabilities(cascade, logits, report)
    if cascade.data.labels == "giant":
        rows = _labelled_by(logits[cascade.tier_names[-1]], cascade, rows)
    classes = check_logits(cascade, logits, rows)
    mask = _mask(cascade, rows)
    target = rows.target if mask is None else np.zeros(len(rows), np.int64)
    split = split_rows(target, rows.group, cascade.calibration.splits.model_dump(), SPLIT_SEED)
    if len(set(split.tolist())) < len(PARTS):
        raise UsageError(
            f"data.validation: {len(rows)} rows in {len(np.unique(rows.group))} group(s); heads are fitted, "
            "policies searched and promises verified on different groups, so there must be at least three"
        )
    fit = split == "fit"
    heads = [_fit(cascade, name, values, rows, fit) for name, values in logits.items()]
    scores = [head_of(tier)(logits[tier.tier], mask) for tier in heads]
    label, target = _numbered([score.label for score in scores], rows.target)
    table = ScoreTable(
        tiers=cascade.tier_names,
        confidence=np.stack([score.confidence for score in scores], axis=1),
        label=label,
        target=target,
        group=rows.group,
        split=split,
    )
    calibration = Calibration(
        cascade=cascade.name,
        made_from=made_from,
        # Tokens are of a fixed number.
        inputs=inputs if mask is None else rows.specs(),
        classes=classes,
        tokens=None if mask is None else rows.target.shape[1],
        mask=cascade.calibration.mask,
        labels=cascade.data.labels,
        rows={part: int((split == part).sum()) for part in PARTS},
        tiers=tuple(heads),
        adopted=adopted,
    )
    with readable_disk_errors(work.build):
        save_score_table(work.path(SCORES_FILE), table)
        work.save(CALIBRATION_FILE, calibration)


@contextmanager
def _sources(
    cascade: Cascade, rows: Rows, report: Reporter
) -> Iterator[tuple[dict[str, Source], tuple[AdoptedTier, ...], tuple[InputSpec, ...]]]:
    """The adopted tiers, ready to be run: by name, as their server described them; and the inputs.

    Raises:
        UsageError: an adopted model does not fit, or a tier cannot read an input.
        CascadeError: the server of the adopted models does not start or does not answer.
    """
    texts = [name for name, values in rows.inputs.items() if values.dtype.kind == "O"]
    exported = [tier.name for tier in cascade.tiers if tier.source.triton is None]
    if texts and exported:
        raise UsageError(
            f"tiers.{exported[0]}.source: a model that is exported reads every input, and none reads texts, "
            f"which {texts[0]} of data.validation holds",
            "leave that input out, or serve the model with Triton and adopt it",
        )
    if not cascade.adopted:
        yield {}, (), rows.specs()
        return
    report.say(f"  asking Triton for {', '.join(tier.name for tier in cascade.adopted)}")
    lead = rows.target.shape[1:] if cascade.data.labels == "target" else None
    with adopted_models(cascade) as models:
        calls = {tier.name: adopt(cascade, tier, models, rows) for tier in cascade.adopted}
        configs = {name: models.config(call.model) for name, call in calls.items()}
        sources: dict[str, Source] = {
            name: AdoptedSource(call, models, configs[name].max_batch_size or BATCH, lead)
            for name, call in calls.items()
        }
        described = {name: (call, configs[name]) for name, call in calls.items()}
        yield sources, tuple(calls.values()), served_inputs(cascade, rows.specs(), described)


def _warn_of_probabilities(cascade: Cascade, logits: dict[str, Logits], report: Reporter) -> None:
    for tier in cascade.adopted:
        if tier.source.gives == "logits" and looks_like_probabilities(logits[tier.name]):
            report.say(
                f"  warning: tiers.{tier.name}: every row of its logits sums to 1; if they are "
                "probabilities, say `gives: probabilities`"
            )


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
        dims = 1 if calibration.tokens is None else 2
        if target.ndim != dims or target.dtype.kind not in "iu" or logits.dtype.kind != "f":
            tokens = "" if dims == 1 else "tokens, "
            raise ArtifactError(
                f"{path}: {name} must be float [rows, {tokens}classes] and target int "
                + ("[rows]" if dims == 1 else "[rows, tokens]")
            )
        if logits.shape != (*target.shape, calibration.classes) or not target.size:
            wanted_shape = [*target.shape, calibration.classes]
            raise ArtifactError(f"{path}: {name} must have shape {wanted_shape}, has {list(logits.shape)}")
        if not np.isfinite(logits).all() or not _in_range(target, calibration.classes):
            raise ArtifactError(
                f"{path}: {name} must be finite and target within 0..{calibration.classes - 1}"
            )
        found[tier.tier] = reliability(logits, target, head_of(tier))
    return found


def run_source(source: Source, rows: Rows, advance: Advance) -> Logits:
    """Logits [rows, classes], or [rows, tokens, classes], of all rows, two batches at a time, in order."""
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
    if any(part.ndim < 2 or part.shape[1:] != parts[0].shape[1:] for part in parts):
        return parts[0]  # of the wrong shape, as the check of the logits will say
    return np.concatenate(parts)


def check_logits(cascade: Cascade, logits: dict[str, Logits], rows: Rows) -> int:
    """The number of classes, if all tiers agree on it and all values are finite.

    Raises:
        UsageError: names the tier or the field that does not fit.
    """
    classes = None
    for name, values in logits.items():
        if values.shape[:-1] != rows.target.shape or values.shape[-1] < 1:
            wanted = "[rows, classes]"
            if rows.target.ndim == 2:
                wanted = f"[rows, {rows.target.shape[1]} tokens, classes], as the target has,"
            raise UsageError(
                f"tiers.{name}: must give logits {wanted} gave {list(values.shape)}",
                "for models that label tokens, target must be [rows, tokens]" if values.ndim == 3 else "",
            )
        classes = classes or values.shape[-1]
        if values.shape[-1] != classes:
            raise UsageError(
                f"tiers.{name}: gives {values.shape[-1]} classes, "
                f"tier {cascade.tiers[0].name} gives {classes}"
            )
        broken = int((~np.isfinite(values)).reshape(len(values), -1).any(axis=1).sum())
        if broken:
            raise UsageError(
                f"tiers.{name}: {broken} of {len(rows)} rows of data.validation give NaN or infinite logits",
                "mend the model or its input scaling; a cascade cannot be calibrated on these",
            )
    assert classes is not None
    low, high = int(rows.target.min()), int(rows.target.max())
    if not _in_range(rows.target, classes):
        raise UsageError(
            f"data.validation: target has labels {low} to {high}, "
            f"but the tiers have {classes} classes: 0 to {classes - 1}",
            "a token that does not count has -1" if rows.target.ndim == 2 else "",
        )
    return classes


def _in_range(target: npt.NDArray[np.int64], classes: int) -> bool:
    """All targets are classes; a token may have none."""
    lowest = 0 if target.ndim == 1 else NO_LABEL
    return bool(target.min() >= lowest and target.max() < classes)


def _mask(cascade: Cascade, rows: Rows) -> npt.NDArray[np.bool_] | None:
    """Which tokens count, [rows, tokens]; None where rows are labelled.

    Raises:
        UsageError: the input `calibration.mask` and the target do not agree.
    """
    name, mask = cascade.calibration.mask, mask_of(rows.target)
    if name is None:
        if mask is not None and not mask.all():
            raise UsageError(
                "data.validation: target is -1 for some tokens, so the served model must be told which count",
                "name the input that is 0 there as `calibration.mask`",
            )
        return mask
    if mask is None:
        raise UsageError("calibration.mask: only tokens have a mask, and target is [rows]")
    if not np.array_equal(_input_mask(cascade, rows), mask):
        raise UsageError(f"data.validation: {name} must be 0 exactly where target is -1")
    return mask


def _input_mask(cascade: Cascade, rows: Rows) -> npt.NDArray[np.bool_]:
    name = cascade.calibration.mask
    if name not in rows.inputs or rows.inputs[name].ndim != 2:
        raise UsageError(f"calibration.mask: {name} must be an input [rows, tokens] of data.validation")
    mask: npt.NDArray[np.bool_] = rows.inputs[name] != 0
    return mask


def _labelled_by(logits: Logits, cascade: Cascade, rows: Rows) -> Rows:
    """The rows with a tier's answers as their target; unchanged where these are none."""
    if logits.ndim not in (2, 3) or len(logits) != len(rows):
        return rows
    target = logits.argmax(axis=-1).astype(np.int64)
    if target.ndim == 2 and cascade.calibration.mask is not None:
        mask = _input_mask(cascade, rows)
        if mask.shape != target.shape:
            raise UsageError(
                f"calibration.mask: {cascade.calibration.mask} is {list(mask.shape)}, "
                f"the models label {list(target.shape)} tokens"
            )
        target = np.where(mask, target, NO_LABEL)
    return replace(rows, target=target)


def _numbered(
    labels: list[npt.NDArray[np.int64]], target: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Label [rows, tiers] and target [rows]; of tokens, equal sequences have equal numbers."""
    if target.ndim == 1:
        return np.stack(labels, axis=1), target
    _, number = np.unique(np.concatenate([*labels, target]), axis=0, return_inverse=True)
    *columns, wanted = number.reshape(len(labels) + 1, len(target)).astype(np.int64)
    return np.stack(columns, axis=1), wanted


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
    label = head(held_out, mask_of(held_target)).label
    return CalibratedTier(
        tier=tier,
        method=head.method,
        signal=head.signal,
        temperature=head.temperature,
        curve=head.curve,
        accuracy=float(is_right(label, held_target).mean()),
        before=reliability(held_out, held_target, Head("none", choice.signal)),
        after=reliability(held_out, held_target, head),
    )
