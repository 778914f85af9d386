"""Places the tiers on the devices of the device file."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from cascade_tools.artifacts import Origin, Placement, Profile, ProfilePoint, RoutingPolicy
from cascade_tools.errors import UsageError
from cascade_tools.planning.curves import point_at
from cascade_tools.planning.placement.problem import IntArray, Problem
from cascade_tools.spec import SPEC_FILE
from cascade_tools.stages.fallback_routes import reach_without
from cascade_tools.stages.place_for_gears import placed_for_gears
from cascade_tools.stages.placed import Named, placement_of, planned
from cascade_tools.stages.profile import PROFILE_FILE
from cascade_tools.stages.progress import Reporter
from cascade_tools.stages.search import POLICY_FILE
from cascade_tools.stages.tier_loads import ASKING, expand, partitions_of, problem_of
from cascade_tools.store import Workspace, readable_disk_errors

PLACEMENT_FILE = "placement.json"
ORIGINS: tuple[Origin, ...] = ("measured", "given", "modelled")  # from the best to the least


def place(work: Workspace, made_from: dict[str, str], report: Reporter) -> None:
    """Write `placement.json`.

    Raises:
        Infeasible: there is no placement; names the constraint.
        UsageError: the profile has no figures for a device type.
    """
    cascade = work.cascade
    profile = work.load(PROFILE_FILE, Profile, "profile")
    reach = _reach(work)
    problem = problem_of(cascade, profile, partitions_of(work), reach)
    found = planned(problem, _there_anyhow(problem, profile), keep_giant=True)
    names = [Named(group.kind, group.memory_mib) for group in expand(cascade)]
    if cascade.gears.slo is not None and cascade.has_models:
        some = placement_of(found, names, cascade.name, made_from, ASKING)
        found = placed_for_gears(work, found, some, report)
    without = reach_without(work, profile, found.problem) if cascade.has_models else None
    made = placement_of(found, names, cascade.name, made_from, ASKING, without)
    made = _with_origins(made, profile)
    made = _with_known_energy(made, profile, reach)
    report.say(
        f"  {made.rate_rps:,.0f} rows/s ({made.status}, {made.method}, {found.seconds:.1f} s), "
        f"at most {made.bound_rps:,.0f}"
    )
    with readable_disk_errors(work.build):
        work.save(PLACEMENT_FILE, made)


def _reach(work: Workspace) -> dict[str, float]:
    """Share of all rows that each tier sees: of the policy, or as it is given where there are no models."""
    if work.cascade.has_models:
        return work.load(POLICY_FILE, RoutingPolicy, "search").chosen.reach
    reach = {tier.name: tier.reach for tier in work.cascade.tiers if tier.reach is not None}
    if not reach:
        raise UsageError(
            f"{work.cascade.folder / SPEC_FILE}: tiers.{work.cascade.tier_names[0]}.reach: missing; without "
            "models no policy can be searched",
            "give every tier the share of all rows that it sees, such as `reach: 0.4`",
        )
    return reach


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
        known = [p for p in profile.points if p.tier == tier and p.instances == 1 and p.energy_j is not None]
        if not known:
            return made
        points[tier] = min(known, key=lambda p: (abs(p.batch - made.batch[p.tier]), p.batch))
    *_, giant = made.batch
    return made.model_copy(
        update={
            "energy_j": sum(share * (points[tier].energy_j or 0.0) for tier, share in reach.items()),
            "giant_energy_j": points[giant].energy_j,
            "energy_figures": _least({point.energy_origin for point in points.values()}),
            "energy_batches": {tier: point.batch for tier, point in points.items()},
        }
    )
