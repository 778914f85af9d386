"""The router's own shadow log, on the real server: what it holds, and what `recalibrate` makes of it."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cascade_tools.artifacts import GearPlan
from cascade_tools.runtime.plan import parse_policy
from cascade_tools.runtime.policy import ANSWER, route
from cascade_tools.serving.embedded import embedded_triton
from cascade_tools.serving.load import WARM_UP_REQUESTS, run_load
from cascade_tools.stages.shadow import read_shadow
from cascade_tools.stages.usercode import Rows
from cascade_tools.store import Workspace

from .helpers import MODEL, metric, plan_path, to_bytes, wait_until, with_limits

DATATYPES = {"PIXELS": "FP32"}
FAMILIES = ("rows", "agrees", "dropped")


@dataclass(frozen=True)
class Shown:
    """What one pass over the rows left: the log's lines, counts by family, and the tier of every row."""

    lines: list[dict[str, Any]]
    counts: dict[str, float]
    tier: list[int]


def serve_once(
    share: float, plan: GearPlan, served: Path, rows: Rows, tiers: tuple[str, ...], folder: Path
) -> Shown:
    repository = shutil.copytree(served, folder / "repository")
    plan_path(repository).write_bytes(to_bytes(with_limits(plan, shadow_share=share)))
    log = folder / "shadow.jsonl"
    with embedded_triton(repository, shadow=log) as server:

        def count(family: str) -> float:
            return sum(metric(server, f"cascade_shadow_{family}", tier=tier) for tier in tiers[:-1])

        load = run_load(server.grpc_url, MODEL, rows.inputs, DATATYPES, 2, ("TIER",))
        tier = load.outputs["TIER"].tolist()
        if share == 1.0:
            sent = [*tier, *tier[:WARM_UP_REQUESTS]]
            early = sum(number < len(tiers) - 1 for number in sent)
            wait_until(lambda: count("rows") + count("dropped") == early, "all early rows are counted")
        else:
            wait_until(lambda: not share or count("rows") > 0, "rows were shown")
        counts = {family: count(family) for family in FAMILIES}
    lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    return Shown(lines, counts, tier)


def test_every_row_before_the_last_tier_may_be_shown_to_it(
    triton: None,
    small: Workspace,
    plan: GearPlan,
    served: Path,
    rows: Rows,
    tiers: tuple[Any, Any, Any],
    tmp_path: Path,
) -> None:
    label, confidence, _ = tiers
    names = small.cascade.tier_names
    found = serve_once(1.0, plan, served, rows, names, tmp_path)
    assert len(found.lines) == found.counts["rows"] > 0.5 * sum(tier < 2 for tier in found.tier)
    assert found.counts["agrees"] == sum(line["label"] == line["giant_label"] for line in found.lines)
    for line in found.lines:
        own = names.index(line["tier"])
        alike = np.flatnonzero(
            (np.array(found.tier) == own)
            & (np.abs(confidence[:, own] - line["confidence"]) < 1e-3)
            & (label[:, own] == line["label"])
            & (label[:, -1] == line["giant_label"])
        )
        assert len(alike), line
        assert line["probability"] == 1.0
        assert line["gear"] in range(len(plan.gears))
        assert time.time() - 600 < line["time"] <= time.time()


def test_the_log_is_what_recalibrate_reads(
    triton: None, small: Workspace, plan: GearPlan, served: Path, rows: Rows, tmp_path: Path
) -> None:
    found = serve_once(0.5, plan, served, rows, small.cascade.tier_names, tmp_path)
    logged = read_shadow(tmp_path / "shadow.jsonl", small.cascade.tier_names)
    assert sum(len(of_tier) for of_tier in logged.values()) == len(found.lines) > 0
    policy = parse_policy(plan.gears[-1].policy.model_dump(), "policy")
    for tier, of_tier in logged.items():
        bands = policy.bands[policy.tiers.index(tier)]
        assert (route(bands, of_tier.confidence.astype(np.float32)) == ANSWER).all()
        assert of_tier.largest_weight == 2.0


def test_without_a_share_nothing_is_shown(
    triton: None, small: Workspace, plan: GearPlan, served: Path, rows: Rows, tmp_path: Path
) -> None:
    found = serve_once(0.0, plan, served, rows, small.cascade.tier_names, tmp_path)
    assert found.lines == []
    assert set(found.counts.values()) == {0.0}
