"""An exported model against its source, on labelled rows: what the format changed."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cascade_tools.artifacts import Calibration, ExportedTier, HalfPrecision, IntArray
from cascade_tools.errors import CheckFailed
from cascade_tools.models.head import ServedOutputs
from cascade_tools.models.served import Session
from cascade_tools.models.source import Source
from cascade_tools.models.usercode import Rows, blame_user_code
from cascade_tools.planning.calibration import expected_calibration_error, is_right
from cascade_tools.runtime.head import apply_head
from cascade_tools.stages.calibrate import SCORES_FILE
from cascade_tools.store import Workspace, load_score_table

CONFIDENCE_TOLERANCE = 1e-4
# Where the two best classes are closer than this, either label is the same answer.
TIE = 1e-5
MOST_ROWS = 4096
# Policies are searched and promised on the source's answers, and each changed one may be a mistake. Above
# twice the default allowance of one point, the promise is no longer about this model.
LARGEST_CHANGE = 0.02


class Answers(NamedTuple):
    """Of both, by row: labels [rows] or [rows, tokens], confidences [rows]; `clear` labels are no ties."""

    wanted: IntArray
    found: IntArray
    clear: npt.NDArray[np.bool_]
    confidence: npt.NDArray[np.float32]
    found_confidence: npt.NDArray[np.float32]

    @property
    def mismatches(self) -> int:
        """Labels that differ, ties apart."""
        return int(((self.wanted != self.found) & self.clear).sum())

    @property
    def error(self) -> float:
        """The largest difference of the confidences."""
        return float(np.abs(self.confidence - self.found_confidence).max())


def ask_both(session: Session, source: Source, served: ServedOutputs, rows: Rows, batch: int) -> Answers:
    """The answers of an exported model and of its source to the same rows.

    Raises:
        UsageError: the exported model does not run.
    """
    parts = [
        _ask(session, source, served, rows.take(slice(start, start + batch)))
        for start in range(0, len(rows), batch)
    ]
    return Answers(*(np.concatenate(values) for values in zip(*parts, strict=True)))


def _ask(session: Session, source: Source, served: ServedOutputs, rows: Rows) -> Answers:
    head = served.head
    with blame_user_code(f"tiers.{head.tier}: running the exported model"):
        label, confidence = session.run(["LABEL", "CONFIDENCE"], rows.inputs)
    mask = None if served.mask is None else rows.inputs[served.mask] != 0
    wanted = apply_head(source.logits(rows.inputs), head.temperature, head.signal, head.curve, mask)
    top = np.sort(wanted.probabilities, axis=-1)
    clear = np.ones(wanted.label.shape, bool)
    if top.shape[-1] > 1:
        clear = top[..., -1] - top[..., -2] > TIE
    found = label.reshape(wanted.label.shape)
    return Answers(wanted.label, found, clear, wanted.confidence, confidence.ravel())


def require_parity(tier: str, answers: Answers) -> None:
    """See that a model in float32 answers as its source.

    Raises:
        CheckFailed: it does not; says by how much.
    """
    if answers.mismatches or not answers.error <= CONFIDENCE_TOLERANCE:  # NaN is no parity
        raise CheckFailed(
            f"tier {tier}: the exported graph differs from its source: {answers.mismatches} of "
            f"{len(answers.wanted)} labels, confidence by up to {answers.error:.2e}",
            "look for operators that behave differently in ONNX, such as data-dependent branches",
        )


def labelled_rows(work: Workspace, calibration: Calibration, rows: Rows) -> tuple[Rows, IntArray | None]:
    """Validation rows that no head was fitted on, evenly spread, and their targets.

    The targets are None where the last tier labelled tokens: the score table only numbers those.
    """
    table = load_score_table(work.path(SCORES_FILE), f"run `{work.command('calibrate')}`", calibration.labels)
    held_out = np.flatnonzero(table.split != "fit")
    index = held_out[:: -(-len(held_out) // MOST_ROWS)]
    chosen = rows.take(index)
    if calibration.labels == "target":
        return chosen, chosen.target
    return chosen, table.target[index] if calibration.tokens is None else None


def half_precision(tier: str, answers: Answers, target: IntArray | None) -> HalfPrecision:
    """What half precision changed.

    Raises:
        CheckFailed: more labels than a promise on the source's answers can bear.
    """
    broken = int((~np.isfinite(answers.found_confidence)).sum())
    if broken:
        raise CheckFailed(
            f"tier {tier}: in half precision {broken} of {len(answers.found_confidence)} rows get no number "
            "as confidence: values overflow",
            "take format onnx for this tier, or scale its activations below 65504",
        )
    differ = answers.wanted != answers.found
    changed = int((differ if differ.ndim == 1 else differ.any(axis=1)).sum())
    if changed > LARGEST_CHANGE * len(differ):
        raise CheckFailed(
            f"tier {tier}: in half precision {changed} of {len(differ)} rows get another label, "
            f"more than {LARGEST_CHANGE:.0%}: the model does not bear it",
            "take format onnx for this tier, or scale its activations below 65504",
        )
    return HalfPrecision(
        rows=len(differ),
        labels_changed=changed,
        ece_before=_ece(answers.confidence, answers.wanted, target),
        ece_after=_ece(answers.found_confidence, answers.found, target),
    )


def _ece(confidence: npt.NDArray[np.float32], label: IntArray, target: IntArray | None) -> float | None:
    return None if target is None else expected_calibration_error(confidence, is_right(label, target))


def describe_half(tier: ExportedTier) -> str:
    """One line on a tier in half precision, for people; empty for one in float32."""
    if tier.half is None:
        return ""
    half = tier.half
    ece = "" if half.ece_before is None else f", ECE {half.ece_before:.4f} > {half.ece_after:.4f}"
    return f"{tier.tier} in half precision: {half.labels_changed} of {half.rows} labels changed{ece}"
