"""Sub-problem 2: which policy serves which bin of rates (CascadeServe, SP2).

The paper begins with the best cascade everywhere and steps down where an error says so. Here every error
refuses one policy to one bin, and the best assignment of what is left is found exactly:

    max sum_bk gain[b, k] x[b, k]    every bin has one policy, none that was refused to it
                                     sum_bk side[b, k] x[b, k] >= bound      (an SLO on a mean)
                                     the policies of higher rates are never the more accurate ones
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cascade_tools.errors import Infeasible
from cascade_tools.planning.gears.rates import FloatArray
from cascade_tools.planning.placement.programs.program import Program

TIME_LIMIT_S = 5.0
SLACK = 1e-9
NO_SUCH = 2  # status of a program that was proven to have no answer


class Side(NamedTuple):
    """A sum that has to be reached: `value` [bins, policies] and its bound."""

    value: FloatArray
    bound: float


def assign(
    gain: FloatArray,
    allowed: npt.NDArray[np.bool_],
    side: Side | None = None,
    forced: Mapping[int, int] | None = None,
) -> tuple[int, ...] | None:
    """The policy of every bin.

    Args:
        gain: [bins, policies], policies from the most accurate to the least; the sum is maximised.
        allowed: what was not refused, [bins, policies].
        side: the SLO on a mean, if there is one.
        forced: policy by bin, where it is fixed.

    Returns:
        Positions of policies, [bins]; None if there is no such assignment.

    Raises:
        Infeasible: none was found in time, which says nothing of whether there is one.
    """
    bins, policies = gain.shape
    open_to = allowed.copy()
    for number, policy in (forced or {}).items():
        open_to[number] &= np.arange(policies) == policy
    program = Program()
    x = program.columns(bins * policies, upper=open_to.ravel().astype(float), whole=True)
    x = x.reshape(bins, policies)
    row = np.arange(bins)
    program.rows(bins, [(row[:, None], x, 1.0)], 1.0, 1.0)
    for last in range(policies - 1):  # as accurate as policy `last`: only where the bin below is, too
        terms = [(row[:-1, None], x[1:, : last + 1], 1.0), (row[:-1, None], x[:-1, : last + 1], -1.0)]
        program.rows(bins - 1, terms, upper=0.0)
    if side is not None:
        scale = max(float(np.abs(side.value).max()), abs(side.bound), 1e-300)
        program.rows(1, [(0, x, side.value / scale)], lower=side.bound / scale - SLACK)
    result = program.solve([(x, -gain)], TIME_LIMIT_S)
    if result.x is None and result.status == NO_SUCH:
        return None
    if result.x is None:
        raise Infeasible(
            f"no assignment of {policies} policies to {bins} bins of rates was found in {TIME_LIMIT_S:g} s",
            "plan for fewer bins (gears.rates.bins, or a histogram with fewer edges)",
            constraint="time",
        )
    return tuple(np.argmax(result.x[x], axis=1).tolist())
