"""Sub-problem 3: one placement under several loads (CascadeServe, SP3, with a program instead of the greedy).

Every gear is a scenario: a rate, and the shares of it that the tiers see. Instances n are common, loads f
are each scenario's own:

    max X    for every scenario s, tier i:  what f[s] gets done at i  =  reach[s, i] * rate[s] * X
             f[s, u, g] <= n[u, g],  and all rows of `placement/programs/cells.py` for each s

X is the least margin: 1 / X is how busy the busiest device is in the hardest scenario. Instances cost a
little, so that none stands there for nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from cascade_tools.errors import Infeasible
from cascade_tools.planning.gears.front import with_reach
from cascade_tools.planning.gears.neighbours import with_wanted
from cascade_tools.planning.placement.balance import balance
from cascade_tools.planning.placement.baselines.blocks import complete, homeless
from cascade_tools.planning.placement.problem import FloatArray, Goal, IntArray, Problem
from cascade_tools.planning.placement.programs.cells import Cells, add_cells, add_homes, served
from cascade_tools.planning.placement.programs.numbers import Numbers, numbers_of
from cascade_tools.planning.placement.programs.program import Program
from cascade_tools.planning.placement.solve import solve

MOST_CELLS = 1500  # units x devices x scenarios; above it the envelope has to do
NO_MARGIN = 1e-9
COUNT_WEIGHT = 1e-5  # of all memory, beside a margin of order one


class Scenario(NamedTuple):
    """A rate (rows/s), and the share of it that each tier of the problem sees."""

    rate_rps: float
    reach: tuple[float, ...]


@dataclass(frozen=True)
class Common:
    """Instances [units, devices] for all scenarios, and the margin of each, [scenarios]."""

    count: IntArray
    margins: FloatArray


def margins(problem: Problem, count: IntArray, scenarios: Sequence[Scenario]) -> FloatArray:
    """What a placement sustains in each scenario over what is asked of it, [scenarios]."""
    known: dict[tuple[float, ...], float] = {}
    for one in scenarios:
        if one.reach not in known:
            known[one.reach] = balance(with_reach(problem, one.reach), count)[0]
    return np.array([known[one.reach] / one.rate_rps for one in scenarios])


def common_placement(problem: Problem, scenarios: Sequence[Scenario], time_limit_s: float) -> Common:
    """The placement whose least margin is highest, of those that the searches find.

    Args:
        problem: its own reach and goal play no part.
        scenarios: at least one.
        time_limit_s: of each search.

    Raises:
        Infeasible: the tiers do not fit together.
    """
    hard = hardest(scenarios)
    counts: list[IntArray] = []
    trouble: Infeasible | None = None
    try:
        counts.append(solve(_envelope(problem, hard), time_limit_s).count)
    except Infeasible as error:
        trouble = error
    if len(hard) > 1 and len(problem.units) * len(problem.devices) * len(hard) <= MOST_CELLS:
        found = _program(problem, hard, time_limit_s)
        counts += [] if found is None else [found]
    if not counts:
        assert trouble is not None
        raise trouble
    answers = [Common(count, margins(problem, count, scenarios)) for count in counts]
    return max(answers, key=lambda answer: float(answer.margins.min()))


def hardest(scenarios: Sequence[Scenario]) -> list[Scenario]:
    """Those that no other scenario implies: one that asks at least as much of every tier."""
    asked = [one.rate_rps * np.asarray(one.reach) for one in scenarios]
    kept = []
    for number, mine in enumerate(asked):
        others = (
            other
            for place, other in enumerate(asked)
            if place != number and (other >= mine).all() and (place < number or (other > mine).any())
        )
        if next(others, None) is None:
            kept.append(scenarios[number])
    return kept


def _envelope(problem: Problem, scenarios: Sequence[Scenario]) -> Problem:
    """A load that is at least every scenario's at every tier: what sustains it sustains them all."""
    asked = np.max([one.rate_rps * np.asarray(one.reach) for one in scenarios], axis=0)
    most = float(asked.max())
    return replace(with_reach(problem, tuple((asked / most).tolist())), goal=Goal())


def _program(problem: Problem, scenarios: Sequence[Scenario], time_limit_s: float) -> IntArray | None:
    """The joint program; None where it finds nothing in time."""
    numbers = numbers_of(_envelope(problem, scenarios))
    program, shared = Program(), None
    margin = program.columns(1)
    # Demands are of order one, whatever the rates are.
    unit_rps = max(one.rate_rps for one in scenarios)
    for one in scenarios:
        cells = add_cells(program, numbers, numbers.kind, problem.hosts)
        if shared is None:
            shared = cells
        else:
            row = np.arange(len(cells.count))
            program.rows(len(row), [(row, cells.count, 1.0), (row, shared.count, -1.0)], 0.0, 0.0)
        _keep_up(program, numbers, cells, one.rate_rps / unit_rps, np.asarray(one.reach), margin)
    assert shared is not None
    add_homes(program, numbers, shared, np.flatnonzero(numbers.faint))
    result = program.solve([(margin, -1.0), _of_counts(problem, numbers, shared)], time_limit_s)
    if result.x is None or result.x[margin[0]] <= NO_MARGIN:
        return None
    count = shared.counts(result.x, (len(problem.units), len(problem.devices)))
    kept = _whole(problem, count)
    return None if kept is None else _whole(problem, with_wanted(problem, kept))


def _of_counts(problem: Problem, numbers: Numbers, cells: Cells) -> tuple[IntArray, FloatArray]:
    """A small cost of every instance: its share of all memory."""
    total = max(sum(device.memory_mib for device in problem.devices), 1)
    each = np.maximum(np.maximum(numbers.further_mib, 0.5 * numbers.memory_mib), 1.0)
    return cells.count, COUNT_WEIGHT * each[cells.unit] / total


def _whole(problem: Problem, count: IntArray) -> IntArray | None:
    """Without stages whose chain is not whole and, with the closure `host`, hosts that miss a tier.

    None where a tier has no home then.
    """
    kept = complete(problem, count, problem.hosts)
    return None if homeless(problem, kept) else kept


def _keep_up(
    program: Program, numbers: Numbers, cells: Cells, rate: float, reach: FloatArray, margin: IntArray
) -> None:
    """What is served of a tier is its share of the scenario's rate; with closure `host`, in every host."""
    tier, host, column, value = served(numbers, numbers.kind, cells)
    hosts = int(cells.host.max()) + 1 if numbers.per_host else 1
    zone = host if numbers.per_host else np.zeros_like(host)
    rates = program.columns(hosts)
    program.rows(1, [(0, rates, 1.0), (0, margin, -rate)], 0.0, 0.0)
    rows = np.arange(len(reach) * hosts)
    terms = [
        (tier * hosts + zone, column, value),
        (rows, np.tile(rates, len(reach)), -np.repeat(reach, hosts)),
    ]
    program.rows(len(rows), terms, 0.0, 0.0)
