"""Without a device: what `place` counts with is what `gears` plans."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from cascade_tools.artifacts import Placement, Profile
from cascade_tools.stages.pipeline import run_stage
from cascade_tools.stages.place import PLACEMENT_FILE
from cascade_tools.stages.profile import PROFILE_FILE
from cascade_tools.stages.progress import stderr_reporter
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


def test_tiers_that_go_with_one_host_are_planned_for_together(tmp_path: Path) -> None:
    work = on_gpus(tmp_path)
    run_stage("place", work, stderr_reporter())
    placement = work.load(PLACEMENT_FILE, Placement, "place")
    both = [entry for entry in placement.losses if len(entry.homeless) == 2]
    assert [entry.rate_rps for entry in both] == [None] * len(both), "nothing is left then"
