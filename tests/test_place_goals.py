"""`place --problem` with a rate given: what is gained in devices or watts, and what is taken for nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from .cli_calls import Outcome, call

GPUS = 4


def placed(folder: Path, objective: dict[str, Any], **device: float) -> Outcome:
    """Two tiers of one row a batch: 1 ms and .1 J for all rows, 10 ms and 2 J for a tenth of them."""
    tiers = [
        {"name": "small", "reach": 1, "time_ms": {"A": 1.0}, "energy_j": {"A": 0.1}},
        {"name": "giant", "reach": 0.1, "time_ms": {"A": 10.0}, "energy_j": {"A": 2.0}},
    ]
    common = {"batch": 1, "weights_mib": 100, "utilization": {"A": 1.0}, "stage_overhead": {3: 0.5}}
    group = {"type": "A", "count": GPUS, "memory_mib": 1000, **device}
    content = {"tiers": [{**tier, **common} for tier in tiers], "devices": [group], "objective": objective}
    path = folder / "problem.json"
    path.write_text(json.dumps(content))
    outcome = call("place", "--problem", path, "--json")
    assert outcome.code == 0, outcome.err
    return outcome


def test_the_fewest_devices_are_held_against_those_of_the_baselines(tmp_path: Path) -> None:
    # A GPU does 500 rows/s of the cascade, or 100 of the giant.
    found = placed(tmp_path, {"rate_rps": 350, "minimise": "gpus"})
    content = found.content
    assert content["value"] == 1.0
    assert content["could_rps"] == pytest.approx(500.0), "what is in use sustains more than is asked for"
    giant = content["baselines"]["giant_only"]
    assert (giant["feasible"], giant["devices"], giant["value"]) == (True, 4, 4.0)
    assert "1 devices in use for 350 rows/s, giant alone 4" in found.out
    assert "could carry 500 rows/s" in found.out
    assert "0.25x as much" in found.out
    for baseline in content["baselines"].values():
        assert baseline["devices"] >= 1


def test_a_baseline_that_does_not_carry_the_rate_takes_nothing(tmp_path: Path) -> None:
    found = placed(tmp_path, {"rate_rps": 900, "minimise": "gpus"})
    assert found.content["baselines"]["giant_only"] == {"rate_rps": None, "feasible": False}
    assert "giant alone cannot carry it" in found.out


def test_the_least_power_is_held_against_that_of_the_baselines(tmp_path: Path) -> None:
    # Dynamic: .3 J a row of the cascade, 2 J of the giant; one GPU draws 50 W idle.
    found = placed(tmp_path, {"rate_rps": 100, "minimise": "energy"}, idle_w=50)
    assert found.content["value"] == pytest.approx(50 + 100 * 0.3)
    assert found.content["baselines"]["giant_only"]["value"] == pytest.approx(50 + 100 * 2.0)
    assert "80 W, idle and dynamic, for 100 rows/s, giant alone 250 W" in found.out
    assert not any("idle_w" in note for note in found.content["notes"])


def test_idle_power_that_is_not_given_and_overheads_of_no_stages_are_told(tmp_path: Path) -> None:
    found = placed(tmp_path, {"rate_rps": 100, "minimise": "energy"})
    overhead, other, idle = found.content["notes"]
    assert overhead.startswith("tiers.0.stage_overhead: 3 is no number of `stages`")
    assert other.startswith("tiers.1.stage_overhead: 3")
    assert idle.startswith("devices.0: no `idle_w`")
    assert "idle counts as 0 W" in " ".join(found.out.split())
