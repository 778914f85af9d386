"""The answer of the cycle, or why there is none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from cascade_tools.errors import Infeasible
from cascade_tools.planning.gears.assign import assign
from cascade_tools.planning.gears.batching import Held
from cascade_tools.planning.gears.front import Candidate, with_reach
from cascade_tools.planning.gears.question import GearQuestion, PlannedGear, PlannedGears, means
from cascade_tools.planning.gears.scenarios import Common
from cascade_tools.planning.gears.worth import Worth
from cascade_tools.planning.placement.balance import balance

HINT = (
    "allow more (gears.slo), plan for a lower rate (gears.rates), add devices, or let policies lose more "
    "accuracy (objective.max_accuracy_drop, gears.within_allowance)"
)


def answer(
    question: GearQuestion,
    candidates: Sequence[Candidate],
    assigned: Sequence[int],
    placed: Common,
    held: Sequence[Held],
    rounds: int,
) -> PlannedGears:
    """The plan; bins that follow each other and have the same policy and trigger are one gear."""
    gears: list[PlannedGear] = []
    top = question.rates.top_rps.tolist()
    for number, (policy, one) in enumerate(zip(assigned, held, strict=True)):
        gear = PlannedGear(candidates[policy].policy, top[number], one.trigger, one.forecast)
        if gears and gears[-1].policy is gear.policy and gears[-1].trigger == gear.trigger:
            gears.pop()
        gears.append(gear)
    last = gears[-1]
    gears[-1] = PlannedGear(last.policy, None, last.trigger, last.forecast)
    weights = question.rates.weights
    p95_ms, p99_ms, energy_j = means(weights, tuple(one.forecast for one in held))
    accuracy = np.array([candidates[policy].policy.accuracy for policy in assigned])
    fastest = with_reach(question.problem, candidates[assigned[-1]].reach)
    return PlannedGears(
        count=placed.count,
        gears=tuple(gears),
        accuracy=float(weights @ accuracy),
        p95_ms=p95_ms,
        p99_ms=p99_ms,
        energy_j=energy_j,
        busy_share=1.0 / float(placed.margins.min()),
        sustains_rps=balance(fastest, placed.count)[0],
        rounds=rounds,
    )


def no_assignment(
    question: GearQuestion,
    candidates: Sequence[Candidate],
    worth: Worth,
    refused: Mapping[tuple[int, int], Infeasible],
) -> Infeasible:
    """Why no assignment is left: a bin to which every policy was refused, or the SLO on a mean."""
    slo = question.slo
    policies = range(len(candidates))
    for number, rate in enumerate(question.rates.top_rps.tolist()):
        causes = [refused.get((number, policy)) for policy in policies]
        known = [cause for cause in causes if cause is not None]
        if len(known) < len(causes):
            continue
        least = known[max(policies, key=lambda policy: candidates[policy].capacity_rps)]
        return Infeasible(
            f"no policy keeps {slo.name} {slo.bound:g} up to {rate:g} rows/s; {least.message}",
            least.hint or HINT,
            constraint=least.constraint,
            details={**least.details, "rate_rps": rate},
        )
    side = worth.side()
    allowed = np.ones(worth.accuracy.shape, bool)
    for pair in refused:
        allowed[pair] = False
    most = assign(side.value, allowed) if side is not None else None
    if side is None or most is None:
        return Infeasible(
            f"no assignment of policies to rates keeps {slo.name} {slo.bound:g}: what one bin needs is "
            "refused to another",
            HINT,
            constraint=slo.name,
        )
    reached = abs(float(side.value[np.arange(len(most)), most].sum()))
    return Infeasible(
        f"the mean {slo.name} over the planned rates is at best {reached:.4g}; asked was {slo.bound:g}",
        HINT,
        constraint=slo.name,
        details={"reached": reached},
    )


def unsettled(question: GearQuestion, rounds: int) -> Infeasible:
    """The cycle went round as often as it can refuse or learn something, and found no end."""
    return Infeasible(
        f"no gears that keep {question.slo.name} {question.slo.bound:g} were found in {rounds} rounds",
        HINT,
        constraint="time",
    )
