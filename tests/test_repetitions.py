"""When the medians of repetitions agree, and what they say of memory."""

from __future__ import annotations

import pytest

from cascade_tools.planning.memory import held_mib
from cascade_tools.planning.repetitions import COMPARED, LARGEST_SPREAD, spread, stable


def test_the_spread_is_of_the_last_medians_alone() -> None:
    assert spread([100.0, 1.0, 1.1, 0.9]) == pytest.approx(0.2)
    assert spread([2.0]) == 0.0
    assert spread([1.0, 3.0]) == pytest.approx(1.0)


def test_too_few_medians_are_never_stable() -> None:
    for count in range(COMPARED):
        assert not stable([1.0] * count)
    assert stable([1.0] * COMPARED)


@pytest.mark.parametrize(
    ("last", "calm"), [(1.0 + 0.9 * LARGEST_SPREAD, True), (1.0 + 1.1 * LARGEST_SPREAD, False)]
)
def test_stable_is_below_the_largest_spread(last: float, calm: bool) -> None:
    assert stable([7.0, 1.0, 1.0, last]) is calm


def test_what_is_shared_is_held_once() -> None:
    assert held_mib(10.0, 0.0, 3) == 30.0
    assert held_mib(2.0, 100.0, 3) == 106.0
