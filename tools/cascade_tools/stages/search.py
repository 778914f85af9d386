"""Searches the policy on the score table, with costs from the profile."""

from __future__ import annotations

import math

from cascade_tools.artifacts import Frontier, PredictedPolicy, Profile, ProfilePoint, RoutingPolicy
from cascade_tools.errors import Infeasible, UsageError
from cascade_tools.planning.curves import point_at
from cascade_tools.planning.decide import Decision, decide
from cascade_tools.planning.evaluate import Evaluator, Question
from cascade_tools.planning.explain import stronger_than
from cascade_tools.planning.search import frontier, keeps
from cascade_tools.spec import Cascade, load_devices
from cascade_tools.stages.calibrate import SCORES_FILE
from cascade_tools.stages.profile import PROFILE_FILE
from cascade_tools.stages.progress import Reporter
from cascade_tools.store import Workspace, load_score_table, readable_disk_errors

POLICY_FILE = "policy.json"
FRONTIER_FILE = "frontier.json"
COST_UNITS = {
    "device_time": "ms per row",
    "energy": "J per row",
    "latency": "ms per row",
    "money": "per million rows",
}
MS_PER_HOUR = 3.6e6
GOOD_ENOUGH_THROUGHPUT = 0.8


def search(work: Workspace, made_from: dict[str, str], report: Reporter) -> None:
    """Write `policy.json` and `frontier.json`.

    Raises:
        UsageError: the profile does not know the cost that is to be minimised.
        Infeasible: no policy keeps all bounds, or none can be certified.
    """
    cascade = work.cascade
    profile = work.load(PROFILE_FILE, Profile, "profile")
    hint = f"run `{work.command('calibrate')}`"
    table = load_score_table(work.path(SCORES_FILE), hint)
    question = make_question(cascade, profile)
    report.say(f"  {int((table.split != 'fit').sum())} rows, {len(table.tiers)} tiers")
    warning = stronger_than(table.where(table.split != "fit"), question.reference)
    if warning:
        report.say(f"  warning: {warning}")
    decision = decide(table, question, guarantee=cascade.objective.guarantee)
    front = frontier(table.where(table.split != "fit"), question, decision.pool)
    unit = COST_UNITS[cascade.objective.minimise]
    with readable_disk_errors(work.build):
        work.save(
            FRONTIER_FILE,
            Frontier(
                cascade=cascade.name,
                made_from=made_from,
                cost_unit=unit,
                policies=front,
            ),
        )
        if decision.chosen is not None and decision.chosen.table == decision.reference.table:
            alone = decision.reference.table.tiers[0]
            report.say(f"  no cascade is cheaper than {alone} alone: every row goes there")
        if decision.chosen is None:
            raise not_certified(decision, question, "set `objective.guarantee: false`")
        work.save(
            POLICY_FILE,
            RoutingPolicy(
                cascade=cascade.name,
                made_from=made_from,
                chosen=decision.chosen,
                reference=decision.reference,
                alternatives=_alternatives(
                    decision, front, Evaluator(table.where(table.split != "fit"), question)
                ),
                certified=decision.certified,
                max_accuracy_drop=cascade.objective.max_accuracy_drop,
                confidence=cascade.objective.confidence,
                labels=cascade.data.labels,
                cost_unit=unit,
                search_rows=decision.search_rows,
                verify_rows=decision.verify_rows,
            ),
        )


def _alternatives(
    decision: Decision, front: tuple[PredictedPolicy, ...], judged: Evaluator
) -> tuple[PredictedPolicy, ...]:
    """Policies for the gears: certified like the chosen one, or without a promise of any, on the front."""
    chosen = decision.chosen
    assert chosen is not None
    if decision.certified:
        return decision.alternatives
    again = [judged(policy.table) for policy in front]
    dearer = [
        p for p in again if keeps(p, judged.question) and chosen.cost < p.cost < decision.reference.cost
    ]
    return (*sorted(dearer, key=lambda p: -p.cost), chosen)


