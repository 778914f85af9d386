"""What `calibrate` found: the confidence head of every tier."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from cascade_tools.artifacts.base import Artifact, Value
from cascade_tools.runtime import head as runtime_head
from cascade_tools.spec import Gives

Labels = Literal["target", "giant"]  # what counts as right: the data's labels, or the last tier's answers
Signal = Literal["max_probability", "margin", "entropy"]


class ReliabilityBin(Value):
    """Mean confidence and share of right answers in one of ten bins of equal mass."""

    confidence: float
    right: float


class Reliability(Value):
    """How well a confidence tells the share of right answers, on rows that the head was not fitted on.

    Attributes:
        ece: over bins of equal mass; `ece_equal_width` over bins of equal width.
        nll: negative log-likelihood of the classes at the head's temperature.
        brier: mean square of confidence minus being right.
        auroc: of the confidence for being right; None if all rows agree.
        bins: for the diagram, by rising confidence.
    """

    ece: float
    ece_equal_width: float
    nll: float
    brier: float
    auroc: float | None
    bins: tuple[ReliabilityBin, ...] = ()


class CalibratedTier(Value):
    """The confidence head of one tier, and what it was worth."""

    tier: str
    method: Literal["temperature", "platt", "isotonic", "none"]
    signal: Signal
    temperature: float = Field(gt=0.0)
    curve: runtime_head.Curve | None = None
    accuracy: float
    before: Reliability
    after: Reliability


class InputSpec(Value):
    """One model input, without the batch dimension; `datatype` as requests write it, -1 for any size."""

    name: str
    datatype: str
    dims: tuple[int, ...]


class AdoptedInput(Value):
    """The cascade's input `name` is the model's `model_input`, which takes `datatype`."""

    name: str
    model_input: str
    datatype: str


class AdoptedCall(Value):
    """How a model that Triton already serves is asked; see `Adopted` in the runtime."""

    inputs: tuple[AdoptedInput, ...]
    output: str
    gives: Gives


class AdoptedTier(AdoptedCall):
    """An adopted tier as the server described it.

    Attributes:
        sha256: of the model's files, or of what the server says where these are not at hand.
        instances: that its owner gives it; None where the server does not say.
    """

    tier: str
    model: str
    sha256: str
    instances: int | None = Field(default=None, ge=1)


class AdoptedModel(AdoptedCall):
    """An adopted tier as the router asks it: with the head that it applies."""

    temperature: float = Field(gt=0.0)
    signal: Signal
    curve: runtime_head.Curve | None
    mask: str | None


class Calibration(Artifact):
    """One fitted head per tier, and the shape of the problem that running the models showed.

    Attributes:
        tokens: labels per row; None where a row has one.
        mask: the input that says which tokens count; None for all.
        adopted: the tiers whose models Triton already serves.
    """

    kind: Literal["calibration"] = "calibration"
    inputs: tuple[InputSpec, ...]
    classes: int
    tokens: int | None = None
    mask: str | None = None
    labels: Labels = "target"
    rows: dict[str, int]
    tiers: tuple[CalibratedTier, ...]
    adopted: tuple[AdoptedTier, ...] = ()

    def tier(self, name: str) -> CalibratedTier:
        """The head of the tier of this name."""
        return next(tier for tier in self.tiers if tier.tier == name)

    def adopted_tier(self, name: str) -> AdoptedTier | None:
        """The adopted tier of this name; None for one that is exported."""
        return next((tier for tier in self.adopted if tier.tier == name), None)
