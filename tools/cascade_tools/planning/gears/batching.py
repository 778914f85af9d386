"""Sub-problem 4: the smallest batch trigger with which a gear holds its rate (CascadeServe, SP4)."""

from __future__ import annotations

import math
from typing import NamedTuple

from cascade_tools.planning.gears.front import Candidate
from cascade_tools.planning.gears.question import Forecast, GearQuestion, Trigger
from cascade_tools.planning.placement.problem import IntArray

ANSWERED = 0.95  # share of a steady rate; a finite run ends with rows on their way
IDLE_ENOUGH = 0.25  # busy share below which larger batches help nobody
SHARE_OF_SLO = 0.25  # that may be spent on waiting for company
LOWEST_RATE = 0.1  # of the bin's highest, where it begins at 0


class Held(NamedTuple):
    """What one bin gets: the trigger and the forecast at its highest rate, or what is wrong."""

    trigger: Trigger
    forecast: Forecast
    wrong: str


def hold(question: GearQuestion, count: IntArray, candidate: Candidate, number: int) -> Held:
    """Raise the first tier's minimum queue until the simulated gear holds the rate of a bin.

    The paper raises it by 1 each time; here it is doubled and then halved back to the smallest that does.

    Args:
        question: forecast, SLO and rates.
        count: instances [units, devices].
        candidate: the policy.
        number: of the bin.
    """
    first = tried = _try(question, count, candidate, number, 1)
    queue = 1
    while tried.wrong and queue < question.largest_trigger and first.forecast.busy_share > IDLE_ENOUGH:
        queue = min(2 * queue, question.largest_trigger)
        tried = _try(question, count, candidate, number, queue)
    if tried.wrong:
        return first
    fails, holds = queue // 2, queue
    while holds - fails > 1:
        middle = (fails + holds) // 2
        again = _try(question, count, candidate, number, middle)
        if again.wrong:
            fails = middle
        else:
            holds, tried = middle, again
    return tried


def _try(question: GearQuestion, count: IntArray, candidate: Candidate, number: int, queue: int) -> Held:
    rate = float(question.rates.top_rps[number])
    trigger = _trigger(question, rate, queue)
    found = question.forecast(count, candidate.policy, rate, trigger)
    wrong = _wrong(question, found)
    if not wrong and queue > 1:
        # Where fewer rows arrive they wait longer for each other.
        slow = max(float(question.rates.edges_rps[number]), LOWEST_RATE * rate)
        wrong = _wrong(question, question.forecast(count, candidate.policy, slow, trigger))
    return Held(trigger, found, wrong)


def _trigger(question: GearQuestion, rate_rps: float, queue: int) -> Trigger:
    """Waits at most twice as long as the rows take to come at this rate, and never for much of the SLO."""
    if queue == 1:
        return Trigger()
    wait_ms = 2000.0 * (queue - 1) / rate_rps
    if question.slo.name in ("p95_ms", "p99_ms"):
        wait_ms = min(wait_ms, SHARE_OF_SLO * question.slo.bound)
    return Trigger(queue, wait_ms)


def _wrong(question: GearQuestion, found: Forecast) -> str:
    """What a gear does not hold, in words; empty if it holds everything."""
    if found.throughput_rps < ANSWERED * found.rate_rps:
        return f"of {found.rate_rps:.0f} rows/s only {found.throughput_rps:.0f} are answered (simulated)"
    if math.isinf(found.p99_ms):
        return f"at {found.rate_rps:.0f} rows/s more than 1 % get no answer (simulated)"
    if question.slo.name in ("p95_ms", "p99_ms"):
        latency = found.p95_ms if question.slo.name == "p95_ms" else found.p99_ms
        if not latency <= question.slo.bound:
            name = question.slo.name.removesuffix("_ms")
            return f"at {found.rate_rps:.0f} rows/s the {name} is {latency:.1f} ms (simulated)"
    return ""
