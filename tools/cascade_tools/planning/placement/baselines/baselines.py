"""What a placement is compared with, and is never worse than.

    giant_only   the last tier answers everything (no placement of the cascade, hence no floor)
    full_lp      every model on every GPU, a linear program shares the rows
    greedy       CascadeServe: pruned from every model on every GPU until memory suffices
    dedicated    each GPU holds one model, or one stage of one

All obey the rule, the closure and given limits, and share rows by the same program as a plan. At a goal rate
each keeps the fewest devices of its placement that it can do with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from cascade_tools.planning.placement.balance import balance
from cascade_tools.planning.placement.baselines.blocks import complete, homeless
from cascade_tools.planning.placement.baselines.choice import work
from cascade_tools.planning.placement.baselines.dedicated import dedicated
from cascade_tools.planning.placement.baselines.full_lp import full_lp
from cascade_tools.planning.placement.baselines.giant_only import giant_only, giant_problem
from cascade_tools.planning.placement.baselines.greedy import greedy
from cascade_tools.planning.placement.finish import finish
from cascade_tools.planning.placement.problem import FloatArray, IntArray, Problem, Solution
from cascade_tools.planning.placement.programs.numbers import Numbers, numbers_of

NO_BOUND = float("nan")
STATUS = "baseline"
ENOUGH = 1.0 - 1e-9


def baselines(problem: Problem) -> dict[str, Solution | None]:
    """All baselines by name; None where one gives no placement, or does not reach the goal's rate.

    `giant_only` has instances of the last tier alone and sees every row in it, so it does not `verify` as a
    placement of the cascade.
    """
    return {"giant_only": giant_alone(problem), **settled(problem, ways(problem))}


def ways(problem: Problem) -> dict[str, IntArray | None]:
    """Instances [units, devices] by the baselines that are a placement of the cascade.

    Neither the goal nor `at_least` plays a part, so they are the same for all of these.
    """
    return {"full_lp": full_lp(problem), "greedy": greedy(problem), "dedicated": dedicated(problem)}


def settled(problem: Problem, counts: Mapping[str, IntArray | None]) -> dict[str, Solution | None]:
    """These instances by the problem's goal; what is `at_least` wanted stays, where it is there."""
    return {name: _settled(problem, count, name) for name, count in counts.items()}


def giant_alone(problem: Problem) -> Solution | None:
    """The last tier alone by the problem's goal; None if it has no placement, or not that rate."""
    alone = giant_problem(problem)
    found = _settled(alone, giant_only(alone), "giant_only")
    if found is None:
        return None
    count = np.zeros((len(problem.units), len(problem.devices)), np.int64)
    busy = np.zeros(count.shape)
    mine = _units_alone(problem)
    count[mine], busy[mine] = found.count, found.busy
    return replace(found, count=count, busy=busy)


def in_problem_alone(problem: Problem, solution: Solution) -> Solution:
    """An answer of `giant_alone` as one of `giant_problem`, whose overheads cost what they cost there."""
    mine = _units_alone(problem)
    return replace(solution, count=solution.count[mine], busy=solution.busy[mine])


def _units_alone(problem: Problem) -> list[int]:
    stays = [tier.alone is not None for tier in problem.tiers[:-1]] + [True]
    return [u for u, unit in enumerate(problem.units) if stays[unit.tier]]


def _settled(problem: Problem, count: IntArray | None, name: str) -> Solution | None:
    if count is None or homeless(problem, count):
        return None
    if problem.goal.rate_rps is not None:
        count = fewer_devices(problem, count, problem.goal.rate_rps)
    return None if count is None else finish(problem, count, NO_BOUND, STATUS, name)


def fewer_devices(problem: Problem, count: IntArray, rate_rps: float) -> IntArray | None:
    """The same instances on fewer devices: of each kind, least useful first, as few as sustain the rate.

    Returns:
        Instances [units, devices]; None if all of them do not sustain it.
    """
    if balance(problem, count)[0] < rate_rps * ENOUGH:
        return None
    numbers = numbers_of(problem)
    for kind in np.argsort(_use(problem, numbers), kind="stable").tolist():
        members = np.flatnonzero(numbers.kind == kind)
        members = members[np.argsort(problem.hosts[members], kind="stable")]
        low, high = 0, len(members)
        while low < high:
            keep = (low + high) // 2
            if balance(problem, _without(problem, count, members[keep:]))[0] < rate_rps * ENOUGH:
                low = keep + 1
            else:
                high = keep
        count = _without(problem, count, members[high:])
    return count


def _without(problem: Problem, count: IntArray, devices: IntArray) -> IntArray:
    fewer = count.copy()
    fewer[:, devices] = 0
    fewer = complete(problem, fewer, problem.hosts)
    return np.zeros_like(fewer) if homeless(problem, fewer) else fewer


def _use(problem: Problem, numbers: Numbers) -> FloatArray:
    """How useful one device of each kind is: the share of the cascade's work it does, per watt for energy."""
    useful = np.zeros(len(numbers.kinds))
    for tier, cost in enumerate(work(problem, numbers)):
        units = np.flatnonzero(numbers.tier == tier)
        share = numbers.reach[tier] * float(np.min(cost, initial=np.inf))
        speed = (numbers.rows_per_busy[units] / numbers.utilization[units]).max(axis=0)
        if np.isfinite(share) and speed.max() > 0.0:
            useful += share * speed / speed.max()
    if problem.goal.minimise == "energy":
        useful /= np.array([max(device.idle_w, 1.0) for device in numbers.kinds])
    return useful
