"""What gears are planned from where there is an SLO: policies, rates, devices, and a simulator of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from cascade_tools.artifacts import (
    Calibration,
    Exported,
    Frontier,
    Gear,
    GearPlan,
    Hysteresis,
    Placement,
    PredictedPolicy,
    Profile,
    RoutingPolicy,
)
from cascade_tools.errors import UsageError
from cascade_tools.planning.gears import GearQuestion, RateBins, bins_of_counts, bins_of_shares, zipf_bins
from cascade_tools.planning.gears.forecast import Forecaster
from cascade_tools.planning.placement.problem import IntArray, Problem, Solution, Variant
from cascade_tools.planning.simulator.system import System
from cascade_tools.planning.traces.shape import counts_per_window
from cascade_tools.spec import SPEC_FILE, Cascade
from cascade_tools.stages.asking import has_skips
from cascade_tools.stages.calibrate import CALIBRATION_FILE
from cascade_tools.stages.export import EXPORTED_FILE
from cascade_tools.stages.ladder import ladder_of, limits_of
from cascade_tools.stages.placed import instances_of
from cascade_tools.stages.profile import PROFILE_FILE
from cascade_tools.stages.search import FRONTIER_FILE, POLICY_FILE
from cascade_tools.stages.tier_loads import partitions_of, problem_of
from cascade_tools.stages.trace_file import read_arrivals
from cascade_tools.store import Workspace

SEED = 7  # of the simulated arrivals; part of what makes a plan repeatable


class _Known(NamedTuple):
    """The artifacts that gears are planned from."""

    calibration: Calibration
    exported: Exported
    profile: Profile
    policy: RoutingPolicy


def gear_question(
    work: Workspace, problem: Problem, placement: Placement, fixed: IntArray | None
) -> GearQuestion:
    """The question for a cascade with `gears.slo` and `gears.rates`.

    Args:
        work: with all stages up to the search.
        problem: the placement problem, with what is wanted anyhow.
        placement: some placement of it; only its devices count.
        fixed: instances [units, devices] that cannot be changed; None where they are to be found.

    Raises:
        UsageError: the trace of the rates cannot be read.
    """
    cascade = work.cascade
    slo, rates = cascade.gears.slo, rates_of(cascade)
    assert slo is not None
    assert rates is not None
    known = _Known(
        work.load(CALIBRATION_FILE, Calibration, "calibrate"),
        work.load(EXPORTED_FILE, Exported, "export"),
        work.load(PROFILE_FILE, Profile, "profile"),
        work.load(POLICY_FILE, RoutingPolicy, "search"),
    )
    return GearQuestion(
        policies=_policies(work, known.policy),
        reach_of=reach_of(work, known.profile, problem),
        problem=problem,
        rates=rates,
        slo=slo,
        target_busy_share=cascade.gears.target_busy_share,
        forecast=_forecaster(work, known, problem, placement),
        largest_trigger=cascade.serving.max_batch_size,
        placement=fixed,
    )


def rates_of(cascade: Cascade) -> RateBins | None:
    """The planned rates of a cascade; None where it names none.

    Raises:
        UsageError: a trace cannot be read.
    """
    rates = cascade.gears.rates
    if rates is None:
        return None
    if rates.histogram is not None:
        return bins_of_shares(rates.histogram.edges_rps, rates.histogram.shares)
    if rates.trace is None:
        assert rates.max_rps is not None
        return zipf_bins(rates.max_rps, rates.bins, rates.zipf)
    counts = counts_per_window(read_arrivals(cascade.folder / rates.trace), 1.0)
    if not counts.any():
        raise UsageError(f"{cascade.folder / SPEC_FILE}: gears.rates.trace: nothing arrives in {rates.trace}")
    return bins_of_counts(counts.astype(np.float64), rates.bins, rates.max_rps)


def _policies(work: Workspace, policy: RoutingPolicy) -> tuple[PredictedPolicy, ...]:
    """What may become a gear: within the allowance, or anything on the frontier."""
    if policy.recalibrated is not None:  # new cuts are for the gears that are in use
        return policy.alternatives
    kept = (policy.reference, *policy.alternatives, policy.chosen)
    if work.cascade.gears.within_allowance:
        return kept
    return (*kept, *work.load(FRONTIER_FILE, Frontier, "search").policies)


def reach_of(
    work: Workspace, profile: Profile, problem: Problem
) -> Callable[[PredictedPolicy], tuple[float, ...]]:
    """What a policy asks of each load of the problem, in rows of that problem.

    What asking the tiers costs depends on the policy, too: it is counted in rows that cost what they cost in
    the problem.
    """
    partitions = partitions_of(work)
    base = _overheads(problem)

    def reach(policy: PredictedPolicy) -> tuple[float, ...]:
        asked = _overheads(
            problem_of(work.cascade, profile, partitions, policy.reach, skips=has_skips(policy.table))
        )
        return tuple(
            _times(asked.get(tier.name), base[tier.name]) if tier.overhead else policy.reach[tier.name]
            for tier in problem.tiers
        )

    return reach


def _overheads(problem: Problem) -> dict[str, Variant]:
    return {tier.name: tier.variants[0] for tier in problem.tiers if tier.overhead}


def _times(asked: Variant | None, base: Variant) -> float:
    """How many rows of one overhead are as much as one of another: in time or in work, whichever is more."""
    if asked is None:
        return 0.0
    (kind,) = base.seconds_per_row
    times = asked.seconds_per_row[kind] / base.seconds_per_row[kind]
    return times * max(1.0, asked.utilization[kind] / base.utilization[kind])


def _forecaster(work: Workspace, known: _Known, problem: Problem, placement: Placement) -> Forecaster:
    # Here, because they know the files of the stages that plan gears.
    from cascade_tools.stages.simulated import Planned, make_system, recorded_of

    plan = _some_plan(work.cascade, known)

    def system_of(count: IntArray) -> System:
        nothing = np.zeros(count.shape)
        solution = Solution(count, nothing, 0.0, 0.0, 0.0, "", "")
        placed = placement.model_copy(update={"instances": instances_of(problem, solution)})
        return make_system(Planned(work.cascade, known.profile, placed, plan, known.exported))

    return Forecaster(system_of, recorded_of(work), SEED)


def _some_plan(cascade: Cascade, known: _Known) -> GearPlan:
    """A plan with one gear, for all that does not depend on the gears."""
    reference = known.policy.reference
    return GearPlan(
        cascade=cascade.name,
        made_from={},
        inputs=known.calibration.inputs,
        classes=known.calibration.classes,
        tokens=known.calibration.tokens,
        probabilities=cascade.serving.probabilities,
        ladder=ladder_of(cascade, known.calibration, known.profile, known.exported, {}),
        gears=(
            Gear(
                up_to_rps=None,
                policy=reference.table,
                min_queue=1,
                max_wait_ms=0.0,
                predicted_accuracy=reference.accuracy,
                predicted_cost=reference.cost,
            ),
        ),
        hysteresis=Hysteresis(),
        limits=limits_of(cascade),
        cost_unit=known.policy.cost_unit,
    )
