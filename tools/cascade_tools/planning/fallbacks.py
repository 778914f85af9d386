"""Routes for the cascade without a tier, or without a device: planned ahead, used while it is broken."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace

from cascade_tools.artifacts import PredictedPolicy, ScoreTable
from cascade_tools.planning.evaluate import Evaluator, Question
from cascade_tools.planning.search import search


def losses(used: Collection[str], homeless: Iterable[Collection[str]]) -> tuple[frozenset[str], ...]:
    """What can be lost at once and is worth planning for: every used tier, and what a loss takes with it.

    Args:
        used: tiers that some gear asks.
        homeless: the tiers that have no home any more without one device or one host, loss by loss; see
            `Lost` of the placement, which knows chains and hosts.
    """
    found = {frozenset({tier}) for tier in used}
    found |= {frozenset(lost) for lost in homeless if set(lost) & set(used)}
    return tuple(sorted(found, key=lambda lost: (len(lost), sorted(lost))))


def policy_without(table: ScoreTable, question: Question, lost: Collection[str]) -> PredictedPolicy | None:
    """The cheapest policy of the other tiers that keeps the allowance below the largest of them.

    Nothing is certified. Where no policy keeps the bounds, the largest of the other tiers alone.

    Args:
        table: rows that no head was fitted on.
        question: of the whole ladder.
        lost: tiers that may not be used.

    Returns:
        The policy with what it did on the rows, its drop below the whole ladder's reference; None where no
        tier is left.
    """
    kept = [number for number, tier in enumerate(table.tiers) if tier not in lost]
    if not kept:
        return None
    part = table.model_copy(
        update={
            "tiers": tuple(table.tiers[number] for number in kept),
            "confidence": table.confidence[:, kept],
            "label": table.label[:, kept],
        }
    )
    found = search(part, _of_tiers(question, kept)).best
    judged = Evaluator(table, question)
    return judged(found or Evaluator(part, _of_tiers(question, kept)).reference_policy)


def _of_tiers(question: Question, kept: list[int]) -> Question:
    def pick(values: tuple[float, ...] | None) -> tuple[float, ...] | None:
        return None if values is None else tuple(values[number] for number in kept)

    return replace(
        question,
        cost=tuple(question.cost[number] for number in kept),
        latency_ms=pick(question.latency_ms),
        latency_spread_ms=pick(question.latency_spread_ms),
        energy_j=pick(question.energy_j),
        reference=-1,
    )
