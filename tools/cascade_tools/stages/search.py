"""Searches the policy on the score table, with costs from the profile."""

from __future__ import annotations

from cascade_tools.artifacts import Frontier, Profile, ProfilePoint, RoutingPolicy
from cascade_tools.errors import UsageError
from cascade_tools.planning.search import Question
from cascade_tools.planning.search import search as search_policies
from cascade_tools.spec import Cascade, load_devices
from cascade_tools.stages.calibrate import SCORES_FILE
from cascade_tools.stages.profile import PROFILE_FILE
from cascade_tools.stages.progress import Reporter
from cascade_tools.store import Workspace, load_score_table, readable_disk_errors

POLICY_FILE = "policy.json"
FRONTIER_FILE = "frontier.json"
COST_UNITS = {"device_time": "ms per row", "energy": "J per row"}
GOOD_ENOUGH_THROUGHPUT = 0.8


def search(work: Workspace, made_from: dict[str, str], report: Reporter) -> None:
    """Write `policy.json` and `frontier.json`.

    Raises:
        UsageError: the objective is energy and the profile knows none.
    """
    cascade = work.cascade
    profile = work.load(PROFILE_FILE, Profile, "profile")
    hint = f"run `cascade-tools calibrate {cascade.folder}`"
    table = load_score_table(work.path(SCORES_FILE), hint).part("search")
    report.say(f"  {len(table.target)} rows, {len(table.tiers)} tiers")
    answer = search_policies(table, make_question(cascade, profile))
    unit = COST_UNITS[cascade.objective.minimise]
    with readable_disk_errors(work.build):
        work.save(
            FRONTIER_FILE,
            Frontier(
                cascade=cascade.name,
                made_from=made_from,
                cost_unit=unit,
                policies=answer.frontier,
            ),
        )
        work.save(
            POLICY_FILE,
            RoutingPolicy(
                cascade=cascade.name,
                made_from=made_from,
                chosen=answer.chosen,
                reference=answer.reference,
                max_accuracy_drop=cascade.objective.max_accuracy_drop,
                confidence=cascade.objective.confidence,
                cost_unit=unit,
                rows=len(table.target),
            ),
        )


def planned_point(profile: Profile, tier: str) -> ProfilePoint:
    """The point that planning counts with: the smallest batch with 80 % of the best throughput."""
    points = profile.points_of(tier)
    best = max(point.throughput_rps for point in points)
    return next(p for p in points if p.throughput_rps >= GOOD_ENOUGH_THROUGHPUT * best)


def make_question(cascade: Cascade, profile: Profile) -> Question:
    """Costs per row at the planned batch, each with the hop to the tier, and the allowance.

    Raises:
        UsageError: the objective is energy and a tier has none.
    """
    planned = [planned_point(profile, name) for name in cascade.tier_names]
    hop_cpu_ms = profile.hop.cpu_ms if profile.hop else 0.0
    hop_latency_ms = profile.hop.latency_ms if profile.hop else 0.0
    if cascade.objective.minimise == "energy":
        if any(point.energy_j is None for point in planned):
            raise UsageError(
                "objective.minimise: energy, but this machine has no readable meter",
                "give `busy_watts` in the device file (shown as modelled), or minimise device_time",
            )
        watts = next(g.busy_watts for g in load_devices(cascade).devices if g.kind == "cpu") or 0.0
        cost = tuple((p.energy_j or 0.0) + watts * hop_cpu_ms / 1000.0 for p in planned)
    else:
        cost = tuple(p.latency_p50_ms / p.batch + hop_cpu_ms for p in planned)
    return Question(
        cost=cost,
        latency_ms=tuple(profile.at(name, 1).latency_p50_ms + hop_latency_ms for name in cascade.tier_names),
        max_accuracy_drop=cascade.objective.max_accuracy_drop,
        confidence=cascade.objective.confidence,
    )
