"""Into how many stages a tier has to be cut to fit."""

from __future__ import annotations

import math

from cascade_tools.planning.placement.problem import TierLoad

MOST_STAGES = 1024


def smallest_stage_count(tier: TierLoad, room_mib: int) -> int | None:
    """The smallest number of equal stages of which each fits into `room_mib`; None if none does.

    A stage takes its part of the weights and all of its activations. Both follow from two variants with the
    same batch; from one alone only that a stage takes a part of the whole, so the number is then a least one.
    """
    batch = min(variant.batch for variant in tier.variants)
    memory = {v.stages: float(v.memory_mib) for v in tier.variants if v.batch == batch}
    few, many = min(memory), max(memory)
    weights = memory[few] * few
    if few < many:
        weights = (memory[few] - memory[many]) / (1.0 / few - 1.0 / many)
    activation = max(0.0, memory[few] - weights / few)
    if activation >= room_mib or weights <= 0.0:
        return None
    stages = math.ceil(weights / (room_mib - activation) - 1e-9)
    return stages if stages <= MOST_STAGES else None
