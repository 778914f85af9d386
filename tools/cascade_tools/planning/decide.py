"""From a score table and a question to a policy with its promise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cascade_tools.artifacts import PolicyTable, PredictedPolicy, ScoreTable
from cascade_tools.errors import Infeasible, UsageError
from cascade_tools.planning.bounds import PairedSample
from cascade_tools.planning.certify import certify, rows_needed
from cascade_tools.planning.evaluate import Evaluator, Question
from cascade_tools.planning.search import keeps_all_but_drop, search
from cascade_tools.planning.splits import split_rows

SPLIT_SEED = 0
# Most rows go where the promise is checked: its price falls with their number.
SHARES = {"search": 0.4, "verify": 0.6}


@dataclass(frozen=True)
class Decision:
    """A policy, what it did on all held-out rows, and what may be promised of it.

    Attributes:
        chosen: None where nothing could be certified.
        wanted: what the search would choose by its own rows; differs from `chosen` in what it risks.
        certified: the drop of `chosen` is within the allowance (or, without one, within `bound_points`)
            on rows that the search never saw, with the question's confidence.
        bound_points: upper bound of the chosen policy's drop on those rows; None without a guarantee.
        certifiable_drop: points; the smallest allowance that could have been certified.
        rows_needed: rows of a table like this one with which `wanted` or the most careful candidate would be
            certified; None if no number would do.
        alternatives: policies that keep the same promise, from the most careful to the chosen one; without a
            promise the chosen one alone.
        pool: all that is worth a place on a frontier.
    """

    chosen: PredictedPolicy | None
    wanted: PredictedPolicy
    reference: PredictedPolicy
    certified: bool
    bound_points: float | None
    certifiable_drop: float | None
    rows_needed: int | None
    alternatives: tuple[PredictedPolicy, ...]
    pool: tuple[PolicyTable, ...]
    search_rows: int
    verify_rows: int


def decide(table: ScoreTable, question: Question, *, guarantee: bool) -> Decision:
    """Search, and check the promise on rows that the search has not seen.

    Rows of the split `fit` are left out. With a guarantee the splits `search` and `verify` are used as they
    are; a table without `verify` is split here, by group and class.

    Raises:
        Infeasible: no policy keeps the bounds of cost, latency and accuracy on these rows.
        UsageError: a group has rows in both of the splits `search` and `verify`.
    """
    held_out = table if not (table.split == "fit").any() else table.where(table.split != "fit")
    judged = Evaluator(held_out, question)
    reference = judged(judged.reference_policy)
    if not guarantee:
        found = search(held_out, question)
        if found.best is None:
            raise _infeasible(judged, found.pool, question)
        chosen = judged(found.best)
        return Decision(
            chosen=chosen,
            wanted=chosen,
            reference=reference,
            certified=False,
            bound_points=None,
            certifiable_drop=None,
            rows_needed=None,
            alternatives=(chosen,),
            pool=(*found.pool, chosen.table),
            search_rows=len(held_out.target),
            verify_rows=0,
        )
    seen, unseen = search_and_verify(held_out)
    found = search(seen, question, careful=True)
    if found.best is None:
        raise _infeasible(judged, found.pool, question)
    rows = {"search_rows": len(seen.target), "verify_rows": len(unseen.target)}
    pool = (*found.pool, found.best)
    wanted = judged(found.best)
    checked = Evaluator(unseen, question)
    if question.max_accuracy_drop is None:  # one policy, one bound: nothing to choose on the verify rows
        chosen = _with_bound(checked, judged, found.best)
        bound = chosen.accuracy_drop_bound
        return Decision(chosen, wanted, reference, True, bound, bound, None, (chosen,), pool, **rows)
    if judged.is_reference(found.best):
        return Decision(reference, wanted, reference, True, 0.0, None, None, (reference,), pool, **rows)
    promise = certify(seen, unseen, found.pool, question)
    if not promise.policies:
        hopes = {found.best, promise.most_careful or found.best}
        needed = [_rows_needed(checked.sample(hope), question) for hope in hopes]
        fewest = min((n for n in needed if n is not None), default=None)
        return Decision(
            chosen=None,
            wanted=wanted,
            reference=reference,
            certified=False,
            bound_points=None,
            certifiable_drop=promise.certifiable_drop,
            rows_needed=None
            if fewest is None
            else int(np.ceil(fewest * len(table.target) / len(unseen.target))),
            alternatives=(),
            pool=pool,
            **rows,
        )
    certified = tuple(_with_bound(checked, judged, policy) for policy in promise.policies)
    # Whichever of them is taken, the promise holds; cost and latency are estimated best on all rows.
    kept = tuple(policy for policy in certified if keeps_all_but_drop(policy, question)) or certified
    chosen = kept[-1]
    return Decision(
        chosen=chosen,
        wanted=wanted,
        reference=reference,
        certified=True,
        bound_points=chosen.accuracy_drop_bound,
        certifiable_drop=promise.certifiable_drop,
        rows_needed=None,
        alternatives=kept,
        pool=pool,
        **rows,
    )


def search_and_verify(table: ScoreTable) -> tuple[ScoreTable, ScoreTable]:
    """The rows to search on and those to check on; split here where the table does not say.

    Raises:
        Infeasible: all rows belong to one group.
    """
    if not (table.split == "verify").any() or not (table.split != "verify").any():
        split = split_rows(table.target, table.group, SHARES, SPLIT_SEED)
        table = table.model_copy(update={"split": split})
    seen, unseen = table.where(table.split != "verify"), table.where(table.split == "verify")
    shared = np.intersect1d(seen.group, unseen.group)
    if len(shared):
        raise UsageError(
            f"the table has {len(shared)} group(s) with rows in both of the splits search and verify",
            "keep the rows of a group together, or leave `split` out",
        )
    if not len(seen.target) or not len(unseen.target):
        raise Infeasible(
            f"{len(table.target)} rows in one group cannot be both searched and verified",
            "give rows of several groups, or search with --no-guarantee",
            constraint="rows",
        )
    return seen, unseen


def _with_bound(checked: Evaluator, judged: Evaluator, policy: PolicyTable) -> PredictedPolicy:
    """Figures from all held-out rows, the bound from the verify rows alone."""
    return judged(policy).model_copy(update={"accuracy_drop_bound": checked.bound_points(policy)})


def _rows_needed(sample: PairedSample, question: Question) -> int | None:
    assert question.max_accuracy_drop is not None
    return rows_needed(sample, question.max_accuracy_drop / 100.0, question.confidence)


def _infeasible(judged: Evaluator, pool: tuple[PolicyTable, ...], question: Question) -> Infeasible:
    """Name the first bound that cannot be kept, and the best that was found for it."""
    tried = [judged(policy) for policy in pool[:400]]
    for name, most in question.max_latency_ms.items():
        fastest = min(getattr(policy, f"latency_{name}_ms") for policy in tried)
        if fastest > most:
            return Infeasible(
                f"no policy has a {name} latency of at most {most:g} ms; the fastest has {fastest:.3g} ms",
                f"allow at least {fastest:.3g} ms, or add a faster tier",
                constraint="latency",
            )
    cheapest = min(policy.cost for policy in tried)
    if question.max_cost is not None and cheapest > question.max_cost:
        return Infeasible(
            f"no policy costs at most {question.max_cost:g}; the cheapest costs {cheapest:.4g}",
            f"allow at least {cheapest:.4g}, or add a cheaper tier",
            constraint="cost",
        )
    within = [p.accuracy_drop for p in tried if keeps_all_but_drop(p, question)]
    best = min(within, default=None)
    return Infeasible(
        "no policy keeps all bounds at once"
        + ("" if best is None else f"; within cost and latency the drop is at least {best:.2f} points"),
        "loosen one of the bounds",
        constraint="accuracy",
    )
