"""Experiment 3: the planner on one GPU under a memory cap."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.paper.finding import Cell, Column, Experiment, Finding, Table
from benchmarks.paper.setting import Setting
from benchmarks.paper.vit import (
    LARGE_GPU,
    RESERVED_MIB,
    Ladder,
    held_mib,
    placed,
    published,
    resident_utilization,
    tier_loads,
)
from cascade_tools.errors import Infeasible
from cascade_tools.planning.placement.problem import Device, Problem, Rule, TierLoad
from cascade_tools.planning.placement.solve import solve
from cascade_tools.stages.solver_output import solver_output_on_stderr

CAPS_MIB = (2048, 2560, 4096, 8192, 24576)
QUICK_CAPS_MIB = (2048, 4096)
BATCHES = (1, 4, 8, 32)
TIME_LIMIT_S = 10.0


def under_cap(loads: tuple[TierLoad, ...], cap_mib: int, rule: Rule = "strict") -> tuple[Cell, ...]:
    """One row: instances, memory, sum of utilization, rate; or what is missing."""
    problem = Problem(loads, (Device(LARGE_GPU, cap_mib - RESERVED_MIB),), rule=rule)
    try:
        with solver_output_on_stderr():
            found = solve(problem, TIME_LIMIT_S)
    except Infeasible as error:
        return cap_mib, f"infeasible: {error.message}", None, None, None
    (used,), (share,) = held_mib(problem, found), resident_utilization(problem, found)
    return cap_mib, placed(problem, found), used, share, found.rate_rps


def alone(loads: tuple[TierLoad, ...], cap_mib: int) -> float | None:
    """What the last tier alone sustains under the same cap."""
    rate = under_cap((replace(loads[-1], reach=1.0),), cap_mib)[-1]
    return rate if isinstance(rate, float) else None


def run(setting: Setting) -> Finding:
    """All caps."""
    ladder: Ladder = published()
    loads = tier_loads(ladder, BATCHES)
    caps = CAPS_MIB if setting.effort.passes > 1 else QUICK_CAPS_MIB
    rows = tuple(
        (*under_cap(loads, cap), alone(loads, cap), *under_cap(loads, cap, "loose")[-2:]) for cap in caps
    )
    strict = {row[4] for row in rows if row[4] is not None}
    shares = [row[3] for row in rows if isinstance(row[3], float)]
    gains = [row[4] / row[5] for row in rows if isinstance(row[4], float) and isinstance(row[5], float)]
    columns = (
        Column("cap, MiB", ",d"),
        Column("instances"),
        Column("held, MiB", ",d"),
        Column("sum of utilization", ".3f"),
        Column("rows/s", ",.0f"),
        Column("giant alone, rows/s", ",.0f"),
        Column("rule loose: sum of utilization", ".2f"),
        Column("rows/s", ",.0f"),
    )
    return Finding(
        said=(
            f"Under {len(shares)} of {len(caps)} caps there is a plan; the largest sum of kernel "
            f"utilization is {max(shares):.3f}. It sustains {min(gains):.2f} to {max(gains):.2f} times "
            "what the giant alone does under the same cap.",
            *_binding(len(strict)),
        ),
        tables=(Table("One GPU of 24 GB, capped", "modelled", columns, rows),),
    )


def _binding(rates: int) -> tuple[str, ...]:
    if rates > 1:
        return ()
    return ("Once all four fit it is the rule that binds: more memory changes nothing by `strict`.",)


EXPERIMENT = Experiment(
    number=3,
    title="The planner on one GPU under a memory cap",
    paper="HybridServe",
    claim=(
        "The planner fills the memory that the giant leaves with small models and keeps the sum of kernel "
        "utilization on a GPU at or under 1."
    ),
    how=(
        "The published vision transformers (`ensembles/vit-cluster`: utilization and memory given, times "
        f"modelled from them), all four on one GPU, in batches of {', '.join(map(str, BATCHES))}, by the "
        f"rule `strict` and for the highest rate; {RESERVED_MIB} MiB of every cap are reserved. The sum is "
        "counted again from the instances, without the solver. Beside it the rule `loose`, by which the "
        "instances take turns and only the busy share is at most 1."
    ),
    run=run,
)
