"""Score tables for the tests of the planning modules."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import combinations_with_replacement, product

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from cascade_tools.artifacts import PolicyTable, Route, ScoreTable
from cascade_tools.planning.evaluate import Question

NAMES = ("tiny", "base", "giant")


def table_of(
    confidence: npt.ArrayLike,
    label: npt.ArrayLike,
    target: npt.ArrayLike,
    group: npt.ArrayLike | None = None,
) -> ScoreTable:
    rows, tiers = np.shape(label)
    names = {1: NAMES[2:], 2: NAMES[1:], 3: NAMES}.get(tiers, tuple(f"t{i}" for i in range(tiers)))
    return ScoreTable(
        tiers=names,
        confidence=np.asarray(confidence, np.float32).reshape(rows, tiers),
        label=np.asarray(label, np.int64),
        target=np.asarray(target, np.int64),
        group=np.arange(rows) if group is None else np.asarray(group, np.int64),
        split=np.full(rows, "search"),
    )


def question_of(*cost: float, drop: float | None = 1.0, confidence: float = 0.95) -> Question:
    return Question(cost, drop, latency_ms=tuple(10.0 * c for c in cost), confidence=confidence)


def random_table(seed: int, rows: int, tiers: int = 3, copies: int = 1) -> ScoreTable:
    """Tiers of rising accuracy whose confidence tells something; `copies` rows per group."""
    rng = np.random.default_rng(seed)
    groups = rows // copies
    hardness = np.repeat(rng.random(groups), copies)
    rows = groups * copies
    skill = np.linspace(0.6, 0.97, tiers)
    right = hardness[:, None] + rng.normal(0.0, 0.15, (rows, tiers)) < skill
    noise = rng.normal(0.0, 0.15, (rows, tiers))
    confidence = np.clip(1.1 - hardness[:, None] * 0.6 / skill + noise, 0.01, 1.0)
    label = np.where(right, 0, 1)
    return table_of(confidence, label, np.zeros(rows), np.repeat(np.arange(groups), copies))


# Few distinct values, so that ties, constants and NaN are common.
values = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0, math.nan])


@st.composite
def tables(draw: st.DrawFn, most_rows: int = 7, most_tiers: int = 3) -> ScoreTable:
    rows, tiers = draw(st.integers(1, most_rows)), draw(st.integers(1, most_tiers))
    classes = draw(st.integers(1, 3))
    cells = rows * tiers
    confidence = draw(
        st.one_of(
            st.lists(values, min_size=cells, max_size=cells),
            st.lists(st.floats(0.0, 1.0, width=32), min_size=cells, max_size=cells),
            values.map(lambda value: [value] * cells),
        )
    )
    label = draw(st.lists(st.integers(0, classes - 1), min_size=cells, max_size=cells))
    target = draw(st.lists(st.integers(0, classes - 1), min_size=rows, max_size=rows))
    shape = (rows, tiers)
    return table_of(np.array(confidence).reshape(shape), np.array(label).reshape(shape), np.array(target))


@st.composite
def questions(draw: st.DrawFn, tiers: int) -> Question:
    # Whole costs, so that equal sums are equal.
    cost = draw(st.lists(st.integers(1, 12).map(float), min_size=tiers, max_size=tiers))
    return question_of(*cost, drop=draw(st.sampled_from([0.0, 10.0, 20.0, 34.0, 60.0, 100.0])))


def every_policy(table: ScoreTable) -> Iterator[PolicyTable]:
    """All tables that differ on these rows: all chains, all monotone bands at values that occur."""
    known = np.where(np.isnan(table.confidence), np.float32(0.0), table.confidence)
    tiers = len(table.tiers)
    for entry in range(tiers):
        chain = range(entry, tiers)
        options = []
        for own in chain[:-1]:
            cuts = [-1.0, *np.unique(known[:, own]).tolist(), 2.0]
            size = tiers - 1 - own
            options.append([tuple(c) for c in combinations_with_replacement(cuts, size)])
        for chosen in product(*options):
            routes = [
                Route(cuts=cuts, to=(*range(len(chain) - 1, level, -1), -1))
                for level, cuts in enumerate(chosen)
            ]
            yield PolicyTable(
                tiers=tuple(table.tiers[i] for i in chain), routes=(*routes, Route(cuts=(), to=(-1,)))
            )
