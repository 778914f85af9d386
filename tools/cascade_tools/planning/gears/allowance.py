"""Gears: which policy serves which arrival rate, on one fixed placement (CascadeServe, sections 3 and 4).

The last gear is the cheapest policy that keeps the accuracy allowance. The first loses less than that by a
reserve, and those between lie evenly between: the first is the most accurate, and all keep the allowance. A
gear serves rates up to the target share of what the placement sustains with its policy; the last has no
upper rate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from cascade_tools.artifacts import PredictedPolicy

ROUNDING = 1e-9  # points


@dataclass(frozen=True)
class GearChoice:
    """A policy and the rate (rows/s) up to which it serves; None for the last."""

    policy: PredictedPolicy
    up_to_rps: float | None


def choose_gears(
    policies: Sequence[PredictedPolicy],
    max_accuracy_drop: float,
    count: int,
    reserve: float,
    target_busy_share: float,
    sustainable_rps: Callable[[PredictedPolicy], float],
    points_lost: Callable[[PredictedPolicy], float] = lambda policy: policy.accuracy_drop_bound,
) -> tuple[GearChoice, ...]:
    """Choose at most `count` gears, most accurate first; rates rise from gear to gear.

    Args:
        policies: candidates with predicted cost and bound on the accuracy drop; at least one is within it.
        max_accuracy_drop: the allowance in points.
        count: how many gears are wanted; policies that coincide are merged.
        reserve: share of what the last gear spends of the allowance that the first of several does not.
        target_busy_share: share of the sustainable rate at which the next gear takes over.
        sustainable_rps: what the placement sustains with a policy.
        points_lost: what a policy spends of the allowance: its bound, where there is one.
    """

    def cheapest(most_points: float) -> PredictedPolicy | None:
        within = [policy for policy in policies if points_lost(policy) <= most_points + ROUNDING]
        return min(within, key=lambda policy: (policy.cost, -policy.accuracy), default=None)

    last = cheapest(max_accuracy_drop)
    assert last is not None
    spent = points_lost(last)
    kept = np.linspace(reserve if count > 1 else 0.0, 0.0, count)
    wanted = (cheapest(spent - share * max(0.0, spent)) for share in kept.tolist())
    chosen = [policy for policy in wanted if policy is not None]
    gears: list[GearChoice] = []
    for policy in chosen:
        rate = target_busy_share * sustainable_rps(policy)
        if any(earlier.policy.table == policy.table for earlier in gears):
            continue
        # A gear that sustains no more than a more accurate one has no rate of its own to serve.
        if gears and rate <= (gears[-1].up_to_rps or 0.0):
            continue
        gears.append(GearChoice(policy, rate))
    return (*gears[:-1], GearChoice(gears[-1].policy, None))
