"""`route`: bands of confidence and where they lead."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascade_tools.runtime.plan import parse_policy
from cascade_tools.runtime.policy import ANSWER, Bands, route
from tests.helpers import Array, route_entry


def bands(cuts: list[float], to: list[int]) -> Bands:
    return Bands(np.asarray(cuts, np.float32), np.asarray(to, np.int64))


def confidences(*values: float) -> Array:
    return np.asarray(values, np.float32)


def test_below_escalates_and_above_answers() -> None:
    found = route(bands([0.5], [1, ANSWER]), confidences(0.2, 0.8))
    assert found.tolist() == [1, ANSWER]


def test_equal_to_a_cut_belongs_to_the_band_above() -> None:
    found = route(bands([0.25, 0.5], [2, 1, ANSWER]), confidences(0.25, 0.5))
    assert found.tolist() == [1, ANSWER]


@pytest.mark.parametrize("cut", [0.1, 0.7, 0.9, 1 / 3])
def test_cuts_are_compared_in_float32(cut: float) -> None:
    # As float64, 0.7 is above np.float32(0.7): the row of that very cut would fall below it.
    table = {
        "tiers": ["a", "b"],
        "routes": [route_entry([cut], [1, ANSWER]), route_entry([], [ANSWER])],
    }
    parsed = parse_policy(table, "policy").bands[0]
    assert parsed.cuts.dtype == np.float32
    just_below = np.nextafter(np.float32(cut), np.float32(0.0))
    assert route(parsed, confidences(cut, just_below)).tolist() == [ANSWER, 1]


def test_nan_counts_as_zero() -> None:
    assert route(bands([0.5], [1, ANSWER]), confidences(math.nan)).tolist() == [1]
    assert route(bands([0.0], [1, ANSWER]), confidences(math.nan)).tolist() == [ANSWER]


def test_no_cuts_is_one_band() -> None:
    assert route(bands([], [ANSWER]), confidences(0.0, 0.5, math.nan)).tolist() == [ANSWER] * 3


def test_no_rows_give_no_destinations() -> None:
    assert route(bands([0.5], [1, ANSWER]), confidences()).shape == (0,)


def naive(cuts: list[float], to: list[int], confidence: float) -> int:
    known = 0.0 if math.isnan(confidence) else confidence
    band = 0
    for cut in cuts:
        if known >= cut:
            band += 1
    return to[band]


unit = st.floats(0.0, 1.0, width=32)


@given(st.data(), st.lists(unit, max_size=5).map(sorted))
def test_rows_at_once_equal_a_naive_loop(data: st.DataObject, cuts: list[float]) -> None:
    size = len(cuts) + 1
    to = sorted(data.draw(st.lists(st.integers(-1, 3), min_size=size, max_size=size)), reverse=True)
    row = st.one_of(unit, st.just(math.nan), *([st.sampled_from(cuts)] if cuts else []))
    rows = data.draw(st.lists(row, max_size=20))
    found = route(bands(cuts, to), confidences(*rows))
    assert found.tolist() == [naive(cuts, to, value) for value in rows]
