"""The cycle of CascadeServe's four sub-problems, driven by their errors.

    SP1 front      which policies are candidates              an error here: infeasible
    SP2 assign     which of them serves which bin of rates    an error: no assignment is left, infeasible
    SP3 scenarios  one placement for all bins                 an error: SP2 refuses a policy to the named bin
    SP4 batching   the batch trigger of every bin             an error: SP3 places anew, then SP2 refuses

What a descent (`descent.py`) refused because of other bins is then tried once by itself, for it may be worth
more than what it was refused for; and so are placements near the best one.
"""

from __future__ import annotations

from dataclasses import replace

from cascade_tools.planning.gears.descent import Descent, Descents, Plan
from cascade_tools.planning.gears.highest import with_highest_rate
from cascade_tools.planning.gears.neighbours import neighbours
from cascade_tools.planning.gears.outcome import answer
from cascade_tools.planning.gears.question import GearQuestion, PlannedGears
from cascade_tools.planning.gears.refused import BETTER
from cascade_tools.planning.placement.causes.infeasible import check_arithmetic

MOST_TRIES = 8


def plan_gears(question: GearQuestion) -> PlannedGears:
    """One placement and the gears that it serves.

    Raises:
        Infeasible: the SLO cannot be kept at the planned rates; names the constraint, the bin, and the
            highest rate that is feasible.
        UsageError: the SLO is on an energy that is not known.
    """
    if question.placement is None:
        check_arithmetic(question.problem)
    descents = Descents(question)
    plan = _best(descents)
    return answer(question, descents.candidates, plan.assigned, plan.placed, plan.held, descents.rounds)


def _best(descents: Descents) -> Plan:
    """The best plan of the descents and of the placements near theirs."""
    fixed = descents.question.placement
    best = first = descents.descend({}, fixed)
    for number, policy in _worth_a_try(descents, first):
        best = max(best, descents.descend({number: policy}, fixed), key=_score)
    if fixed is None and best.count is not None:  # what was refused on the way may hold where it ended
        best = max(best, replace(descents.descend({}, best.count), count=best.count), key=_score)
    if fixed is None:
        best = _polished(descents, best)
    if best.plan is None:
        assert first.cause is not None
        raise with_highest_rate(descents.question, first.cause)
    return best.plan


def _worth_a_try(descents: Descents, first: Descent) -> list[tuple[int, int]]:
    """What was refused because of others and would be worth more than what the plan has; best first."""
    gain = descents.worth.gain()
    joint = [pair for pair in first.refused if pair not in descents.hopeless]
    if first.plan is not None:
        have = first.plan.assigned
        joint = [pair for pair in joint if gain[pair] > gain[pair[0], have[pair[0]]] + BETTER]
    joint.sort(key=lambda pair: (-gain[pair], pair))
    return joint[:MOST_TRIES]


def _polished(descents: Descents, best: Descent) -> Descent:
    """Climb over placements that differ by little, as long as the gears gain by it."""
    question = descents.question
    starts = [*descents.placements(), *([] if best.count is None else [best.count])]
    left, tried = question.most_neighbours, set[bytes]()
    while starts and left:
        start = starts.pop()
        for other in neighbours(question.problem, start):
            if other.tobytes() in tried or not left:
                continue
            tried.add(other.tobytes())
            left -= 1
            again = descents.descend({}, other)
            if _score(again) > _score(best):
                best = replace(again, count=other)
                starts += [start, other]
                break
    return best


def _score(descent: Descent) -> tuple[int, float]:
    """The fewer bins have no policy left, the better; then the sum of the gains."""
    if descent.plan is not None:
        return 1, descent.plan.value
    return 0, -float(descent.left_out)
