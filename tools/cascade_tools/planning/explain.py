"""Why a policy is what it is: left-out tiers, the price of the allowance, the worth of the skips."""

from __future__ import annotations

from dataclasses import dataclass, replace

from cascade_tools.artifacts import PolicyTable, PredictedPolicy, ScoreTable
from cascade_tools.planning.binned import bin_rows, policy_table
from cascade_tools.planning.evaluate import Evaluator, Question
from cascade_tools.planning.search import every_subset, keeps, search
from cascade_tools.planning.thresholds import search_thresholds
from cascade_tools.runtime.policy import ANSWER


@dataclass(frozen=True)
class Explanation:
    """All on the same held-out rows, by what is measured on them alone (no promise).

    Attributes:
        left_out: tier -> why no row goes there.
        cost: of the best policy.
        cost_of_one_more_point: of the best policy with one more point of allowance.
        cost_without_skips: of the best policy that asks the next tier in use or answers; None if none holds.
    """

    left_out: dict[str, str]
    cost: float
    cost_of_one_more_point: float
    cost_without_skips: float | None


def explain(table: ScoreTable, chosen: PolicyTable, question: Question) -> Explanation:
    """Search again with other rules and compare.

    Args:
        table: held-out rows.
        chosen: the policy whose left-out tiers are explained.
        question: with `max_accuracy_drop`.
    """
    assert question.max_accuracy_drop is not None
    judged = Evaluator(table, question)
    found = search(table, question)
    best = judged(found.best or judged.reference_policy)
    looser = replace(question, max_accuracy_drop=question.max_accuracy_drop + 1.0)
    more = search(table, looser).best
    plain = _best_without_skips(table, question, judged)
    pool = [judged(policy) for policy in found.pool if len(found.pool) <= 400 or _is_plain(policy)]
    return Explanation(
        left_out={
            tier: _why_left_out(table, tier, best, [p for p in pool if keeps(p, question)], question)
            for tier in table.tiers
            if tier not in chosen.tiers
        },
        cost=best.cost,
        cost_of_one_more_point=best.cost if more is None else min(best.cost, judged(more).cost),
        cost_without_skips=None if plain is None else max(best.cost, plain),
    )


def stronger_than(table: ScoreTable, reference: int) -> str:
    """A warning if another tier is more often right than the reference; else nothing."""
    right = (table.label == table.target[:, None]).mean(axis=0)
    best = int(right.argmax())
    if right[best] <= right[reference]:
        return ""
    return (
        f"{table.tiers[best]} is right on {right[best]:.2%} of the rows, the reference "
        f"{table.tiers[reference]} on {right[reference]:.2%}: is the ladder in order, smallest first?"
    )


def _is_plain(policy: PolicyTable) -> bool:
    return all(route.to in ((own + 1, ANSWER), (ANSWER,)) for own, route in enumerate(policy.routes))


def _best_without_skips(table: ScoreTable, question: Question, judged: Evaluator) -> float | None:
    rows = bin_rows(table, question.cost, question.reference)
    assert question.max_accuracy_drop is not None
    wanted = rows.fewest_right(question.max_accuracy_drop)
    lowest: float | None = None
    for subset in every_subset(rows.tiers):
        for grid in search_thresholds(rows, subset, wanted):
            flat = grid.cheapest(wanted)
            if flat is not None:
                policy = judged(policy_table(rows, grid.policy(flat), table.tiers))
                if keeps(policy, question):
                    lowest = policy.cost if lowest is None else min(lowest, policy.cost)
    return lowest


def _why_left_out(
    table: ScoreTable, tier: str, best: PredictedPolicy, held: list[PredictedPolicy], question: Question
) -> str:
    own = table.tiers.index(tier)
    right = (table.label == table.target[:, None]).mean(axis=0)
    for other, name in enumerate(table.tiers):
        if other != own and right[other] >= right[own] and question.cost[other] <= question.cost[own]:
            return f"{name} is no worse ({right[other]:.4f} against {right[own]:.4f}) and no dearer"
    with_it = [policy.cost for policy in held if tier in policy.table.tiers]
    if not with_it:
        return "no policy with it was found that keeps the bounds"
    return f"the cheapest policy found with it costs {min(with_it):.4g}, without it {best.cost:.4g}"
