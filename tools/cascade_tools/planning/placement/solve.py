"""The best placement that the searches find, checked."""

from __future__ import annotations

from cascade_tools.errors import CheckFailed, Infeasible
from cascade_tools.planning.placement.direct import direct
from cascade_tools.planning.placement.finish import finish
from cascade_tools.planning.placement.patterns import patterns
from cascade_tools.planning.placement.problem import Problem, Solution

DIRECT_DEVICES = 64


def solve(problem: Problem, time_limit_s: float = 20.0) -> Solution:
    """The best placement by the problem's goal, never worse than any baseline.

    Args:
        problem: what is placed, where, towards which goal.
        time_limit_s: of all searches together; planning has no clock, so each search has its share of it.

    Raises:
        Infeasible: there is no placement with a rate above zero, or with the goal's; names the constraint.
        CheckFailed: the answer breaks a rule; a defect.
    """
    answers = []
    bound = None
    for method, search in (("patterns", patterns), ("direct", direct)):
        if method == "direct" and len(problem.devices) > DIRECT_DEVICES:
            continue
        found = search(problem, time_limit_s)
        answer = (
            None if found.count is None else finish(problem, found.count, found.bound, found.status, method)
        )
        if answer is not None:
            answers.append(answer)
    if not answers:
        raise Infeasible("no placement was found", constraint="memory", details={"missing_mib": None})
    return max(answers, key=lambda s: s.value)
