"""Measurements that begin again where the machine stood still."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from cascade_tools.errors import CascadeError
from cascade_tools.serving.again import ATTEMPTS, again_if_it_stood_still

GIVEN_UP = CascadeError("model pair_small: Stub process 'pair_small_0_0' is not healthy.")


def failing(times: int, error: CascadeError, calls: list[int]) -> Callable[[], str]:
    def measure() -> str:
        calls.append(1)
        if len(calls) <= times:
            raise error
        return "measured"

    return measure


def test_a_process_that_was_given_up_is_measured_again() -> None:
    calls, said = list[int](), list[str]()
    assert again_if_it_stood_still(failing(ATTEMPTS - 1, GIVEN_UP, calls), said.append) == "measured"
    assert len(calls) == ATTEMPTS
    assert len(said) == ATTEMPTS - 1


def test_a_machine_that_always_stands_still_is_an_error() -> None:
    calls = list[int]()
    with pytest.raises(CascadeError, match="not healthy"):
        again_if_it_stood_still(failing(ATTEMPTS, GIVEN_UP, calls), lambda text: None)
    assert len(calls) == ATTEMPTS


def test_any_other_error_is_one_at_once() -> None:
    calls = list[int]()
    with pytest.raises(CascadeError, match="wrong shape"):
        again_if_it_stood_still(failing(1, CascadeError("wrong shape"), calls), lambda text: None)
    assert len(calls) == 1
