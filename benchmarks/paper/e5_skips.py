"""Experiment 5: the P90 of the rows that would skip, with and without skip connections."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import numpy.typing as npt

from benchmarks.paper.finding import Cell, Column, Experiment, Finding, Table
from benchmarks.paper.served import Bench, Router, routers_served
from benchmarks.paper.setting import Setting
from cascade_tools.artifacts import PolicyTable, Route, ScoreTable
from cascade_tools.models.usercode import Rows
from cascade_tools.planning.evaluate import Evaluator, evaluate, follow
from cascade_tools.planning.search import keeps, search
from cascade_tools.runtime.policy import ANSWER

ACCEPT = 0.95  # of every tier but the last, in the policy with equal bands
Mask = npt.NDArray[np.bool_]

ALLOWANCE = 1.0
ENOUGH = 0.1  # share of the rows
ROWS_PER_EFFORT = 2
CALLED = {"every tier is called": False, "cheap tiers in the router": True}


def equal_bands(tiers: tuple[str, ...], accept: float) -> PolicyTable:
    """[0, accept) of every tier cut into equal bands, the lowest to the last tier (the prototype's rule)."""
    routes = []
    for level in range(len(tiers) - 1):
        goals = range(len(tiers) - 1, level, -1)
        cuts = tuple(accept * (n + 1) / len(goals) for n in range(len(goals)))
        routes.append(Route(cuts=cuts, to=(*goals, ANSWER)))
    return PolicyTable(tiers=tiers, routes=(*routes, Route(cuts=(), to=(ANSWER,))))


def without_skips(policy: PolicyTable) -> PolicyTable:
    """The same policy, but what a tier does not answer goes to the next one."""
    routes = []
    for level, entry in enumerate(policy.routes):
        if ANSWER in entry.to and len(entry.to) > 1:
            routes.append(Route(cuts=entry.cuts[-1:], to=(level + 1, ANSWER)))
        elif ANSWER in entry.to:
            routes.append(entry)
        else:
            routes.append(Route(cuts=(), to=(level + 1,)))
    return PolicyTable(tiers=policy.tiers, routes=tuple(routes))


def would_skip(table: ScoreTable, policy: PolicyTable) -> Mask:
    """Rows that go past a tier which the policy without skips would ask; bool [rows]."""
    with_skips, without = follow(table, policy).visited, follow(table, without_skips(policy)).visited
    skipped: Mask = (without & ~with_skips).any(axis=1)
    return skipped


def searched(setting: Setting) -> PolicyTable | None:
    """The cheapest policy within the allowance on the search rows of which enough rows skip."""
    rows = setting.scores.part("search")
    question = replace(setting.question, max_accuracy_drop=ALLOWANCE)
    judged = Evaluator(rows, question)
    pool = [judged(policy) for policy in search(rows, question).pool if _skips(policy)]
    legal = [
        policy
        for policy in pool
        if keeps(policy, question) and would_skip(rows, policy.table).mean() >= ENOUGH
    ]
    return min(legal, key=lambda policy: policy.cost).table if legal else None


def _skips(policy: PolicyTable) -> bool:
    return any(goal > level + 1 for level, entry in enumerate(policy.routes) for goal in entry.to)


def run(setting: Setting) -> Finding:
    """Two policies, each with and without skips, with cheap tiers in the router and without."""
    rows, logits = setting.test_part(ROWS_PER_EFFORT * setting.effort.rows)
    table = setting.table(rows, logits)
    policies = {f"equal bands below {ACCEPT:g}": equal_bands(setting.cascade.tier_names, ACCEPT)}
    ours = searched(setting)
    if ours is not None:
        policies["searched jointly"] = ours
    pairs = {
        (name, where): (
            Router.of(f"skips_{number}_{int(local)}", policy, local),
            Router.of(f"chain_{number}_{int(local)}", without_skips(policy), local),
        )
        for number, (name, policy) in enumerate(policies.items())
        for where, local in CALLED.items()
    }
    found = []
    with routers_served(setting, [router for pair in pairs.values() for router in pair]) as bench:
        for (name, where), pair in pairs.items():
            setting.say(f"  {name}, {where}")
            found.append((name, where, *_compared(bench, pair, rows, table)))
    quality: list[tuple[Cell, ...]] = []
    for (name, policy), skips in product(policies.items(), (True, False)):
        seen = evaluate(table, policy if skips else without_skips(policy), setting.question)
        quality.append((name, "yes" if skips else "no", seen.accuracy, seen.cost))
    latency = (
        Column("policy"),
        Column("how"),
        Column("rows that would skip", ".1%"),
        Column("of them measured", "d"),
        Column("P50 ms with", ".2f"),
        Column("without", ".2f"),
        Column("P90 ms with", ".2f"),
        Column("without", ".2f"),
        Column("P90 with to without", ".3f"),
    )
    worth = (
        Column("policy"),
        Column("skips"),
        Column("accuracy", ".4f"),
        Column(f"cost, {setting.plan.cost_unit}", ".3f"),
    )
    told = "; ".join(f"{row[0]}, {row[1]}: {row[8]:.3f}" for row in found)
    return Finding(
        said=(f"P90 of the rows that would skip, with skips as a multiple of without: {told}.",),
        tables=(
            Table(
                "Rows that would skip, one client, all routers in turns", "measured", latency, tuple(found)
            ),
            Table(
                "All test rows (accuracy measured, cost by the profile)", "modelled", worth, tuple(quality)
            ),
        ),
    )


def _compared(
    bench: Bench, pair: tuple[Router, Router], rows: Rows, table: ScoreTable
) -> tuple[float, int, float, float, float, float, float]:
    skipped = np.flatnonzero(would_skip(table, pair[0].policy))
    share = len(skipped) / len(rows)
    mine = skipped[: bench.setting.effort.rows // 2]
    parts: dict[str, list[npt.NDArray[np.float64]]] = {router.name: [] for router in pair}
    for _ in range(bench.setting.effort.passes):
        for name, times in bench.in_turns([router.name for router in pair], rows.take(mine)).items():
            parts[name].append(times)
    # The median of the passes, row by row: what a row takes and not what the host did meanwhile.
    with_skips, without = (np.median(parts[router.name], axis=0) for router in pair)
    quantiles = [float(np.quantile(times, q)) for q in (0.5, 0.9) for times in (with_skips, without)]
    p50, p50_without, p90, p90_without = quantiles
    return share, len(mine), p50, p50_without, p90, p90_without, p90 / p90_without


EXPERIMENT = Experiment(
    number=5,
    title="P90 of the rows that would skip, with and without skip connections",
    paper="HybridServe",
    claim=(
        "A confidence far below the threshold goes past the models between, straight to a larger one, and "
        "the row does not pay for those."
    ),
    how=(
        "Rows of the test set that skip a tier, through two policies over all four tiers: equal accept "
        "thresholds with the prototype's equal bands below, and the cheapest of our joint search that has "
        "skips; beside each the same with every skip led to the next tier. Once with every tier a model "
        "that is called, as in the paper, and once with the cheap tiers in the router's process, as the "
        "cascade is planned. The median of the passes, row by row."
    ),
    run=run,
)
