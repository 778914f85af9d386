"""Experiment 6: a plan made for one type of GPU, run with the profile of another."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from benchmarks.paper.finding import Cell, Column, Experiment, Finding, Table
from benchmarks.paper.setting import SEED, Setting
from benchmarks.paper.vit import (
    LARGE_GPU,
    RESERVED_MIB,
    Change,
    as_given,
    drawn,
    half_as_wide,
    published,
    resident_utilization,
    system,
    tier_loads,
)
from cascade_tools.planning.placement.balance import balance
from cascade_tools.planning.placement.problem import Device, Problem, Solution
from cascade_tools.planning.placement.solve import solve
from cascade_tools.planning.simulator.engine import simulate
from cascade_tools.stages.solver_output import solver_output_on_stderr

GPUS = 8
MEMORY_MIB = 24576 - RESERVED_MIB
BATCH = 4
LOAD = 0.7  # of the rate that a plan promises
TIME_LIMIT_S = 10.0


class Kind(NamedTuple):
    """A type of GPU: its name here, and what it does to the points of the large one."""

    name: str
    change: Change


A, B = Kind("A", as_given), Kind("B", half_as_wide)


class Plan(NamedTuple):
    """A placement that was made for a type."""

    kind: Kind
    problem: Problem
    solution: Solution


def plan_for(kind: Kind) -> Plan:
    """The highest rate of eight such GPUs, strictly."""
    loads = tier_loads(published(), (BATCH,), LARGE_GPU, kind.change)
    problem = Problem(loads, (Device(LARGE_GPU, MEMORY_MIB),) * GPUS, rule="strict")
    with solver_output_on_stderr():
        return Plan(kind, problem, solve(problem, TIME_LIMIT_S))


def run(setting: Setting) -> Finding:
    """Both plans on both types."""
    plans = {kind.name: plan_for(kind) for kind in (A, B)}
    rate = {name: LOAD * plan.solution.rate_rps for name, plan in plans.items()}
    rows = [
        _row(setting, plans[plan], kind, rate[at], at)
        for plan, kind, at in (("A", A, "A"), ("A", B, "A"), ("A", B, "B"), ("B", B, "B"))
    ]
    same, thrashed, slowed, right = rows
    columns = (
        Column("plan for"),
        Column("run on"),
        Column("rows/s", ",.0f"),
        Column(f"that is {LOAD:.0%} of the plan for"),
        Column("largest sum of utilization on a GPU", ".2f"),
        Column("holds, rows/s (by its loads)", ",.0f"),
        Column("mean busy share", ".2f"),
        Column("largest", ".2f"),
        Column("P50 ms", ",.1f"),
        Column("P95 ms", ",.1f"),
        Column("answered per second", ",.0f"),
    )
    keeps_up = "keeps up" if _keeps_up(thrashed) else "does not keep up"
    return Finding(
        said=(
            f"On A the plan for A runs at a busy share of {same[6]:.2f} with a P95 of {same[9]:.1f} ms. On "
            f"B the sum of utilization of what is resident is up to {thrashed[4]:.2f} on one GPU, above "
            f"the rule's 1; at A's rate it {keeps_up} ({thrashed[10]:,.0f} of {thrashed[2]:,.0f} rows/s "
            f"answered) and the P95 is {thrashed[9]:,.0f} ms after {setting.effort.seconds:.0f} s.",
            f"At the rate that a plan for B promises, B's own plan has a P95 of {right[9]:.1f} ms and A's "
            f"plan {slowed[9]:.1f} ms: what hurts is the promised rate more than the places.",
        ),
        tables=(Table("Eight GPUs, Poisson arrivals", "simulated", columns, tuple(rows)),),
    )


def _row(setting: Setting, plan: Plan, kind: Kind, rate_rps: float, at: str) -> tuple[Cell, ...]:
    ladder = published()
    loads = tier_loads(ladder, (BATCH,), LARGE_GPU, kind.change)
    there = Problem(loads, plan.problem.devices, rule="strict")
    rng = np.random.default_rng(SEED)
    count = round(rate_rps * setting.effort.seconds)
    arrival_s = np.cumsum(rng.exponential(1.0 / rate_rps, count))
    recorded = drawn(ladder)
    picked = rng.integers(0, len(recorded.correct), count)
    running = system(ladder, there, plan.solution, BATCH, LARGE_GPU, kind.change)
    found = simulate(running, arrival_s, picked, recorded)
    outcomes = found.outcomes
    return (
        plan.kind.name,
        kind.name,
        rate_rps,
        at,
        max(resident_utilization(there, plan.solution)),
        balance(there, plan.solution.count)[0],
        float(found.busy_share.mean()),
        float(found.busy_share.max()),
        outcomes.latency_quantile_ms(0.5),
        outcomes.latency_quantile_ms(0.95),
        outcomes.throughput_rps(),
    )


def _keeps_up(row: tuple[Cell, ...]) -> bool:
    """Nearly as much is answered as comes."""
    wanted, answered = row[2], row[10]
    assert isinstance(wanted, float) and isinstance(answered, float)
    return answered >= 0.95 * wanted


EXPERIMENT = Experiment(
    number=6,
    title="A plan for one type of GPU on another",
    paper="HybridServe",
    claim=(
        "Where the kernel utilization of what is on a GPU exceeds 1 the GPU thrashes; the paper names it "
        "as a failure signature. A plan is made from a profile, so it is for the type of GPU that was "
        "profiled."
    ),
    how=(
        "The published vision transformers in batches of 4 on eight GPUs, by the rule `strict`. A: the "
        "published profile of 24 GB. B (modelled): a GPU with half the units, on which a busy instance "
        f"fills twice the share, up to {0.98:g}, and takes longer only beyond that. Plans for both, each "
        "run on either: whoever is on a GPU slows down in proportion once the utilization of what is busy "
        "exceeds 1."
    ),
    run=run,
)
