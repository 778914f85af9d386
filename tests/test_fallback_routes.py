"""Without a device: what `place` counts with is what `gears` plans."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from cascade_tools.artifacts import Placement, Profile
from cascade_tools.planning.fallbacks import losses
from cascade_tools.planning.placement.balance import balance
from cascade_tools.planning.placement.problem import Device, Problem, Solution, TierLoad, Variant
from cascade_tools.stages.lost import what_is_left
from cascade_tools.stages.place import PLACEMENT_FILE
from cascade_tools.stages.profile import PROFILE_FILE
from cascade_tools.store import Workspace
from tests.test_gears_stage import planned, planned_gears

GPUS = {
    "devices": [
        {"type": "cores", "kind": "cpu", "cores": 2, "memory_mib": 10},
        {"type": "gpu", "kind": "gpu", "count": 2, "memory_mib": 150},
    ]
}


def on_gpus(folder: Path) -> Workspace:
    """Two devices that hold one model each, and a CPU that holds none."""
    work = planned(folder, {})
    profile = work.load(PROFILE_FILE, Profile, "profile")
    there = tuple(point.model_copy(update={"device": "gpu"}) for point in profile.points)
    work.save(PROFILE_FILE, profile.model_copy(update={"points": (*profile.points, *there)}))
    (work.cascade.folder / "devices.yaml").write_text(yaml.safe_dump(GPUS))
    return work


def test_place_and_gears_say_the_same_of_a_lost_device(tmp_path: Path) -> None:
    work = on_gpus(tmp_path)
    plan = planned_gears(work)
    placement = work.load(PLACEMENT_FILE, Placement, "place")
    lost = {entry.homeless: entry for entry in placement.losses if len(entry.homeless) == 1}
    by_tier = {entry.without: entry for entry in plan.fallbacks}
    assert set(lost) == set(by_tier) == {("small",), ("large",)}
    for tiers, entry in lost.items():
        fallback = by_tier[tiers]
        assert entry.by_routes
        assert entry.reach == pytest.approx(fallback.reach)
        assert fallback.reach[tiers[0]] == 0.0
        # The tier that is left has one instance, and all rows.
        (other,) = fallback.gears[0].policy.tiers
        assert fallback.sustains_rps == pytest.approx(entry.rate_rps)
        assert fallback.reach[other] == 1.0
    # Without `small` the rate is that of one instance of `large`, and the other way round.
    assert (by_tier["large",].sustains_rps or 0.0) > 5.0 * (by_tier["small",].sustains_rps or 0.0)


def piece(ms: float, stages: int = 1) -> Variant:
    return Variant(stages, 1, {"g": ms / 1000.0}, {"g": 1.0}, memory_mib=10, further_mib=10)


def planned_for(problem: Problem, count: list[list[int]]) -> tuple[frozenset[str], ...]:
    there = np.array(count, np.int64)
    rate, busy = balance(problem, there)
    left = what_is_left(problem, Solution(there, busy, rate, rate, rate, "optimal", "direct"))
    used = {tier.name for tier in problem.tiers}
    return losses(used, [entry.homeless for entry in left])


def test_one_stage_of_a_tier_that_is_cut_is_no_home() -> None:
    tiers = (
        TierLoad("small", 1.0, (piece(1.0),)),
        TierLoad("mid", 0.5, (piece(2.0),)),
        TierLoad("giant", 0.1, (piece(4.0, 2),)),
    )
    problem = Problem(tiers, (Device("g", 100), Device("g", 100)))
    # Small on the first, mid on both, the giant's two stages on one each.
    found = planned_for(problem, [[1, 0], [1, 1], [1, 0], [0, 1]])
    assert frozenset({"small", "giant"}) in found


def test_tiers_on_two_devices_of_one_host_are_lost_together() -> None:
    tiers = tuple(TierLoad(name, 1.0, (piece(1.0),)) for name in ("small", "mid", "giant"))
    problem = Problem(tiers, (Device("g", 100), Device("g", 100), Device("g", 100, 1), Device("g", 100, 1)))
    found = planned_for(problem, [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]])
    assert frozenset({"small", "mid"}) in found
