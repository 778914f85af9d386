"""A tier that is a model as somebody else made it: its own input names and datatypes, and bare scores.

The models that a cascade exports have their confidence head in the graph. An adopted one has none, so the
router renames and casts the inputs, and applies the fitted head to what comes back.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from .batch import TierAnswer
from .head import SMALLEST_PROBABILITY, Curve, apply_head

Inputs = Mapping[str, npt.NDArray[Any]]
DATATYPES: dict[str, type[np.generic]] = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
    "BYTES": np.object_,
}
GIVES = ("logits", "probabilities")
SIGNALS = ("max_probability", "margin", "entropy")


@dataclass(frozen=True)
class AdoptedInput:
    """The cascade's input `name` is the model's `model_input`, which takes `datatype`."""

    name: str
    model_input: str
    datatype: str


@dataclass(frozen=True)
class Adopted:
    """How an adopted model is asked, and the head that its scores get.

    Attributes:
        output: the scores, [rows, classes] or [rows, tokens, classes]; dimensions of 1 may stand between.
        gives: `logits` or `probabilities`.
        tokens: labels per row; None for one.
        mask: the cascade's input [rows, tokens] that is not 0 where a token counts; None for all.
        temperature, signal, curve: see `apply_head`.
    """

    inputs: tuple[AdoptedInput, ...]
    output: str
    gives: str
    classes: int
    tokens: int | None
    mask: str | None
    temperature: float
    signal: str
    curve: Curve | None


def parse_adopted(entry: Mapping[str, Any], classes: int, tokens: int | None) -> Adopted:
    """Check the `adopted` object of a tier in the ladder.

    Raises:
        ValueError: a rule is broken; begins with the path of the field in the object.
    """
    missing = [
        name
        for name in ("inputs", "output", "gives", "temperature", "signal", "curve", "mask")
        if name not in entry
    ]
    if missing:
        raise ValueError(f"{missing[0]}: missing")
    inputs = tuple(_parse_input(one, f"inputs[{number}]") for number, one in enumerate(entry["inputs"]))
    if not inputs or len({one.model_input for one in inputs}) < len(inputs):
        raise ValueError("inputs: needs at least one, and no input of the model twice")
    for name, known in (("gives", GIVES), ("signal", SIGNALS)):
        if entry[name] not in known:
            raise ValueError(f"{name}: must be one of {', '.join(known)}, found {entry[name]!r}")
    temperature = entry["temperature"]
    if not isinstance(temperature, (int, float)) or not 0.0 < temperature < math.inf:
        raise ValueError(f"temperature: must be a finite number above 0, found {temperature!r}")
    if not isinstance(entry["output"], str) or not entry["output"]:
        raise ValueError("output: must be a name")
    mask = entry["mask"]
    if mask is not None and (tokens is None or not isinstance(mask, str)):
        raise ValueError("mask: must be the name of an input of a cascade that labels tokens, or null")
    if classes < 1:
        raise ValueError("classes: the plan must have at least 1")
    return Adopted(
        inputs=inputs,
        output=entry["output"],
        gives=entry["gives"],
        classes=classes,
        tokens=tokens,
        mask=mask,
        temperature=float(temperature),
        signal=entry["signal"],
        curve=None if entry["curve"] is None else _parse_curve(entry["curve"]),
    )


def _parse_input(entry: Mapping[str, Any], where: str) -> AdoptedInput:
    names = [entry.get(name) for name in ("name", "model_input", "datatype")]
    if not all(isinstance(name, str) and name for name in names):
        raise ValueError(f"{where}: needs name, model_input and datatype")
    found = AdoptedInput(*[str(name) for name in names])
    if found.datatype not in DATATYPES:
        raise ValueError(f"{where}.datatype: {found.datatype!r} is none of {', '.join(DATATYPES)}")
    return found


def _parse_curve(entry: Any) -> Curve:
    at, confidence = (tuple(float(value) for value in values) for values in entry)
    if len(at) < 2 or len(at) != len(confidence):
        raise ValueError("curve: needs two lists of the same length, of at least 2 numbers")
    if not all(math.isfinite(value) for value in (*at, *confidence)):
        raise ValueError("curve: must be finite numbers")
    if any(low >= high for low, high in pairwise(at)):
        raise ValueError("curve: the first list must ascend")
    return Curve(at, confidence)


def model_inputs(inputs: Inputs, wanted: tuple[AdoptedInput, ...]) -> dict[str, npt.NDArray[Any]]:
    """The cascade's inputs under the model's names and in its datatypes; what fits is not copied."""
    return {
        one.model_input: np.asarray(inputs[one.name], DATATYPES[one.datatype], order="C") for one in wanted
    }


def as_logits(values: npt.NDArray[Any], lead: tuple[int, ...], gives: str) -> npt.NDArray[np.float32]:
    """A model's scores as logits [*lead, classes], float32; of probabilities their logarithm.

    Args:
        values: of any float type, [rows, ..., classes]; dimensions of 1 between are dropped.
        lead: (rows,), or (rows, tokens).
        gives: see `Adopted`.

    Raises:
        ValueError: another shape; says which.
    """
    shape = values.shape
    fits = len(shape) >= 2 and shape[0] == lead[0]
    if not fits or _without_ones(shape[1:-1]) != _without_ones(lead[1:]):
        wanted = ", ".join([*map(str, lead), "classes"])
        raise ValueError(f"scores must have shape [{wanted}], found {list(shape)}")
    logits = values.astype(np.float32).reshape((*lead, shape[-1]))
    if gives == "probabilities":
        # Written so that a NaN stays one.
        logits = np.log(np.where(logits < SMALLEST_PROBABILITY, np.float32(SMALLEST_PROBABILITY), logits))
    return logits


def _without_ones(shape: tuple[int, ...]) -> list[int]:
    return [size for size in shape if size != 1]


def to_answer(adopted: Adopted, values: npt.NDArray[Any], inputs: Inputs, probabilities: bool) -> TierAnswer:
    """What the tier says, from the scores that its model gave for the cascade's `inputs`.

    Raises:
        ValueError: the scores have another shape than they must; says which.
    """
    rows = len(next(iter(inputs.values())))
    lead = (rows,) if adopted.tokens is None else (rows, adopted.tokens)
    logits = as_logits(values, lead, adopted.gives)
    if logits.shape[-1] != adopted.classes:
        raise ValueError(f"scores must be of {adopted.classes} classes, found shape {list(values.shape)}")
    mask = None if adopted.mask is None else inputs[adopted.mask] != 0
    scores = apply_head(logits, adopted.temperature, adopted.signal, adopted.curve, mask)
    return TierAnswer(scores.label, scores.confidence, scores.probabilities if probabilities else None)
