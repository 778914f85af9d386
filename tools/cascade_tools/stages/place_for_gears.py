"""The placement that serves every gear, where the gears are planned for an SLO."""

from __future__ import annotations

from dataclasses import replace
from time import perf_counter

from cascade_tools.artifacts import Placement
from cascade_tools.errors import CheckFailed, UsageError
from cascade_tools.planning.gears import plan_gears
from cascade_tools.planning.placement.balance import balance
from cascade_tools.planning.placement.problem import Goal, Solution
from cascade_tools.planning.placement.verify import verify
from cascade_tools.spec import SPEC_FILE
from cascade_tools.stages.gear_question import gear_question
from cascade_tools.stages.placed import Planned
from cascade_tools.stages.progress import Reporter
from cascade_tools.stages.solver_output import solver_output_on_stderr
from cascade_tools.store import Workspace


def placed_for_gears(work: Workspace, found: Planned, some: Placement, report: Reporter) -> Planned:
    """Plan the gears and keep their placement; what it sustains is told for the policy that was searched.

    Args:
        work: a cascade with `gears.slo`.
        found: the placement for that policy alone; its bound holds for any placement.
        some: the same as an artifact.
        report: told what came of it.

    Raises:
        Infeasible: the SLO cannot be kept at the planned rates.
        UsageError: the placement has a goal of its own.
        CheckFailed: the placement does not hold; a defect.
    """
    if found.problem.goal != Goal():
        raise UsageError(
            f"{work.cascade.folder / SPEC_FILE}: placement.objective: with `gears.slo` instances are placed "
            "for the rates of `gears.rates`",
            "remove one of them",
        )
    began = perf_counter()
    with solver_output_on_stderr():
        plan = plan_gears(gear_question(work, found.problem, some, None))
        rate, busy = balance(found.problem, plan.count)
        solution = Solution(
            count=plan.count,
            busy=busy,
            rate_rps=rate,
            value=rate,
            bound=max(found.solution.bound, rate),
            status="for all gears",
            method="gears",
        )
        wrong = verify(found.problem, solution)
    if wrong:
        raise CheckFailed("the placement does not hold: " + "; ".join(wrong))
    report.say(f"  for {len(plan.gears)} gear(s), after {plan.rounds} rounds")
    return replace(found, solution=solution, seconds=found.seconds + perf_counter() - began)
