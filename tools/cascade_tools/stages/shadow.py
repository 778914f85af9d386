"""Reads a shadow log: rows that a tier labelled and the giant, too.

One JSON object a line: `time` (seconds since the epoch), `tier`, `confidence`, `label` (the tier's),
`giant_label`, `probability` (with which the row was sampled, in (0, 1]) and optionally `gear` (index of the
gear that served it, in the plan of that time). Labels of tokens are lists.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from cascade_tools.errors import ArtifactError, UsageError
from cascade_tools.planning.drift import SampledRows
from cascade_tools.spec import describe


def _label(value: object) -> object:
    """A whole number, or a list of them where tokens are labelled."""
    parts = value if isinstance(value, list) else [value]
    if not all(type(part) is int and part >= -1 for part in parts):
        raise ValueError("must be a class, or a list of them where tokens are labelled")
    return tuple(parts) if isinstance(value, list) else value


Label = Annotated[Any, BeforeValidator(_label)]


class ShadowRow(BaseModel):
    """One line of the log."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    time: float = Field(ge=0.0, allow_inf_nan=False)
    tier: str
    confidence: float = Field(ge=0.0, le=1.0)
    label: Label
    giant_label: Label
    probability: float = Field(gt=0.0, le=1.0)
    gear: int | None = Field(default=None, ge=0)


def read_shadow(
    path: Path, tiers: Sequence[str], smallest_probability: float | None = None
) -> dict[str, SampledRows]:
    """The log's rows by tier, in the order of time. A last line that is still being written is left out.

    Args:
        path: the log.
        tiers: of the ladder; rows of the last are left out.
        smallest_probability: with which a row may have been sampled; needed where the probabilities differ.

    Raises:
        UsageError: the probabilities differ and the smallest is not given, or one is below it.
        ArtifactError: missing, or a line does not fit; names the line and the field.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{path}: {getattr(error, 'strerror', None) or 'not UTF-8 text'}") from error
    lines = text.split("\n")[:-1]  # the router ends every line that is whole
    by_tier: dict[str, list[ShadowRow]] = defaultdict(list)
    for number, line in enumerate(lines, start=1):
        try:
            row = ShadowRow.model_validate_json(line)
        except ValidationError as error:
            raise ArtifactError(f"{path}, line {number}: {describe(error)}") from None
        if row.tier not in tiers:
            raise ArtifactError(
                f"{path}, line {number}: tier: {row.tier!r} is none of {', '.join(tiers)}",
                "give a log of this cascade",
            )
        by_tier[row.tier].append(row)
    seen = {row.probability for rows in by_tier.values() for row in rows}
    if smallest_probability is None:
        if len(seen) > 1:
            raise UsageError(
                f"{path}: probability: rows were sampled with {len(seen)} different ones",
                "give the smallest that the sampling may use as --smallest-probability",
            )
        smallest_probability = min(seen, default=1.0)
    elif seen and min(seen) < smallest_probability:
        raise UsageError(
            f"{path}: probability: a row was sampled with {min(seen):g}, below --smallest-probability "
            f"{smallest_probability:g}"
        )
    largest = 1.0 / smallest_probability
    return {tier: _arrays(rows, largest) for tier, rows in by_tier.items() if tier != tiers[-1]}


def _arrays(rows: list[ShadowRow], largest_weight: float) -> SampledRows:
    rows = sorted(rows, key=lambda row: row.time)
    return SampledRows(
        time=np.array([row.time for row in rows]),
        # As the router compares it: in single precision.
        confidence=np.array([row.confidence for row in rows], np.float32).astype(np.float64),
        agrees=np.array([row.label == row.giant_label for row in rows]),
        weight=np.array([1.0 / row.probability for row in rows]),
        gear=np.array([-1 if row.gear is None else row.gear for row in rows]),
        largest_weight=largest_weight,
    )
