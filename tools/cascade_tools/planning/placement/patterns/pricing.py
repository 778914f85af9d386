"""The best pattern of one kind of site at given prices: a small program over the devices of one site.

    max  sum_i price_i * served_i - cost          over the cells of `cells.py` on these devices

Cost is nothing (highest rate), the devices in use, or watts. With the closure `host` a site serves whole
requests, so there is one good, the rate, in place of one per tier.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from cascade_tools.planning.placement.patterns.sites import SiteKind
from cascade_tools.planning.placement.problem import FloatArray, Goal, IntArray
from cascade_tools.planning.placement.programs.cells import Cells, add_cells, add_homes, served
from cascade_tools.planning.placement.programs.numbers import Numbers
from cascade_tools.planning.placement.programs.program import Program


@dataclass(frozen=True)
class Column:
    """A pattern with its best load at some prices.

    Attributes:
        site: kind of site that it fills.
        count: instances, [units, places].
        busy: busy instances of that load, [units, places].
        goods: rows/s over the scale that it serves, [goods].
        cost: what it costs by the goal.
    """

    site: int
    count: IntArray
    busy: FloatArray
    goods: FloatArray
    cost: float


@dataclass(frozen=True)
class Pricer:
    """The program of one kind of site; goods are terms (good, column, value)."""

    number: int
    site: SiteKind
    program: Program
    cells: Cells
    good: IntArray
    column: IntArray
    value: FloatArray
    cost: tuple[tuple[IntArray, FloatArray], ...]
    goods: int
    units: int

    def best(self, price: FloatArray, limit_s: float, gap: float) -> tuple[Column | None, float]:
        """The best pattern found at these prices [goods], and what no pattern exceeds."""
        terms = [(self.column, -price[self.good] * self.value), *self.cost]
        if not any(np.any(value) for _, value in terms):
            return None, 0.0
        result = self.program.solve(terms, limit_s, gap)
        bound = np.inf if result.mip_dual_bound is None else max(0.0, -result.mip_dual_bound)
        if result.x is None:
            return None, 0.0 if result.status == 2 else bound
        rows = np.asarray(self.value * result.x[self.column], np.float64)
        goods = np.zeros(self.goods)
        np.add.at(goods, self.good, rows)
        cost = sum(float(value @ result.x[column]) for column, value in self.cost)
        shape = (self.units, len(self.site.kind))
        busy = np.zeros(shape)
        busy[self.cells.unit, self.cells.device] = result.x[self.cells.busy]
        return Column(self.number, self.cells.counts(result.x, shape), busy, goods, cost), bound


def pricer(numbers: Numbers, goal: Goal, number: int, site: SiteKind) -> Pricer:
    """Build the program of one kind of site."""
    program = Program()
    places = len(site.kind)
    host = np.zeros(places, np.int64)
    cells = add_cells(program, numbers, site.kind, host, ask_used=goal.rate_rps is not None)
    tier, _, column, value = served(numbers, site.kind, cells)
    goods = len(numbers.reach)
    if numbers.per_host:
        rate = program.columns(1)
        rows = np.arange(goods)
        terms = [(tier, column, value), (rows, rate, -numbers.reach)]
        program.rows(goods, terms, lower=0.0, upper=0.0)
        in_use = program.columns(1, upper=1.0, whole=True)
        each = np.arange(len(cells.unit))
        program.rows(len(each), [(each, cells.count, 1.0), (each, in_use, -cells.most)], upper=0.0)
        add_homes(program, numbers, cells, np.flatnonzero(numbers.faint), in_use)
        tier, column, value, goods = np.zeros(1, np.int64), rate, np.ones(1), 1
    return Pricer(
        number,
        site,
        program,
        cells,
        tier,
        column,
        value,
        _cost(numbers, goal, site, cells),
        goods,
        len(numbers.tier),
    )


def _cost(
    numbers: Numbers, goal: Goal, site: SiteKind, cells: Cells
) -> tuple[tuple[IntArray, FloatArray], ...]:
    if cells.used is None:
        return ()
    per_device, per_busy = prices_of_goal(numbers, goal, site)
    return ((cells.used, per_device), (cells.busy, per_busy[cells.unit, cells.device]))


def prices_of_goal(numbers: Numbers, goal: Goal, site: SiteKind) -> tuple[FloatArray, FloatArray]:
    """What a device in use costs, [places], and a busy instance, [units, places]."""
    nothing = np.zeros((len(numbers.tier), len(site.kind)))
    if goal.rate_rps is None:
        return np.zeros(len(site.kind)), nothing
    if goal.minimise == "gpus":
        return np.ones(len(site.kind)), nothing
    idle = np.array([numbers.kinds[k].idle_w for k in site.kind])
    return idle, (numbers.rows_per_busy * numbers.energy_j)[:, site.kind] * numbers.scale_rps


def restated(numbers: Numbers, goal: Goal, site: SiteKind, column: Column, scale_rps: float) -> Column:
    """A pattern, whose goods are over `scale_rps`, with its goods and cost by another goal."""
    per_device, per_busy = prices_of_goal(numbers, goal, site)
    cost = float(per_device @ column.count.any(axis=0)) + float((per_busy * column.busy).sum())
    return replace(column, goods=column.goods * (scale_rps / numbers.scale_rps), cost=cost)
