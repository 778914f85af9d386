"""The highest rate for which gears can be planned, where those that were asked for are too high."""

from __future__ import annotations

from dataclasses import replace
from math import floor, log10, sqrt

import numpy as np

from cascade_tools.errors import Infeasible
from cascade_tools.planning.gears.descent import Descents
from cascade_tools.planning.gears.question import GearQuestion
from cascade_tools.planning.gears.rates import RateBins
from cascade_tools.planning.gears.worth import ON_MEANS

LOWEST = 1.0 / 1024.0  # of the highest rate that may be feasible; below it no rate is looked for
CLOSE = 1.03  # the next higher rate that was tried and refused, over the one that is said
DIGITS = 3


def with_highest_rate(question: GearQuestion, error: Infeasible) -> Infeasible:
    """The same error; it also says up to which rate gears were planned, or that a lower rate does not help.

    Args:
        question: has no plan.
        error: why.
    """
    if error.constraint == "time":  # nothing is known of any rate
        return error
    found = highest_rate(question)
    asked = float(question.rates.edges_rps[-1])
    said = f"no lower rate is feasible either (down to {_lowest(_most(question)):g} rows/s)"
    if found is not None:
        said = f"the highest rate that is feasible is {found:g} rows/s (asked was {asked:g})"
    return Infeasible(
        f"{error.message}; {said}",
        error.hint,
        constraint=error.constraint,
        details={**error.details, "feasible_rps": found},
    )


def highest_rate(question: GearQuestion) -> float | None:
    """The highest rate (rows/s) that all rates can be scaled to and have a plan, within 3 %; None for none.

    Shares of time stay as they are. The rate that is said was planned for.
    """
    high = _most(question)
    if question.slo.name in ON_MEANS:
        return _search(question, question, high)
    # The highest rate decides for nearly all of it, and is planned for much sooner by itself.
    asked = float(question.rates.edges_rps[-1])
    alone = replace(question, rates=RateBins(np.array([0.0, asked]), np.ones(1), question.rates.source))
    found = _search(question, alone, high)
    if found is None or _is_feasible(question, found):
        return found
    return _search(question, question, found, refused=True)


def _most(question: GearQuestion) -> float:
    """No higher rate (rows/s) is feasible: what was asked for, or what the fastest policy could ever do."""
    most = max((one.capacity_rps for one in Descents(question).candidates), default=0.0)
    asked = float(question.rates.edges_rps[-1])
    return min(asked, _few_digits(most * question.target_busy_share))


def _lowest(high: float) -> float:
    return _few_digits(high * LOWEST)


def _search(
    question: GearQuestion, tried: GearQuestion, high: float, *, refused: bool = False
) -> float | None:
    """By bisection below `high`, which is tried, too, unless it was asked for or is known to be `refused`."""
    asked = float(question.rates.edges_rps[-1])
    if high < asked and not refused and _is_feasible(tried, high):
        return high
    low = _lowest(high)
    if high <= low or not _is_feasible(tried, low):
        return None
    while high > CLOSE * low:
        middle = _few_digits(sqrt(low * high))
        if not low < middle < high:
            break
        if _is_feasible(tried, middle):
            low = middle
        else:
            high = middle
    return low


def _is_feasible(question: GearQuestion, rate_rps: float) -> bool:
    edges = question.rates.edges_rps
    scaled = np.asarray(edges * (rate_rps / float(edges[-1])), np.float64)
    rates = replace(question.rates, edges_rps=scaled)
    return Descents(replace(question, rates=rates)).descend({}, question.placement).plan is not None


def _few_digits(rate_rps: float) -> float:
    """Not above the rate, with few digits: what is said is what was tried."""
    if rate_rps <= 0.0:
        return 0.0
    step = 10.0 ** (floor(log10(rate_rps)) + 1 - DIGITS)
    return float(f"{floor(rate_rps / step * (1.0 + 1e-12)) * step:.12g}")
