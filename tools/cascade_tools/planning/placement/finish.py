"""From instances to an answer: what stands idle goes, the loads are balanced, the goal is counted."""

from __future__ import annotations

import numpy as np

from cascade_tools.planning.placement.balance import balance, balance_at
from cascade_tools.planning.placement.baselines.blocks import complete
from cascade_tools.planning.placement.problem import FloatArray, IntArray, Problem, Solution
from cascade_tools.planning.placement.programs.numbers import Numbers, numbers_of

IDLE = 1e-7  # of one busy instance, or of the busiest where that is less
FAINT = 100.0
BEATEN = 1e-4


def finish(problem: Problem, count: IntArray, bound: float, status: str, method: str) -> Solution | None:
    """The answer that these instances give.

    Returns:
        None if they sustain no rate, or not the goal's.
    """
    numbers = numbers_of(problem)
    load = _load(problem, count)
    if load is None:
        return None
    count = trimmed(problem, numbers, count, load[1])
    rate, busy = load[0], np.minimum(load[1], count)
    value = counted(problem, count, busy, rate)
    return Solution(count, busy, rate, value, best_bound(problem, value, bound), status, method)


def counted(problem: Problem, count: IntArray, busy: FloatArray, rate_rps: float) -> float:
    """What the goal counts: rows/s, GPUs in use, or watts."""
    if problem.goal.rate_rps is None:
        return rate_rps
    used = count.sum(axis=0) > 0
    if problem.goal.minimise == "gpus":
        return float(used.sum())
    idle = sum(device.idle_w for device, there in zip(problem.devices, used.tolist(), strict=True) if there)
    numbers = numbers_of(problem)
    joule = (numbers.rows_per_busy * numbers.scale_rps * numbers.energy_j)[:, numbers.kind]
    return float(idle + (busy * joule).sum())


def best_bound(problem: Problem, value: float, bound: float) -> float:
    """A bound that the value does not beat by rounding; where nothing is proven, the trivial one.

    A bound that the value beats by more than that is wrong, and proves nothing.
    """
    if problem.goal.rate_rps is None:
        holds = np.isfinite(bound) and value <= bound * (1.0 + BEATEN)
        return max(bound, value) if holds else float("inf")
    holds = np.isfinite(bound) and value >= bound * (1.0 - BEATEN)
    return min(max(bound, 0.0), value) if holds else 0.0


def trimmed(problem: Problem, numbers: Numbers, count: IntArray, busy: FloatArray) -> IntArray:
    """Without the instances that are never busy; what is wanted anyhow and the homes of all tiers stay."""
    # Few rows are no rows only beside the many of the same tier.
    most = np.array([busy[numbers.tier == i].max(initial=0.0) for i in range(len(numbers.reach))])
    needed = np.ceil(busy - IDLE * np.minimum(most, 1.0)[numbers.tier][:, None]).astype(np.int64)
    if problem.at_least is not None:
        needed = np.maximum(needed, problem.at_least)
    for i in range(len(problem.tiers)):
        mine = numbers.tier == i
        if busy[mine].max(initial=0.0) <= FAINT * IDLE:  # hardly ever asked, or never: it stays
            needed[mine] = count[mine]
    needed = np.minimum(needed, count)
    if numbers.per_host:  # a host that serves nothing is not in use
        done = np.bincount(problem.hosts, busy.sum(axis=0))
        needed[:, (done <= IDLE * min(done.max(), 1.0))[problem.hosts]] = 0
    return complete(problem, needed, problem.hosts)


def _load(problem: Problem, count: IntArray) -> tuple[float, FloatArray] | None:
    wanted = problem.goal.rate_rps
    if wanted is None:
        rate, busy = balance(problem, count)
        return (rate, busy) if rate > 0.0 else None
    at = balance_at(problem, count, wanted)
    return None if at is None else (wanted, at)
