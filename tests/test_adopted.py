"""What the router makes of an adopted model: its inputs, its scores, and its object in the plan."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from cascade_tools.runtime.adopted import (
    AdoptedInput,
    as_logits,
    model_inputs,
    parse_adopted,
    to_answer,
)
from cascade_tools.runtime.head import Curve, apply_head
from cascade_tools.runtime.plan import PlanError, parse_plan
from tests.helpers import Array, Json, changed, plan_content

Change = Callable[[Json], object]
ROWS, TOKENS, CLASSES = 5, 3, 4


def entry(**changes: object) -> Json:
    """A legal `adopted` object."""
    return {
        "inputs": [{"name": "ROW", "model_input": "input:0", "datatype": "FP16"}],
        "output": "scores",
        "gives": "logits",
        "temperature": 1.7,
        "signal": "max_probability",
        "curve": None,
        "mask": None,
        **changes,
    }


def adopted_last(content: Json) -> Json:
    content["ladder"][2]["adopted"] = entry()
    found: Json = content["ladder"][2]["adopted"]
    return found


def scores(*shape: int) -> Array:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


# Inputs


def test_inputs_get_the_models_names_and_datatypes() -> None:
    rows: dict[str, Array] = {
        "IMAGE": np.linspace(0, 1, 6, dtype=np.float32).reshape(2, 3),
        "LENGTH": np.array([[3], [4]], np.int64),
        "TEXT": np.array([[b"one"], ["zwölf".encode()]], np.object_),
        "OTHER": np.zeros((2, 1), np.float32),
    }
    found = model_inputs(
        rows,
        (
            AdoptedInput("IMAGE", "input:0", "FP16"),
            AdoptedInput("LENGTH", "len", "INT32"),
            AdoptedInput("TEXT", "text", "BYTES"),
        ),
    )
    assert {name: values.dtype.name for name, values in found.items()} == {
        "input:0": "float16",
        "len": "int32",
        "text": "object",
    }
    np.testing.assert_array_equal(found["input:0"], rows["IMAGE"].astype(np.float16))
    assert found["len"].tolist() == [[3], [4]]
    assert found["text"].tolist() == rows["TEXT"].tolist()


def test_what_fits_is_not_copied_and_what_is_strided_is_made_whole() -> None:
    whole = scores(4, 6)
    wanted = (AdoptedInput("X", "x", "FP32"),)
    assert model_inputs({"X": whole}, wanted)["x"] is whole
    assert model_inputs({"X": whole[:, ::2]}, wanted)["x"].flags.c_contiguous


# Scores


@pytest.mark.parametrize(
    ("shape", "lead"),
    [
        ((ROWS, CLASSES), (ROWS,)),
        ((ROWS, 1, CLASSES), (ROWS,)),
        ((ROWS, 1, 1, CLASSES), (ROWS,)),
        ((1, CLASSES), (1,)),
        ((1, 1, CLASSES), (1,)),
        ((ROWS, 1), (ROWS,)),
        ((ROWS, TOKENS, CLASSES), (ROWS, TOKENS)),
        ((ROWS, 1, TOKENS, CLASSES), (ROWS, TOKENS)),
        ((ROWS, 1, CLASSES), (ROWS, 1)),
    ],
)
def test_dimensions_of_one_are_dropped(shape: tuple[int, ...], lead: tuple[int, ...]) -> None:
    values = scores(*shape)
    np.testing.assert_array_equal(as_logits(values, lead, "logits"), values.reshape(*lead, shape[-1]))


@pytest.mark.parametrize(
    ("shape", "lead"),
    [
        ((ROWS,), (ROWS,)),
        ((ROWS - 1, CLASSES), (ROWS,)),
        ((1, ROWS, CLASSES), (ROWS,)),
        ((ROWS, 2, CLASSES), (ROWS,)),
        ((ROWS, CLASSES, 1, 1), (ROWS,)),
        ((ROWS, CLASSES), (ROWS, TOKENS)),
        ((ROWS, TOKENS + 1, CLASSES), (ROWS, TOKENS)),
        ((), (ROWS,)),
    ],
)
def test_scores_of_another_shape_are_refused(shape: tuple[int, ...], lead: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"scores must have shape \[5, .*classes\], found \["):
        as_logits(scores(*shape), lead, "logits")


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_probabilities_are_logits_by_their_logarithm(kind: type[np.generic]) -> None:
    probabilities: Array = apply_head(scores(ROWS, CLASSES)).probabilities.astype(kind)
    logits = as_logits(probabilities, (ROWS,), "probabilities")
    assert logits.dtype == np.float32
    np.testing.assert_allclose(apply_head(logits).probabilities, probabilities, atol=1e-3)


def test_a_probability_of_zero_is_no_infinity_and_a_nan_stays_one() -> None:
    logits = as_logits(np.array([[0.0, 1.0], [np.nan, 1.0]], np.float16), (2,), "probabilities")
    assert np.isfinite(logits[0]).all()
    assert np.isnan(logits[1, 0])


@pytest.mark.parametrize("curve", [None, Curve((0.2, 0.9), (0.1, 0.8))])
@pytest.mark.parametrize("signal", ["max_probability", "margin", "entropy"])
def test_the_answer_is_the_one_of_the_fitted_head(signal: str, curve: Curve | None) -> None:
    adopted = parse_adopted(entry(signal=signal, curve=curve and [list(c) for c in curve]), CLASSES, None)
    values = scores(ROWS, 1, CLASSES).astype(np.float16)
    answer = to_answer(adopted, values, {"ROW": np.zeros((ROWS, 1))}, True)
    wanted = apply_head(values[:, 0].astype(np.float32), 1.7, signal, curve)
    assert answer.label.tolist() == wanted.label.tolist()
    assert answer.confidence.tolist() == wanted.confidence.tolist()
    assert answer.probabilities is not None
    assert answer.probabilities.tolist() == wanted.probabilities.tolist()
    assert to_answer(adopted, values, {"ROW": np.zeros((ROWS, 1))}, False).probabilities is None


def test_tokens_that_do_not_count_are_masked() -> None:
    adopted = parse_adopted(entry(mask="COUNTS"), CLASSES, TOKENS)
    values = scores(ROWS, TOKENS, CLASSES)
    counts = np.array([[1, 1, 1], [1, 1, 0], [1, 0, 0], [0, 0, 0], [1, 0, 1]])
    answer = to_answer(adopted, values, {"COUNTS": counts}, False)
    assert ((answer.label == -1) == (counts == 0)).all()
    assert answer.confidence[3] == 1.0
    assert answer.confidence.shape == (ROWS,)


def test_another_number_of_classes_is_refused() -> None:
    adopted = parse_adopted(entry(), CLASSES, None)
    with pytest.raises(ValueError, match=r"of 4 classes, found shape \[5, 6\]"):
        to_answer(adopted, scores(ROWS, 6), {"ROW": np.zeros((ROWS, 1))}, False)


# The object in the plan


def test_a_plan_says_which_tiers_are_adopted() -> None:
    content = plan_content()
    content["ladder"][0]["adopted"] = None
    adopted_last(content)
    plan = parse_plan(content)
    assert [info.adopted is None for info in plan.ladder] == [True, True, False]
    found = plan.ladder[2].adopted
    assert found is not None
    assert found.inputs == (AdoptedInput("ROW", "input:0", "FP16"),)
    assert (found.output, found.classes, found.tokens, found.temperature) == ("scores", 10, None, 1.7)


def test_another_head_needs_no_restart() -> None:
    content = plan_content()
    adopted_last(content)
    before = parse_plan(content).models
    adopted_last(content)["temperature"] = 3.0
    assert parse_plan(content).models == before


BROKEN: dict[str, tuple[Change, str]] = {
    "no inputs": (lambda a: a.update(inputs=[]), "inputs: needs at least one"),
    "no output": (lambda a: a.pop("output"), "output: missing"),
    "an output that is no name": (lambda a: a.update(output=3), "output: must be a name"),
    "an input twice": (lambda a: a.update(inputs=2 * a["inputs"]), "inputs: needs"),
    "an input without datatype": (lambda a: a["inputs"][0].pop("datatype"), "inputs[0]: needs name"),
    "a datatype of nobody": (lambda a: a["inputs"][0].update(datatype="BF16"), "inputs[0].datatype: 'BF16'"),
    "labels": (lambda a: a.update(gives="labels"), "gives: must be one of logits, probabilities"),
    "another signal": (lambda a: a.update(signal="hope"), "signal: must be one of"),
    "temperature 0": (lambda a: a.update(temperature=0), "temperature: must be"),
    "temperature NaN": (lambda a: a.update(temperature=float("nan")), "temperature: must be"),
    "temperature in words": (lambda a: a.update(temperature="warm"), "temperature: must be"),
    "a curve of one knot": (lambda a: a.update(curve=[[0.1], [0.2]]), "curve: needs two lists"),
    "a curve that goes back": (lambda a: a.update(curve=[[0.2, 0.1], [0, 1]]), "curve: the first list"),
    "a curve without end": (lambda a: a.update(curve=[[0, float("inf")], [0, 1]]), "curve: must be finite"),
    "a mask of rows": (lambda a: a.update(mask="ROW"), "mask: must be the name of an input of a cascade"),
}


@pytest.mark.parametrize(("change", "what"), BROKEN.values(), ids=BROKEN)
def test_a_broken_object_is_refused_with_the_path_of_the_field(change: Change, what: str) -> None:
    content = changed(plan_content(), adopted_last)
    change(content["ladder"][2]["adopted"])
    with pytest.raises(PlanError) as caught:
        parse_plan(content)
    assert str(caught.value).startswith(f"ladder[2].adopted.{what}")


def test_an_input_that_the_cascade_does_not_have_is_refused() -> None:
    content = changed(plan_content(), adopted_last)
    content["ladder"][2]["adopted"]["inputs"][0]["name"] = "COLUMN"
    with pytest.raises(PlanError, match=r"ladder\[2\]\.adopted: 'COLUMN' is no input of the cascade"):
        parse_plan(content)


@pytest.mark.parametrize("value", [[], 3, "model", {"inputs": None}])
def test_an_object_of_another_kind_is_refused(value: object) -> None:
    content = plan_content()
    content["ladder"][2]["adopted"] = value
    with pytest.raises(PlanError, match=r"ladder\[2\]\.adopted"):
        parse_plan(content)
