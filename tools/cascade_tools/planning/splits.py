"""Splits of labelled rows: every part has its share of every class, and no group is torn apart."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]


def split_rows(
    target: IntArray, group: IntArray, shares: Mapping[str, float], seed: int
) -> npt.NDArray[np.str_]:
    """Name the part of every row.

    Groups are shuffled and dealt out class by class (a group counts to its most frequent class), so parts
    are stratified as far as whole groups allow. With as many groups as parts, no part is empty.

    Args:
        target: int [rows].
        group: int [rows]; rows of one group go to one part.
        shares: name -> share of the groups; they are normalised.
        seed: of the shuffle.

    Returns:
        str [rows].
    """
    names = list(shares)
    ends = np.cumsum([shares[name] for name in names])
    ends = ends / ends[-1]
    _, first, member = np.unique(group, return_index=True, return_inverse=True)
    groups = len(first)
    label = _most_frequent(target, member, groups)
    shuffled = np.random.default_rng(seed).permutation(groups)
    dealt = shuffled[np.argsort(label[shuffled], kind="stable")]
    # Systematic sampling along the classes: neighbours go to different parts in the wanted shares.
    position = (np.arange(groups) * _GOLDEN) % 1.0
    part = np.empty(groups, np.int64)
    part[dealt] = np.minimum(np.searchsorted(ends, position, side="right"), len(names) - 1)
    _fill_empty(part, len(names))
    return np.asarray(np.array(names)[part[member]])


# Multiples of the golden ratio fill the unit interval evenly, however many are taken.
_GOLDEN = (5**0.5 - 1) / 2


def _most_frequent(target: IntArray, member: IntArray, groups: int) -> IntArray:
    """The most frequent class of every group; the smaller of two equals."""
    pairs, count = np.unique(np.stack([member, target]), axis=1, return_counts=True)
    order = np.lexsort((pairs[1], -count, pairs[0]))
    _, first = np.unique(pairs[0][order], return_index=True)
    label: IntArray = pairs[1][order][first]
    assert len(label) == groups
    return label


def _fill_empty(part: IntArray, parts: int) -> None:
    for number in range(parts):
        if len(part) >= parts and not (part == number).any():
            largest = np.bincount(part, minlength=parts).argmax()
            part[np.flatnonzero(part == largest)[-1]] = number
