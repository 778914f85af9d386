"""Places the tiers on the devices of the device file."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from cascade_tools.artifacts import Origin, Placement, Profile, ProfilePoint, RoutingPolicy
from cascade_tools.errors import Infeasible, UsageError
from cascade_tools.planning.curves import point_at
from cascade_tools.planning.placement.problem import IntArray, Problem
from cascade_tools.repository.hosts import host_parts
from cascade_tools.spec import SPEC_FILE
from cascade_tools.stages.asking import Asking, asking_of, has_skips
from cascade_tools.stages.fallback_routes import reach_without
from cascade_tools.stages.place_for_gears import placed_for_gears
from cascade_tools.stages.placed import Named, placement_of, planned
from cascade_tools.stages.profile import PROFILE_FILE
from cascade_tools.stages.progress import Reporter
from cascade_tools.stages.search import POLICY_FILE
from cascade_tools.stages.tier_loads import expand, partitions_of, problem_of
from cascade_tools.store import Workspace, readable_disk_errors

PLACEMENT_FILE = "placement.json"
ACROSS = "tiers are asked on other hosts: network and proxies are not counted (closure: host asks none)"
ORIGINS: tuple[Origin, ...] = ("measured", "given", "modelled")  # from the best to the least


def place(work: Workspace, made_from: dict[str, str], report: Reporter) -> None:
    """Write `placement.json`.

    Raises:
        Infeasible: there is no placement, or the router cannot take the goal's rate; names the constraint.
        UsageError: the profile has no figures for a device type.
    """
    cascade = work.cascade
    profile = work.load(PROFILE_FILE, Profile, "profile")
    reach, skips = _reach(work)
    asking = asking_of(cascade, profile, reach, skips=skips)
    _check_router(work, asking.router_rps)
    problem = problem_of(cascade, profile, partitions_of(work), reach, skips=skips)
    found = planned(problem, _there_anyhow(problem, profile), keep_giant=True)
    names = [Named(group.kind, group.memory_mib) for group in expand(cascade)]
    if cascade.gears.slo is not None and cascade.has_models:
        some = placement_of(found, names, cascade.name, made_from)
        found = placed_for_gears(work, found, some, report)
    without = reach_without(work, profile, found.problem) if cascade.has_models else None
    made = placement_of(found, names, cascade.name, made_from, skips=skips, without=without)
    made = _with_origins(made, profile)
    made = _with_known_energy(made, profile, reach)
    made = _with_router(made, asking)
    made = _with_hosts(made)
    report.say(
        f"  {made.rate_rps:,.0f} rows/s ({made.status}, {made.method}, {found.seconds:.1f} s), "
        f"at most {made.bound_rps:,.0f}"
    )
    with readable_disk_errors(work.build):
        work.save(PLACEMENT_FILE, made)


def _with_router(made: Placement, asking: Asking) -> Placement:
    """With what the router takes at most, and what is not counted of it."""
    update: dict[str, object] = {
        "router_rps": asking.router_rps,
        "notes": (*made.notes, *((asking.note,) if asking.note else ())),
    }
    if asking.router_rps is not None:
        update["bound_rps"] = max(made.rate_rps, min(made.bound_rps, asking.router_rps))
        update["could_rps"] = max(made.rate_rps, min(made.could_rps or 0.0, asking.router_rps))
    return made.model_copy(update=update)


def _with_hosts(made: Placement) -> Placement:
    """With what is not counted where tiers are asked on other hosts."""
    if not any(part.ways for part in host_parts(made)):
        return made
    return made.model_copy(update={"notes": (*made.notes, ACROSS)})


def _check_router(work: Workspace, router_rps: float | None) -> None:
    goal = work.cascade.placement.objective
    if goal is None or router_rps is None or goal.rate_rps <= router_rps:
        return
    raise Infeasible(
        f"{goal.rate_rps:g} rows/s are too many for the router: its {work.cascade.serving.router_instances} "
        f"process(es) take at most {router_rps:.1f}",
        f"raise `serving.router_instances`, or ask for at most {router_rps:.1f} rows/s",
        constraint="router",
        details={"missing_mib": None, "highest_rps": router_rps},
    )


def _reach(work: Workspace) -> tuple[dict[str, float], bool]:
    """Share of all rows that each tier sees, and whether rows may pass over a tier.

    Of the policy, or as it is given where there are no models.
    """
    if work.cascade.has_models:
        chosen = work.load(POLICY_FILE, RoutingPolicy, "search").chosen
        return chosen.reach, has_skips(chosen.table)
    reach = {tier.name: tier.reach for tier in work.cascade.tiers if tier.reach is not None}
    if not reach:
        raise UsageError(
            f"{work.cascade.folder / SPEC_FILE}: tiers.{work.cascade.tier_names[0]}.reach: missing; without "
            "models no policy can be searched",
            "give every tier the share of all rows that it sees, such as `reach: 0.4`",
        )
    return reach, True


def _there_anyhow(problem: Problem, profile: Profile) -> IntArray | None:
    """Instances of adopted models, [units, devices]: on the first device, which is the CPU."""
    if not profile.instances:
        return None
    count = np.zeros((len(problem.units), len(problem.devices)), np.int64)
    for u, unit in enumerate(problem.units):
        count[u, 0] = profile.instances.get(problem.tiers[unit.tier].name, 0) if unit.variant == 0 else 0
    return count


def _with_origins(made: Placement, profile: Profile) -> Placement:
    """With where the figures of the placed tiers come from."""
    points = [
        point_at(profile.points_of(tier, kind), made.batch[tier])
        for tier, kind in dict.fromkeys((p.tier, made.devices[p.device].type) for p in made.instances)
    ]
    figures = {"modelled" if point.modelled else point.origin for point in points}
    return made.model_copy(
        update={"figures": _least(figures), "energy_figures": _least({p.energy_origin for p in points})}
    )


def _least(origins: Collection[Origin | None]) -> Origin | None:
    return None if None in origins else max(origins, key=ORIGINS.index)


def _with_known_energy(made: Placement, profile: Profile, reach: dict[str, float]) -> Placement:
    """With J per row of the batch sizes whose energy is known, where the planned ones have none."""
    if made.energy_j is not None:
        return made
    points: dict[str, ProfilePoint] = {}
    for tier in reach:
        nearest = _nearest_with_energy(made, profile, tier)
        if nearest is None:
            return made
        points[tier] = nearest
    *_, giant = made.batch
    return made.model_copy(
        update={
            "energy_j": sum(share * (points[tier].energy_j or 0.0) for tier, share in reach.items()),
            "giant_energy_j": points[giant].energy_j,
            "energy_figures": _least({point.energy_origin for point in points.values()}),
            "energy_batches": {
                tier: point.batch for tier, point in points.items() if point.batch != made.batch[tier]
            },
        }
    )


def _nearest_with_energy(made: Placement, profile: Profile, tier: str) -> ProfilePoint | None:
    """The point nearest to the planned batch whose energy is known; on a type it stands on, if any."""
    types = {made.devices[placed.device].type for placed in made.instances if placed.tier == tier}
    known = [p for p in profile.points if p.tier == tier and p.instances == 1 and p.energy_j is not None]
    planned_batch = made.batch[tier]
    return min(
        known,
        key=lambda p: (p.device not in types, abs(p.batch - planned_batch), p.batch),
        default=None,
    )
