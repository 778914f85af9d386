"""A rate that no placement exceeds, from the work alone: as if instances had no size and took no memory.

    max L   sum_v,k F[i, v, k] / (S_v * tau[i, v, k]) = reach_i * L      every tier keeps up
            sum_i,v u[i, v, k] * F[i, v, k] <= devices of type k          they are busy at most all the time

F are busy instances of all stages of a variant on all devices of a type. It bounds both rules: the strict one
implies the last row.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
from scipy.optimize import linprog

from cascade_tools.planning.placement.problem import Problem


def ceiling_rps(problem: Problem) -> float:
    """The bound in rows/s; 0 where a tier that rows reach runs nowhere, infinite where none sees rows."""
    have = Counter(device.type for device in problem.devices)
    cells = [
        (i, variant, kind)
        for i, tier in enumerate(problem.tiers)
        for variant in tier.variants
        for kind in have
        if tier.reach > 0.0 and kind in variant.seconds_per_row
    ]
    rows = [1.0 / (variant.stages * variant.seconds_per_row[kind]) for _, variant, kind in cells]
    scale = max(rows, default=1.0)
    reached = [i for i, tier in enumerate(problem.tiers) if tier.reach > 0.0]
    if not reached:
        return float("inf")
    keep_up = np.zeros((len(reached), len(cells) + 1))
    share = np.zeros((len(have), len(cells) + 1))
    for column, ((i, variant, kind), row) in enumerate(zip(cells, rows, strict=True)):
        keep_up[reached.index(i), column] = row / scale
        share[list(have).index(kind), column] = variant.utilization[kind] / have[kind]
    keep_up[:, -1] = [-problem.tiers[i].reach for i in reached]
    cost = np.zeros(len(cells) + 1)
    cost[-1] = -1.0
    found = linprog(
        cost,
        A_ub=share,
        b_ub=np.ones(len(have)),
        A_eq=keep_up,
        b_eq=np.zeros(len(reached)),
        bounds=(0.0, None),
        method="highs",
    )
    return float(-found.fun) * scale if found.success else float("inf")
