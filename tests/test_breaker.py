"""When a tier is given up, and when it is tried again."""

from __future__ import annotations

from cascade_tools.runtime.breaker import (
    FAILURES_TO_OPEN,
    FIRST_DELAY_S,
    LONGEST_DELAY_S,
    Breaker,
)


def opened(at_s: float = 0.0) -> Breaker:
    breaker = Breaker()
    for _ in range(FAILURES_TO_OPEN):
        breaker.failure(at_s)
    assert not breaker.closed
    return breaker


def test_it_opens_once_after_failures_in_a_row() -> None:
    breaker = Breaker()
    assert [breaker.failure(0.0) for _ in range(FAILURES_TO_OPEN + 2)] == [False, False, True, False, False]


def test_an_answer_between_failures_starts_the_count_anew() -> None:
    breaker = Breaker()
    for _ in range(3 * FAILURES_TO_OPEN):
        for _ in range(FAILURES_TO_OPEN - 1):
            breaker.failure(0.0)
        assert breaker.success() is False
    assert breaker.closed


def test_a_closed_breaker_is_never_probed() -> None:
    assert not Breaker().take_probe(1e9)


def test_one_probe_is_given_out_when_the_delay_is_over() -> None:
    breaker = opened()
    assert not breaker.take_probe(FIRST_DELAY_S * 0.99)
    assert breaker.take_probe(FIRST_DELAY_S)
    assert not breaker.take_probe(1e9)


def test_a_probe_that_answers_closes_it() -> None:
    breaker = opened()
    breaker.take_probe(FIRST_DELAY_S)
    assert breaker.success() is True
    assert breaker.closed


def test_probes_that_fail_come_ever_later_up_to_a_longest_delay() -> None:
    breaker, now, delays = opened(), 0.0, []
    for _ in range(8):
        began = now
        while not breaker.take_probe(now):
            now += FIRST_DELAY_S / 2
        delays.append(now - began)
        assert breaker.failure(now) is False
    assert delays[:4] == [FIRST_DELAY_S * 2**n for n in range(4)]
    assert delays[-1] == LONGEST_DELAY_S


def test_a_request_that_fails_late_does_not_put_the_probe_off() -> None:
    breaker = opened()
    breaker.failure(FIRST_DELAY_S * 0.9)
    assert breaker.take_probe(FIRST_DELAY_S)


def test_after_closing_the_first_delay_counts_again() -> None:
    breaker = opened()
    breaker.take_probe(1.0)
    breaker.failure(1.0)
    breaker.take_probe(100.0)
    breaker.success()
    for _ in range(FAILURES_TO_OPEN):
        breaker.failure(200.0)
    assert breaker.take_probe(200.0 + FIRST_DELAY_S)
