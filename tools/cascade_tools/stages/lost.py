"""What a placement still does if one device or one host is lost."""

from __future__ import annotations

from collections.abc import Sequence
from math import fsum

from cascade_tools.artifacts import Lost
from cascade_tools.planning.placement.losses import Left, ReachWithout, losses
from cascade_tools.planning.placement.problem import Problem, Solution

MOST_SHOWN = 256  # devices whose busy shares are kept for every loss


def what_is_left(
    problem: Problem, solution: Solution, left_out: str = "", without: ReachWithout | None = None
) -> tuple[Lost, ...]:
    """For every single device, and every host where one has several.

    Args:
        problem: what was placed.
        solution: where.
        left_out: a load that is none of the tiers, if there is one.
        without: the reach of the policy that serves without some tiers; None for what `passed_on` says.
    """

    def reach_without(gone: Sequence[int]) -> tuple[float, ...] | None:
        return passed_on(tuple(tier.reach for tier in problem.tiers), gone)

    found = losses(problem, solution, without or reach_without)
    lost = (_lost(problem, left, left_out) for left in found)
    return tuple(one.model_copy(update={"by_routes": bool(without and one.homeless)}) for one in lost)


def passed_on(reach: Sequence[float], gone: Sequence[int]) -> tuple[float, ...] | None:
    """Reach without some tiers, as the router does with a broken one.

    The next larger tier that is left sees its rows; without a larger one the answer so far is taken.

    Args:
        reach: share of all rows that each tier sees, smallest tier first.
        gone: positions of the tiers that are not there.

    Returns:
        Reach of all tiers; None if none is left.
    """
    found = list(reach)
    for i, share in enumerate(reach):
        if i not in gone:
            continue
        found[i] = 0.0
        larger = next((j for j in range(i + 1, len(reach)) if j not in gone), None)
        if larger is not None:
            found[larger] = max(found[larger], share)
    return tuple(found) if any(share > 0.0 for share in found) else None


def _lost(problem: Problem, left: Left, left_out: str) -> Lost:
    names = [tier.name for tier in problem.tiers]
    reach = {} if left.reach is None else dict(zip(names, left.reach, strict=True))
    return Lost(
        what=left.what,
        which=left.which,
        homeless=tuple(names[i] for i in left.gone if names[i] != left_out),
        reach={name: share for name, share in reach.items() if name != left_out} if left.serves else {},
        rate_rps=left.rate_rps if left.serves else None,
        busiest_share=left.busiest_share if left.serves else None,
        busy_share=_busy_share(problem, left) if len(problem.devices) <= MOST_SHOWN else (),
    )


def _busy_share(problem: Problem, left: Left) -> tuple[float, ...]:
    busy = left.busy()
    variants = [problem.variant(unit) for unit in problem.units]
    return tuple(
        fsum(
            v.utilization.get(device.type, 0.0) * float(f) for v, f in zip(variants, busy[:, g], strict=True)
        )
        for g, device in enumerate(problem.devices)
    )
