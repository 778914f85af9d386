"""Splits keep groups whole, follow the classes, and depend on the seed alone."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cascade_tools.planning.splits import split_rows
from tests.helpers import Array

SHARES = {"fit": 0.2, "search": 0.3, "verify": 0.5}
groups = hnp.arrays(np.int64, st.integers(1, 60), elements=st.integers(0, 20))


@given(groups, st.integers(0, 5), st.data())
def test_the_rows_of_a_group_stay_together(group: Array, seed: int, data: st.DataObject) -> None:
    target = data.draw(hnp.arrays(np.int64, len(group), elements=st.integers(0, 3)))
    split = split_rows(target, group, SHARES, seed)
    assert split.shape == group.shape
    assert set(split.tolist()) <= set(SHARES)
    for number in set(group.tolist()):
        assert len(set(split[group == number].tolist())) == 1


@given(groups.filter(lambda g: len(set(g.tolist())) >= 3))
def test_every_part_gets_rows(group: Array) -> None:
    assert set(split_rows(np.zeros(len(group), np.int64), group, SHARES, 0).tolist()) == set(SHARES)


def test_shares_are_those_of_the_groups_and_of_every_class() -> None:
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(1000), rng.integers(1, 9, 1000))
    target = rng.choice(5, 1000, p=[0.5, 0.2, 0.15, 0.1, 0.05])[group]
    split = split_rows(target, group, SHARES, 0)
    _, first = np.unique(group, return_index=True)
    for label in range(5):
        mine = split[first][target[first] == label]
        for name, share in SHARES.items():
            assert abs((mine == name).mean() - share) < 0.05, (label, name)


def test_the_split_depends_on_the_seed_and_on_nothing_else() -> None:
    group, target = np.arange(200), np.arange(200) % 3
    np.random.seed(1)
    first = split_rows(target, group, SHARES, 0)
    np.random.seed(2)
    assert (split_rows(target, group, SHARES, 0) == first).all()
    assert (split_rows(target, group, SHARES, 1) != first).any()
