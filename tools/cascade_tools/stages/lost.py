"""What a placement still does if one device or one host is lost."""

from __future__ import annotations

from collections.abc import Sequence
from math import fsum

from cascade_tools.artifacts import Lost
from cascade_tools.planning.placement.losses import Left, ReachWithout, losses
from cascade_tools.planning.placement.problem import Problem, Solution

MOST_SHOWN = 256  # devices whose busy shares are kept for every loss


def what_is_left(
    problem: Problem, solution: Solution, *, skips: bool = True, without: ReachWithout | None = None
) -> tuple[Lost, ...]:
    """For every single device, and every host where one has several.

    Args:
        problem: what was placed.
        solution: where.
        skips: whether rows may pass over a tier; true where that is not known.
        without: the reach of the policy that serves without some tiers; None for what `passed_on` says.
    """
    tiers = [i for i, tier in enumerate(problem.tiers) if not tier.overhead]

    def reach_without(gone: Sequence[int]) -> tuple[float, ...] | None:
        if not set(gone) <= set(tiers):  # the host of the router: nobody is asked any more
            return None
        there = passed_on(
            [problem.tiers[i].reach for i in tiers], [tiers.index(i) for i in gone], skips=skips
        )
        if there is None:
            return None
        found = dict(zip(tiers, there, strict=True))
        return tuple(found.get(i, tier.reach) for i, tier in enumerate(problem.tiers))

    found = losses(problem, solution, without or reach_without)
    return tuple(_lost(problem, left, has_routes=without is not None) for left in found)


def passed_on(reach: Sequence[float], gone: Sequence[int], *, skips: bool) -> tuple[float, ...] | None:
    """Reach without some tiers, as the router does with a broken one.

    The next larger tier that is left sees its rows; without a larger one the answer so far is taken. Without
    skips what a tier sees is among what the one before it sees. With them it may all be other rows, so that
    the next one sees at most both. Of these rows it passes on as large a share as before (the new ones are
    easier), unless it saw none before: then it stands in, and answers for good.

    Args:
        reach: share of all rows that each tier sees, smallest tier first.
        gone: positions of the tiers that are not there.
        skips: whether rows may pass over a tier.

    Returns:
        Reach of all tiers; None if none is left.
    """
    found = list(reach)
    for i in sorted(gone):
        share, found[i] = found[i], 0.0
        larger = next((j for j in range(i + 1, len(reach)) if j not in gone), None)
        if larger is None:
            continue
        seen = found[larger]
        found[larger] = min(1.0, seen + share) if skips else max(seen, share)
        if seen > 0.0:
            more = found[larger] / seen
            found[larger + 1 :] = [min(1.0, more * other) for other in found[larger + 1 :]]
    return tuple(found) if any(share > 0.0 for share in found) else None


def _lost(problem: Problem, left: Left, *, has_routes: bool) -> Lost:
    names = [tier.name for tier in problem.tiers]
    present = tuple(tier.reach for tier in problem.tiers)
    tiers = {tier.name for tier in problem.tiers if not tier.overhead}
    reach = {} if left.reach is None else dict(zip(names, left.reach, strict=True))
    return Lost(
        what=left.what,
        which=left.which,
        homeless=tuple(names[i] for i in left.gone if names[i] in tiers),
        by_routes=has_routes and left.serves and left.reach != present,
        router_gone=any(problem.tiers[i].overhead for i in left.gone),
        reach={name: share for name, share in reach.items() if name in tiers} if left.serves else {},
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
