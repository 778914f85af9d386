"""The promise: a policy found on some rows keeps the accuracy allowance on rows that it never saw.

Learn then test (Angelopoulos et al., 2021), with a fixed sequence: the search rows alone decide which
policies are candidates and in which order, from the most careful to the cheapest. On the verify rows, each
is tested at the full level until the first one fails; by the closed testing principle the chance that any
policy before that one breaks the promise is at most alpha, however many there are. The test of one policy is
the paired, group-aware bound of `bounds`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from cascade_tools.artifacts import PolicyTable, PredictedPolicy, ScoreTable
from cascade_tools.planning.bounds import PairedSample
from cascade_tools.planning.evaluate import Evaluator, Question
from cascade_tools.planning.search import keeps_all_but_drop, some_rows

LONGEST_SEQUENCE = 40
ORDERING_ROWS = 30_000
LARGEST_SCALE = 1e6


@dataclass(frozen=True)
class Promise:
    """What the verify rows say.

    Attributes:
        policies: those that keep the allowance, from the most careful to the cheapest; the reference alone
            where nothing was cheaper.
        certifiable_drop: points; the smallest allowance that could have been certified, None where there
            was nothing to test.
        most_careful: the policy that was tested first.
    """

    policies: tuple[PolicyTable, ...]
    certifiable_drop: float | None
    most_careful: PolicyTable | None


def certify(
    search_rows: ScoreTable,
    verify_rows: ScoreTable,
    pool: Iterable[PolicyTable],
    question: Question,
) -> Promise:
    """Test a pool of policies on rows that the search has not seen.

    Args:
        search_rows: what the pool was found on; orders it.
        verify_rows: of the same kind, and not looked at before.
        pool: candidates.
        question: with `max_accuracy_drop`, in points.
    """
    assert question.max_accuracy_drop is not None
    seen = Evaluator(some_rows(search_rows, ORDERING_ROWS), question)
    unseen = Evaluator(verify_rows, question)
    reference = seen(seen.reference_policy)
    stands = question.max_accuracy_drop >= 0.0 and keeps_all_but_drop(reference, question)
    sequence = _order(
        [
            p
            for p in map(seen, pool)
            if not seen.is_reference(p.table)
            and keeps_all_but_drop(p, question)
            and (not stands or p.cost < reference.cost)
        ]
    )
    if not sequence:
        return Promise((seen.reference_policy,) if stands else (), None, None)
    passed: list[PolicyTable] = []
    first_bound: float | None = None
    for policy in sequence:
        bound = unseen.bound_points(policy.table)
        if first_bound is None:
            first_bound = bound
        if bound > question.max_accuracy_drop:
            break
        passed.append(policy.table)
    return Promise(tuple(passed), first_bound, sequence[0].table)


def _order(policies: list[PredictedPolicy]) -> list[PredictedPolicy]:
    """From the lowest bound to the lowest cost, without those that another beats in both."""
    front: list[PredictedPolicy] = []
    for policy in sorted(policies, key=lambda p: (p.cost, p.accuracy_drop_bound)):
        if not front or policy.accuracy_drop_bound < front[-1].accuracy_drop_bound:
            front.append(policy)
    front.reverse()
    if len(front) > LONGEST_SEQUENCE:
        pick = np.linspace(0, len(front) - 1, LONGEST_SEQUENCE).round().astype(int)
        front = [front[i] for i in pick.tolist()]
    return front


def rows_needed(sample: PairedSample, max_drop: float, confidence: float) -> int | None:
    """Rows like these with which the bound would be within `max_drop` (a fraction); None if never."""
    low, high = 1.0, LARGEST_SCALE
    if sample.upper_bound(confidence, high) > max_drop:
        return None
    while high / low > 1.01:
        middle = float(np.sqrt(low * high))
        low, high = (low, middle) if sample.upper_bound(confidence, middle) <= max_drop else (middle, high)
    return int(np.ceil(high * sample.rows))
