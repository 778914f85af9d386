"""Sub-problem 1: the policies that are worth a gear (CascadeServe, SP1)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from cascade_tools.artifacts import PredictedPolicy
from cascade_tools.planning.gears.question import GearQuestion
from cascade_tools.planning.placement.balance import balance
from cascade_tools.planning.placement.problem import Problem
from cascade_tools.planning.placement.programs.numbers import numbers_of

MOST_POLICIES = 12


@dataclass(frozen=True)
class Candidate:
    """A policy, what it asks of each tier of the problem, and a rate that no placement exceeds with it."""

    policy: PredictedPolicy
    reach: tuple[float, ...]
    capacity_rps: float


def front(question: GearQuestion) -> tuple[Candidate, ...]:
    """The candidates, most accurate first.

    None is beaten by another in accuracy, capacity, energy and latency at once. Of many, some evenly along
    the accuracy; the most accurate and the one with the highest capacity always stay.
    """
    distinct = {policy.table: policy for policy in question.policies}.values()
    all_of_them = [_candidate(question, policy) for policy in distinct]
    all_of_them.sort(key=lambda one: (-one.policy.accuracy, -one.capacity_rps))
    kept: list[Candidate] = []
    for one in all_of_them:
        if not any(_beats(other, one) for other in kept):
            kept.append(one)
    if len(kept) > MOST_POLICIES:
        fastest = max(kept, key=lambda one: one.capacity_rps)
        at = np.linspace(0, len(kept) - 1, MOST_POLICIES - 1).round().astype(int).tolist()
        kept = [one for number, one in enumerate(kept) if number in at or one is fastest]
    return tuple(kept)


def with_reach(problem: Problem, reach: tuple[float, ...]) -> Problem:
    """The same problem for other shares of the rows."""
    tiers = tuple(replace(tier, reach=share) for tier, share in zip(problem.tiers, reach, strict=True))
    return replace(problem, tiers=tiers)


def _candidate(question: GearQuestion, policy: PredictedPolicy) -> Candidate:
    reach = question.reach_of(policy)
    asked = with_reach(question.problem, reach)
    count = question.placement
    if count is None:  # as if every unit had all of every device's memory
        numbers = numbers_of(asked)
        count = numbers.most[:, numbers.kind].astype(np.int64)
    return Candidate(policy, reach, balance(asked, count)[0])


def _beats(one: Candidate, other: Candidate) -> bool:
    """At least as good at everything; `one` comes first in order, so it is no less accurate."""
    if one.capacity_rps < other.capacity_rps:
        return False
    mine, theirs = one.policy, other.policy
    pairs = (
        (mine.energy_j, theirs.energy_j),
        (mine.latency_p50_ms, theirs.latency_p50_ms),
        (mine.latency_p95_ms, theirs.latency_p95_ms),
        (mine.latency_p99_ms, theirs.latency_p99_ms),
    )
    return all((a or 0.0) <= (math.inf if b is None else b) for a, b in pairs)