def not_certified(decision: Decision, question: Question, way_out: str) -> Infeasible:
    """What could not be promised, and what could."""
    asked, could = question.max_accuracy_drop, decision.certifiable_drop
    needed = decision.rows_needed
    rows = decision.search_rows + decision.verify_rows
    more = (
        "allow more"
        if needed is None  # what these rows hold against it would not go away
        else f"allow more, give more labelled rows (about {needed:,}, by these)"
    )
    if question.max_cost is not None or question.max_latency_ms:
        more += ", loosen the bound of cost or latency"
    smallest = (
        "" if could is None else f"; the smallest that can is {math.ceil(could * 100) / 100:.2f} points"
    )
    return Infeasible(
        f"a drop of at most {asked:g} points cannot be certified on {rows:,} rows with "
        f"{question.confidence:.0%} confidence{smallest}",
        f"{more}, or {way_out} to go without a promise",
        constraint="guarantee",
        details={"certified": False, "certifiable_drop": could, "rows_needed": needed},
    )


def planned_point(profile: Profile, tier: str, largest_batch: int) -> ProfilePoint:
    """The point that planning counts with: the smallest batch with 80 % of the best throughput.

    Args:
        profile: may come from another machine or tool, with batch sizes of its own.
        tier: its name.
        largest_batch: that Triton may make; where the profile only has larger ones beside smaller ones,
            its point is put together from those (`planning/curves.py`).
    """
    points = profile.points_of(tier)
    possible = [point for point in points if point.batch <= largest_batch]
    if len(possible) < len(points) and all(point.batch != largest_batch for point in points):
        possible.append(point_at(points, largest_batch))
    best = max(point.throughput_rps for point in possible)
    return next(p for p in possible if p.throughput_rps >= GOOD_ENOUGH_THROUGHPUT * best)


def make_question(cascade: Cascade, profile: Profile) -> Question:
    """Costs per row at the planned batch, each with what asking the tier costs, and the bounds.

    Raises:
        UsageError: the profile or the device file does not know the cost that is to be minimised.
    """
    largest = cascade.serving.max_batch_size
    points = [planned_point(profile, name, largest) for name in cascade.tier_names]
    alone = [profile.at(name, 1) for name in cascade.tier_names]
    latency_ms = tuple(p.latency_p50_ms + profile.ask_cost(p.tier).latency_ms for p in alone)
    return Question(
        cost=_costs(cascade, profile, points, latency_ms),
        max_accuracy_drop=cascade.objective.max_accuracy_drop,
        max_cost=cascade.objective.max_cost,
        latency_ms=latency_ms,
        latency_spread_ms=tuple(max(0.0, p.latency_tail_ms - p.latency_p50_ms) for p in alone),
        max_latency_ms={str(name): ms for name, ms in cascade.objective.max_latency_ms.items()},
        energy_j=_energy_j(cascade, profile, points),
        confidence=cascade.objective.confidence,
    )


def _costs(
    cascade: Cascade, profile: Profile, points: list[ProfilePoint], latency_ms: tuple[float, ...]
) -> tuple[float, ...]:
    minimise = cascade.objective.minimise
    busy_ms = tuple(p.latency_p50_ms / p.batch + profile.ask_cost(p.tier).cpu_ms for p in points)
    if minimise == "latency":
        return latency_ms
    if minimise == "energy":
        energy_j = _energy_j(cascade, profile, points)
        if energy_j is None:
            raise UsageError(
                "objective.minimise: energy, but this machine has no readable meter",
                "give `busy_watts` in the device file (shown as modelled), or minimise device_time",
            )
        return energy_j
    if minimise == "money":
        groups = {group.type: group for group in load_devices(cascade).devices}
        prices = [groups[p.device].price_per_hour if p.device in groups else None for p in points]
        if any(price is None for price in prices):
            raise UsageError(
                f"objective.minimise: money, but {cascade.devices} gives no `price_per_hour`",
                "give it per device, or minimise device_time",
            )
        # One device works on as many rows at once as its utilization leaves room for.
        return tuple(
            (price or 0.0) * ms * p.kernel_utilization / MS_PER_HOUR * 1e6
            for price, ms, p in zip(prices, busy_ms, points, strict=True)
        )
    return busy_ms


def _energy_j(cascade: Cascade, profile: Profile, points: list[ProfilePoint]) -> tuple[float, ...] | None:
    """Per row, with what asking the tier costs; None where a tier has none."""
    watts = next((g.busy_watts for g in load_devices(cascade).devices if g.kind == "cpu"), None) or 0.0
    if any(point.energy_j is None for point in points):
        return None
    return tuple((p.energy_j or 0.0) + watts * profile.ask_cost(p.tier).cpu_ms / 1000.0 for p in points)
