"""Without a device: what `place` counts with is what `gears` plans."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from cascade_tools.artifacts import Hop, Lost, Placement, PolicyTable, Profile
from cascade_tools.planning.fallbacks import losses
from cascade_tools.planning.placement.balance import balance
from cascade_tools.planning.placement.problem import Device, Problem, Solution, TierLoad, Variant
from cascade_tools.stages.lost import what_is_left
from cascade_tools.stages.place import PLACEMENT_FILE
from cascade_tools.stages.profile import PROFILE_FILE
from cascade_tools.stages.sustained import sustained_without
from cascade_tools.store import Workspace
from tests.test_gears import CHEAP
from tests.test_gears_stage import planned, planned_gears

GPUS: dict[str, list[dict[str, Any]]] = {
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


def test_what_takes_the_router_away_says_nothing_of_a_tier_on_its_host(tmp_path: Path) -> None:
    work = on_gpus(tmp_path)
    one_each = {"devices": [{**GPUS["devices"][0], "memory_mib": 150}, {**GPUS["devices"][1], "count": 1}]}
    (work.cascade.folder / "devices.yaml").write_text(yaml.safe_dump(one_each))
    profile = work.load(PROFILE_FILE, Profile, "profile")
    hop = Hop(latency_ms=0.1, cpu_ms=0.05, step_ms=0.01, origin="given")
    work.save(PROFILE_FILE, profile.model_copy(update={"hop": hop}))
    plan = planned_gears(work)
    placement = work.load(PLACEMENT_FILE, Placement, "place")
    (there,) = (placed.tier for placed in placement.instances if placed.device == 0)
    (cpu,) = (lost for lost in placement.losses if (lost.what, lost.which) == ("device", (0,)))
    assert (cpu.rate_rps, cpu.homeless) == (None, (there,))
    # That tier alone may be broken all the same: the other one serves, with all devices there.
    fallback = next(entry for entry in plan.fallbacks if entry.without == (there,))
    assert fallback.sustains_rps is not None
    assert fallback.sustains_rps > 10.0


def test_what_only_the_router_takes_along_has_no_rate() -> None:
    gone = Lost(what="device", which=(0,), homeless=("small", "mid"), rate_rps=None)
    left = gone.model_copy(update={"which": (1,), "rate_rps": 7.0})

    def nothing(reach: Mapping[str, float], table: PolicyTable | None) -> float:
        raise AssertionError("two tiers are not broken while their devices are there")

    assert sustained_without({"small", "mid"}, CHEAP, nothing, [gone]) is None
    assert sustained_without({"small", "mid"}, CHEAP, nothing, [gone, left]) == 7.0

    def all_there(reach: Mapping[str, float], table: PolicyTable | None) -> float:
        return 5.0 if (reach, table) == (CHEAP.reach, CHEAP.table) else 0.0

    assert sustained_without({"small"}, CHEAP, all_there, [gone, left]) == 5.0


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
