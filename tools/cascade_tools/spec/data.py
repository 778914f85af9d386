"""The labelled rows, and what is made of them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from cascade_tools.spec.base import Spec
from cascade_tools.spec.names import CALLABLE, check_inside

NOT_INPUTS = ("target", "group")  # arrays of a data set that no model reads


class Data(Spec):
    """Labelled rows: an `.npz` in the cascade's folder or `module:callable` that returns the same arrays.

    The arrays are one per model input (first dimension: rows), `target` int [rows], and optionally
    `group` int [rows] (rows of one source, which stay together in every split). With `labels: giant` the last
    tier's answers stand for the truth in the validation rows, which then need no `target`. Only where no tier
    has a model there may be no `validation`.
    """

    validation: str = ""
    test: str | None = None
    labels: Literal["target", "giant"] = "target"

    @model_validator(mode="after")
    def _known_forms(self) -> Data:
        for field in ("validation", "test"):
            reference = getattr(self, field)
            if field not in self.model_fields_set or reference is None:
                continue
            if reference.endswith(".npz"):
                try:
                    check_inside(reference)
                except ValueError as error:
                    raise ValueError(f"{field}: {error}") from None
            elif not CALLABLE.fullmatch(reference):
                raise ValueError(f"{field}: must be a path to an .npz file or 'module:callable'")
        return self


class Splits(Spec):
    """What the validation rows are used for; groups stay whole, classes are spread evenly.

    The promise costs less the more rows verify it, and a temperature needs few rows.
    """

    fit: float = Field(default=0.15, gt=0.0, lt=1.0)
    search: float = Field(default=0.35, gt=0.0, lt=1.0)
    verify: float = Field(default=0.5, gt=0.0, lt=1.0)


class CalibrationChoice(Spec):
    """How confidence is made from logits.

    Attributes:
        method: `temperature` fits one number per tier by the negative log-likelihood; `platt` a sigmoid and
            `isotonic` a rising curve of the signal; `none` takes the model as it is; `auto` the best of them
            per tier, by the cross-validated likelihood of being right.
        signal: the largest probability, the top-1 minus top-2 margin (CascadeServe), or one minus the
            normalised entropy. Of models that label tokens, the smallest over the tokens.
        mask: the input [rows, tokens] that is not 0 where a token counts; without it all do.
        splits: shares of the validation groups for fitting heads, searching policies and verifying the
            promise.
    """

    method: Literal["temperature", "platt", "isotonic", "none", "auto"] = "temperature"
    signal: Literal["max_probability", "margin", "entropy"] = "max_probability"
    mask: str | None = None
    splits: Splits = Splits()
