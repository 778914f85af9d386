"""Experiment 7: a smallest tier that costs over 5 % of the giant, with and without a bound on latency."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from benchmarks.paper.finding import Cell, Column, Experiment, Finding, Table
from benchmarks.paper.served import ExtraTier, Router, routers_served
from benchmarks.paper.setting import Setting, score_table
from benchmarks.paper.views import DenseTier, dense_tier, row_times_ms
from cascade_tools.artifacts import PolicyTable, ScoreTable
from cascade_tools.models.usercode import Rows, load_rows
from cascade_tools.planning.evaluate import Question, evaluate, follow
from cascade_tools.planning.search import search
from cascade_tools.runtime.head import Scores

FIRST, MIDDLE = ("small_49_views", "small", 3), ("base_25_views", "base", 2)
ALLOWANCES = (0.25, 0.5, 1.0, 1.5, 2.0, 3.0)
MEASURED = 1.0
BOUNDS: dict[str, float | None] = {"none": None, "P95 <= 1.1 x giant": 1.1, "P95 <= 1.0 x giant": 1.0}
SLACK_MS = 1e-6


def run(setting: Setting) -> Finding:
    """A sweep of allowances by the model; one of them on the server."""
    labelled = load_rows(setting.cascade, "validation")
    known = setting.scores
    fit = labelled.take(known.split == "fit")
    tiers = [dense_tier(setting, *spec, fit) for spec in (FIRST, MIDDLE)]
    giant = setting.cascade.tier_names[-1]
    time_ms = row_times_ms({**{t.name: t.graph for t in tiers}, giant: setting.graph(giant)}, fit)
    setting.say("  " + ", ".join(f"{name} {ms:.2f} ms" for name, ms in time_ms.items()))
    keep = known.split == "search"
    table = _with_giant(tiers, labelled.take(keep), giant, known.where(keep))
    question = _question(setting, time_ms)
    chosen = {
        (allowance, name): _searched(table, question, allowance, bound)
        for allowance in ALLOWANCES
        for name, bound in BOUNDS.items()
    }
    swept: list[tuple[Cell, ...]] = [
        (allowance, name, " > ".join(policy.tiers), *_modelled(table, policy, question))
        for (allowance, name), policy in chosen.items()
    ]
    extra = [ExtraTier(tier.name, tier.graph, time_ms[tier.name]) for tier in tiers]
    served = _served(setting, {name: chosen[MEASURED, name] for name in BOUNDS}, extra, giant)
    ratio = time_ms[FIRST[0]] / time_ms[giant]
    by_name = {str(row[0]): row for row in served}
    p90 = {name: float(row[4] or 0.0) for name, row in by_name.items()}
    told = "; ".join(f"bound {name}: {p90[name] / p90[giant]:.2f}" for name in BOUNDS)
    dearer = sum(1 for a in ALLOWANCES if chosen[a, "none"] != chosen[a, "P95 <= 1.0 x giant"])
    return Finding(
        said=(
            f"The smallest tier takes {ratio:.1%} of the giant's time of a row. With {MEASURED:g} point of "
            f"allowance the measured P90 is, as a multiple of the giant's {p90[giant]:.2f} ms: {told}.",
            f"In {dearer} of {len(ALLOWANCES)} allowances the bound changes the policy: it gives up cost "
            "to keep the tail, by skips, by leaving a tier out, or by the giant alone.",
        ),
        tables=(
            Table(
                f"Allowance of {MEASURED:g} point, one client, in turns, test rows",
                "measured",
                _SERVED,
                served,
            ),
            Table(
                "All allowances, by summed medians of the tiers, search rows",
                "modelled",
                _SWEPT,
                tuple(swept),
            ),
        ),
    )


_SERVED = (
    Column("bound in the search"),
    Column("tiers"),
    Column("accuracy", ".4f"),
    Column("P50 ms", ".2f"),
    Column("P90 ms", ".2f"),
    Column("P95 ms", ".2f"),
)
_SWEPT = (
    Column("allowance, points", ".2f"),
    Column("bound"),
    Column("tiers"),
    Column("reach of the giant", ".1%"),
    Column("cost, ms a row", ".2f"),
    Column("P90 ms", ".2f"),
    Column("P95 ms", ".2f"),
)


def _with_giant(tiers: list[DenseTier], rows: Rows, giant: str, known: ScoreTable) -> ScoreTable:
    """What the dense tiers say of rows, beside what is known of the giant."""
    scores = {tier.name: tier.scores(rows) for tier in tiers}
    last = known.tiers.index(giant)
    nothing = np.zeros((len(rows), 0), np.float32)
    scores[giant] = Scores(known.label[:, last], known.confidence[:, last], nothing)
    return score_table(rows, scores)


def _question(setting: Setting, time_ms: dict[str, float]) -> Question:
    """Costs are the times of a row; latencies add what asking a tier takes."""
    hop = setting.profile.hop
    local = setting.plan.limits.inline_entry_ms
    ask = {
        name: 0.0 if hop is None else hop.step_ms if ms <= local else hop.latency_ms
        for name, ms in time_ms.items()
    }
    return Question(
        cost=tuple(time_ms.values()),
        max_accuracy_drop=MEASURED,
        latency_ms=tuple(ms + ask[name] for name, ms in time_ms.items()),
    )


def _searched(table: ScoreTable, question: Question, allowance: float, bound: float | None) -> PolicyTable:
    """The cheapest policy; the giant alone keeps every bound here."""
    assert question.latency_ms is not None
    most = {} if bound is None else {"p95": bound * question.latency_ms[-1] + SLACK_MS}
    asked = replace(question, max_accuracy_drop=allowance, max_latency_ms=most)
    best = search(table, asked).best
    assert best is not None
    return best


def _modelled(table: ScoreTable, policy: PolicyTable, question: Question) -> tuple[float, ...]:
    seen = evaluate(table, policy, question)
    times = follow(table, policy).visited @ np.asarray(question.latency_ms)
    p90, p95 = np.quantile(times, (0.9, 0.95), method="higher").tolist()
    return seen.reach[table.tiers[-1]], seen.cost, p90, p95


def _served(
    setting: Setting, policies: dict[str, PolicyTable], extra: list[ExtraTier], giant: str
) -> tuple[tuple[Cell, ...], ...]:
    """Every different policy and the giant, on the server."""
    rows = setting.test_rows.take(slice(0, setting.effort.rows))
    routers = {
        policy: Router.of(f"dense_{number}", policy)
        for number, policy in enumerate(dict.fromkeys(policies.values()))
    }
    with routers_served(setting, list(routers.values()), extra) as bench:
        alone = bench.tier_model(giant)
        names = [alone, *(router.name for router in routers.values())]
        setting.say(f"  {len(rows)} rows at 1 client, {len(names)} models in turns")
        latency = bench.in_turns(names, rows)
        accuracy = {name: bench.accuracy(name, rows) for name in names}
    found = [(giant, "", alone)] + [
        (name, " > ".join(policy.tiers), routers[policy].name) for name, policy in policies.items()
    ]
    return tuple(
        (name, tiers, accuracy[model], *np.quantile(latency[model], (0.5, 0.9, 0.95)).tolist())
        for name, tiers, model in found
    )


EXPERIMENT = Experiment(
    number=7,
    title="A dense smallest tier: P90 with and without a bound on latency in the search",
    paper="HybridServe",
    claim=(
        "Left open: when the smallest model costs more than 5 % of the giant, every hard request pays for "
        "it, and the tail is longer than the giant's; the paper's search knows energy only."
    ),
    how=(
        "A ladder of `small` looking at each image from 49 shifts, `base` from 25 shifts, and the giant. "
        "Our search for the cheapest policy within an allowance, without and with `max_latency_ms` on the "
        "P95 (which bounds the P90, too): at most 1.1 times the giant's and at most the giant's."
    ),
    run=run,
)
