"""The routes without some tiers, as `place` counts with them and `gears` plans them: one source for both."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import cache

from cascade_tools.artifacts import PredictedPolicy, Profile, ScoreTable
from cascade_tools.planning.fallbacks import policy_without
from cascade_tools.planning.placement.losses import ReachWithout
from cascade_tools.planning.placement.problem import Problem
from cascade_tools.stages.calibrate import SCORES_FILE
from cascade_tools.stages.gear_question import reach_of
from cascade_tools.stages.search import make_question
from cascade_tools.store import Workspace, load_score_table

PolicyWithout = Callable[[Collection[str]], PredictedPolicy | None]


def policies_without(work: Workspace, profile: Profile) -> PolicyWithout:
    """From lost tiers to the policy that serves without them; None where no tier is left.

    Args:
        work: a cascade with scores.
        profile: for what the tiers cost.
    """

    @cache
    def held_out() -> ScoreTable:
        table = load_score_table(work.path(SCORES_FILE))
        return table.where(table.split != "fit")

    @cache
    def found(lost: frozenset[str]) -> PredictedPolicy | None:
        if lost >= set(work.cascade.tier_names):
            return None
        return policy_without(held_out(), make_question(work.cascade, profile), lost)

    return lambda lost: found(frozenset(lost))


def reach_without(work: Workspace, profile: Profile, problem: Problem) -> ReachWithout:
    """From the positions of tiers without a home to the reach of every load by the policy that serves then.

    Args:
        work: a cascade with scores.
        profile: for what the tiers cost.
        problem: what is placed; its policy is the present one.
    """
    names = [tier.name for tier in problem.tiers]
    without, reach = policies_without(work, profile), reach_of(work, profile, problem)

    def found(gone: Sequence[int]) -> tuple[float, ...] | None:
        lost = {names[i] for i in gone}
        if not lost <= set(work.cascade.tier_names):  # what asks them is gone, too
            return None
        policy = without(lost)
        return None if policy is None else reach(policy)

    return found
