"""Baseline: the last tier answers everything."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from cascade_tools.planning.placement.baselines.blocks import Blocks, blocks_of, complete
from cascade_tools.planning.placement.baselines.choice import units_of, work
from cascade_tools.planning.placement.baselines.full_lp import dealt
from cascade_tools.planning.placement.baselines.room import crowded
from cascade_tools.planning.placement.problem import IntArray, Problem
from cascade_tools.planning.placement.programs.numbers import Numbers, numbers_of


def giant_problem(problem: Problem) -> Problem:
    """The same cluster with the last tier alone, which sees all rows, and what of an overhead stays then."""
    last = replace(problem.tiers[-1], reach=1.0)
    stays = (replace(tier, variants=(tier.alone,)) for tier in problem.tiers if tier.alone is not None)
    return replace(problem, tiers=(*stays, last), at_least=None)


def giant_only(alone: Problem) -> IntArray:
    """As many instances of the last tier as fit and can be busy; hosts are chosen for one by one.

    In each kind of host the best of: one variant on all devices; the whole model where it fits and stages on
    the others. Overheads stand where they can.

    Returns:
        Instances, [units, devices].
    """
    numbers = numbers_of(alone)
    blocks = blocks_of(alone, numbers)
    best = np.zeros((len(numbers.tier), len(blocks)), np.int64)
    highest = np.zeros(len(blocks))
    beside = _overheads(alone, numbers, blocks)
    tier_alone = replace(
        alone, tiers=tuple(replace(t, reach=0.0 if t.overhead else 1.0) for t in alone.tiers)
    )
    for count in _candidates(alone, numbers, blocks, beside):
        for host in np.unique(blocks.host):
            inside = blocks.host == host
            rate, _ = blocks.load(tier_alone, np.where(inside, count, 0))
            if rate > highest[inside][0] * (1.0 + 1e-9):
                best[:, inside], highest[inside] = count[:, inside], rate
    return blocks.expand(alone, np.maximum(best, beside))


def _candidates(alone: Problem, numbers: Numbers, blocks: Blocks, beside: IntArray) -> Iterator[IntArray]:
    last, variants = len(alone.tiers) - 1, alone.tiers[-1].variants
    cost = work(alone, numbers)[last]
    fills = [_fill(numbers, blocks, units_of(numbers, last, v)) for v in range(len(variants))]
    whole = [v for v, variant in enumerate(variants) if variant.stages == 1]
    for v, fill in enumerate(fills):
        yield complete(alone, fill + beside, blocks.host)
        if whole and variants[v].stages > 1:
            first = fills[min(whole, key=lambda w: float(cost[w]))]
            yield complete(alone, np.where(first.any(axis=0), first, fill) + beside, blocks.host)


def _overheads(alone: Problem, numbers: Numbers, blocks: Blocks) -> IntArray:
    """One instance of every overhead wherever it can run."""
    mine = np.array([tier.overhead for tier in alone.tiers], bool)[numbers.tier]
    able = numbers.most[:, blocks.kind] > 0.0
    return np.asarray(mine[:, None] & able, np.int64)


def _fill(numbers: Numbers, blocks: Blocks, chain: list[int]) -> IntArray:
    columns: dict[tuple[int, tuple[int, ...]], IntArray] = {}
    count = np.zeros((len(numbers.tier), len(blocks)), np.int64)
    for b in range(len(blocks)):
        kind, wanted = int(blocks.kind[b]), dealt(chain, int(blocks.place[b]), int(blocks.places[b]))
        key = kind, tuple(wanted)
        if key not in columns:
            columns[key] = crowded(numbers, kind, wanted)
        count[:, b] = columns[key]
    return count
