"""Gears: which policy serves which arrival rate, on one fixed placement (CascadeServe, sections 3 and 4).

Gear g of G may spend g/G of the accuracy allowance: the first is the most accurate, the last the cheapest,
and all keep the allowance. A gear serves rates up to the target share of what the placement sustains with
its policy; the last has no upper rate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cascade_tools.artifacts import PredictedPolicy


@dataclass(frozen=True)
class GearChoice:
    """A policy and the rate (rows/s) up to which it serves; None for the last."""

    policy: PredictedPolicy
    up_to_rps: float | None


def choose_gears(
    policies: Sequence[PredictedPolicy],
    max_accuracy_drop: float,
    count: int,
    target_busy_share: float,
    sustainable_rps: Callable[[PredictedPolicy], float],
) -> tuple[GearChoice, ...]:
    """Choose at most `count` gears, most accurate first; rates rise from gear to gear.

    Args:
        policies: candidates with predicted cost and bound on the accuracy drop; at least one is within it.
        max_accuracy_drop: the allowance in points.
        count: how many gears are wanted; policies that coincide are merged.
        target_busy_share: share of the sustainable rate at which the next gear takes over.
        sustainable_rps: what the placement sustains with a policy.
    """
    chosen: list[PredictedPolicy] = []
    for number in range(1, count + 1):
        allowance = max_accuracy_drop * number / count
        within = [policy for policy in policies if policy.accuracy_drop_bound <= allowance]
        if within:
            chosen.append(min(within, key=lambda policy: (policy.cost, -policy.accuracy)))
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
