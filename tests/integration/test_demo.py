"""The demo from nothing to its table, as a newcomer runs it."""

from __future__ import annotations

import itertools
import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from cascade_tools.artifacts import GearPlan, Placement
from cascade_tools.repository.render import render_configs

from .helpers import shared_memory_of

PROJECT = Path(__file__).resolve().parents[2]
LIMIT_S = 1200
SERVED = {"accuracy", "latency_mean_ms", "latency_p99_ms", "throughput_rps", "cpu_ms_per_request"}


def processes_that_name(folder: Path) -> list[list[str]]:
    """Command lines of living processes that have something to do with a folder."""
    found = []
    for process in psutil.process_iter():
        try:
            command = process.cmdline()
        except psutil.Error:
            continue
        if str(folder) in " ".join(command):
            found.append(command)
    return found


def assert_served(served: dict[str, Any]) -> None:
    for field in SERVED:
        assert math.isfinite(served[field]) and served[field] > 0, field
    assert served["accuracy"] <= 1
    assert served["latency_mean_ms"] > 0
    # Energy is a figure with where it comes from, or openly unknown.
    assert (served["energy_j"] is None) == (served["energy_origin"] is None)
    assert served["energy_origin"] in (None, "measured", "modelled")


def without_counts(config: str) -> str:
    """Instance counts follow the profile, and so the machine."""
    return re.sub(r"count: \d+", "count: N", config)


def assert_committed_configs_are_true(build: Path) -> None:
    """The NGC configs in git are those that today's plan renders."""
    plan = GearPlan.model_validate_json((build / "gear_plan.json").read_bytes())
    placement = Placement.model_validate_json((build / "placement.json").read_bytes())
    for name, text in render_configs(plan, placement, "ngc").items():
        committed = (PROJECT / "model_repository" / "digits" / name).read_text()
        assert without_counts(committed) == without_counts(text), name


@pytest.mark.timeout(LIMIT_S + 60)
def test_the_demo_holds_its_promise_and_leaves_only_its_files(triton: None, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cascade_tools.cli.app", "demo", "--json", "--build-dir", str(tmp_path)]
    with subprocess.Popen(
        command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as demo:
        out, err = demo.communicate(timeout=LIMIT_S)
    assert demo.returncode == 0, err
    score = json.loads(out.splitlines()[-1])

    tiers = score["tiers"]
    assert [tier["name"] for tier in tiers] == ["tiny", "small", "base", "giant"]
    for smaller, larger in itertools.pairwise(tiers):
        assert larger["accuracy"] - smaller["accuracy"] >= 0.015
        assert larger["parameters"] > smaller["parameters"]
    assert all(tier["cpu_ms_per_row"] > 0 for tier in tiers)
    assert sum(tier["answer_share"] for tier in tiers) == pytest.approx(1.0)
    assert tiers[-1]["answer_share"] < 1, "the giant does not answer everything"
    assert tiers[-1]["accuracy"] == score["giant"]["accuracy"]

    assert_served(score["giant"])
    assert_served(score["cascade"])
    assert score["cascade"]["router_cpu_ms_per_request"] > 0
    assert score["allowance"] == pytest.approx(0.01)
    assert score["promise_held"] is True
    assert score["cascade"]["accuracy"] >= score["giant"]["accuracy"] - score["allowance"]
    shares = np.array([tier["answer_share"] for tier in tiers])
    assert ((shares >= 0) & (shares <= 1)).all()

    plan = GearPlan.model_validate_json((tmp_path / "digits" / "gear_plan.json").read_bytes())
    assert len(plan.gears) >= 2

    page = tmp_path / "digits" / "report.html"
    assert str(page) in out
    assert page.stat().st_size > 10_000
    assert "<svg" in page.read_text()
    assert_committed_configs_are_true(tmp_path / "digits")
    assert shared_memory_of(demo.pid) == set()
    assert processes_that_name(tmp_path) == []
