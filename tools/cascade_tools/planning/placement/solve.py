"""The best placement that the searches find, checked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from cascade_tools.errors import CheckFailed
from cascade_tools.planning.placement.baselines.baselines import NO_BOUND, baselines, fewer_devices
from cascade_tools.planning.placement.causes.infeasible import check_arithmetic, explain, too_fast
from cascade_tools.planning.placement.direct import Found, direct
from cascade_tools.planning.placement.few import direct_in, part_for
from cascade_tools.planning.placement.finish import best_bound, finish
from cascade_tools.planning.placement.patterns.listed import listed
from cascade_tools.planning.placement.patterns.patterns import patterns
from cascade_tools.planning.placement.problem import Goal, Problem, Solution
from cascade_tools.planning.placement.tidy import tidy
from cascade_tools.planning.placement.verify import verify

PATTERN_DEVICES = 4
DIRECT_DEVICES = 64
DEVICE_SECONDS = 160.0
LISTED_DEVICES = 256
QUICK_DEVICES = 32
LISTED_DEVICE_SECONDS = 32.0
FLOORS = ("full_lp", "greedy", "dedicated")  # the giant alone is no placement of the cascade
GOOD_GAP = 1e-6
WITHIN = "within bound"
ENOUGH_GAP = 5e-4
FEW_DEVICES = 8
ROUNDING = 1e-6


def solve(
    problem: Problem, time_limit_s: float = 20.0, simple: Mapping[str, Solution | None] | None = None
) -> Solution:
    """The best placement by the problem's goal, never worse than any baseline.

    Args:
        problem: what is placed, where, towards which goal.
        time_limit_s: of all searches together; planning has no clock, so each search has its share of it.
            Where none of them reaches the goal's rate, the search for the highest one has as much again.
        simple: the problem's `baselines`, where they are known; the giant alone is not asked for.

    Raises:
        Infeasible: there is no placement with a rate above zero, or with the goal's; names the constraint.
        CheckFailed: the answer breaks a rule; a defect.
    """
    check_arithmetic(problem)
    simple = baselines(problem) if simple is None else simple
    answers = [floor for name, floor in simple.items() if floor is not None and name in FLOORS]
    found = _searched(problem, answers, time_limit_s)
    if not answers and problem.goal.rate_rps is not None:
        answers.append(_from_fastest(problem, problem.goal.rate_rps, time_limit_s))
    if not answers:
        raise explain(problem, found)
    best = tidy(problem, _best(problem, answers), 0.05 * time_limit_s)
    best = replace(best, bound=_bound(problem, best, found))
    best = replace(best, status="optimal" if best.gap <= GOOD_GAP else WITHIN)
    wrong = verify(problem, best)
    if wrong:
        raise CheckFailed("the placement does not hold: " + "; ".join(wrong[:5]))
    return best


def _searched(problem: Problem, answers: list[Solution], time_limit_s: float) -> list[Found]:
    """What the searches prove; their answers are added to those that there are."""
    found: list[Found] = []
    if len(problem.devices) > PATTERN_DEVICES:
        limit_s = _pattern_share(problem) * time_limit_s
        found.append(patterns(problem, limit_s, [a.count for a in answers]))
        answers += _answers(problem, found[-1], "patterns")
    if _may_list(problem) and _open(problem, answers, found):
        limit_s = min(0.15 * time_limit_s, LISTED_DEVICE_SECONDS / len(problem.devices))
        found.append(listed(problem, limit_s))
        answers += _answers(problem, found[-1], "patterns")
    if len(problem.devices) <= DIRECT_DEVICES and _open(problem, answers, found):
        limit_s = min(0.6 * time_limit_s, DEVICE_SECONDS / len(problem.devices))
        found.append(direct(problem, limit_s))
        answers += _answers(problem, found[-1], "direct")
    elif problem.goal.rate_rps is not None and answers and _open(problem, answers, found):
        part = part_for(problem, _best(problem, answers).value)
        if len(part) <= DIRECT_DEVICES:
            found.append(direct_in(problem, part, min(0.5 * time_limit_s, DEVICE_SECONDS / len(part))))
            answers += _answers(problem, found[-1], "direct")
    return found


def _pattern_share(problem: Problem) -> float:
    """The part of the time that patterns get: less where the direct program follows, or they are easy."""
    if len(problem.devices) <= DIRECT_DEVICES:
        return 0.4
    return 1.0 if _has_chains(problem) or problem.closure == "host" else 0.5


def _may_list(problem: Problem) -> bool:
    """Whether all patterns are listed: under the strict rule, where other bounds are weak.

    With chains not where the direct program needs all the time.
    """
    number = len(problem.devices)
    slow = QUICK_DEVICES < number <= DIRECT_DEVICES
    few = number <= LISTED_DEVICES and not (slow and _has_chains(problem))
    return few and problem.rule == "strict"


def _has_chains(problem: Problem) -> bool:
    return any(variant.stages > 1 for tier in problem.tiers for variant in tier.variants)


def _from_fastest(problem: Problem, rate_rps: float, time_limit_s: float) -> Solution:
    """What the placement with the highest rate is by the goal, on as few of its devices as do."""
    fastest = solve(replace(problem, goal=Goal(), at_least=None), time_limit_s)
    count = fewer_devices(problem, fastest.count, rate_rps)
    answer = None if count is None else finish(problem, count, NO_BOUND, fastest.status, fastest.method)
    if answer is None:
        raise too_fast(rate_rps, fastest)
    return answer


def _answers(problem: Problem, found: Found, method: str) -> list[Solution]:
    if found.count is None:
        return []
    answer = finish(problem, found.count, found.bound, found.status, method)
    return [] if answer is None else [answer]


def _best(problem: Problem, answers: list[Solution]) -> Solution:
    """The best by the goal; of equally good ones the last, which a search found and no rule of thumb."""
    sign = 1.0 if problem.goal.rate_rps is None else -1.0
    top = max(sign * answer.value for answer in answers)
    return [a for a in answers if sign * a.value >= top - 1e-9 * abs(top)][-1]


def _bound(problem: Problem, best: Solution, found: list[Found]) -> float:
    """The tightest of what the searches prove."""
    bounds = [f.bound for f in found]
    if problem.goal.rate_rps is None:
        return min(best_bound(problem, best.value, bound) for bound in bounds)
    bound = max(best_bound(problem, best.value, bound) for bound in bounds)
    return float(math.ceil(bound - ROUNDING)) if problem.goal.minimise == "gpus" else bound  # whole ones


def _open(problem: Problem, answers: list[Solution], found: list[Found]) -> bool:
    """Whether there may be something better than what was found."""
    if not answers or not found:
        return True
    best = _best(problem, answers)
    return replace(best, bound=_bound(problem, best, found)).gap > (
        GOOD_GAP if len(problem.devices) <= FEW_DEVICES else ENOUGH_GAP
    )
