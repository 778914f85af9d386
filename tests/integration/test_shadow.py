"""The router's own shadow log, on the real server: what it holds, and what `recalibrate` makes of it."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cascade_tools.artifacts import GearPlan
from cascade_tools.models.usercode import Rows
from cascade_tools.planning.evaluate import follow, threshold_policy
from cascade_tools.runtime.plan import parse_policy
from cascade_tools.runtime.policy import ANSWER, route
from cascade_tools.serving.embedded import Server, embedded_triton
from cascade_tools.serving.load import WARM_UP_REQUESTS, run_load
from cascade_tools.stages.calibrate import SCORES_FILE
from cascade_tools.stages.shadow import read_shadow
from cascade_tools.store import Workspace, load_score_table

from .helpers import (
    MODEL,
    metric,
    settled_metric,
    swapped_plan,
    wait_until,
    with_limits,
    with_policies,
)

DATATYPES = {"PIXELS": "FP32"}
FAMILIES = ("rows", "agrees", "dropped")


@dataclass(frozen=True)
class Shown:
    """What one pass over the rows left: the log's lines, counts by family, and the tier of every row."""

    written: list[str]
    counts: dict[str, float]
    tier: list[int]
    alarms: dict[str, float]
    log: str

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.written]


def with_tolerated(plan: GearPlan, share: float) -> GearPlan:
    """The plan with so many disagreements tolerated of every tier but the last."""
    ladder = [info.model_copy(update={"tolerated_disagreement": share}) for info in plan.ladder[:-1]]
    return plan.model_copy(update={"ladder": (*ladder, plan.ladder[-1])})


@dataclass(frozen=True)
class Watched:
    """A server that keeps a shadow log."""

    server: Server
    repository: Path
    log: Path

    def lines(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []


@pytest.fixture(scope="module")
def watched(triton: None, served: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("shadow")
    repository = shutil.copytree(served, folder / "repository")
    log = folder / "shadow.jsonl"
    with embedded_triton(repository, shadow=log) as server:
        yield Watched(server, repository, log)


def serve_once(share: float, plan: GearPlan, watched: Watched, rows: Rows, tiers: tuple[str, ...]) -> Shown:
    """Serve the rows with a plan; what is told is of this pass alone."""
    server = watched.server

    def count(family: str) -> float:
        return sum(metric(server, f"cascade_shadow_{family}", tier=tier) for tier in tiers[:-1])

    with swapped_plan(server, watched.repository, with_limits(plan, shadow_share=share)):
        settled_metric(server, "cascade_answers")
        said, logged = len(server.log.read_text(errors="replace")), len(watched.lines())
        before = {family: count(family) for family in FAMILIES}
        load = run_load(server.grpc_url, MODEL, rows.inputs, DATATYPES, 2, ("TIER",))
        tier = load.outputs["TIER"].tolist()
        if share == 1.0:
            sent = [*tier, *tier[:WARM_UP_REQUESTS]]
            early = sum(number < len(tiers) - 1 for number in sent)
            known = before["rows"] + before["dropped"]
            wait_until(
                lambda: count("rows") + count("dropped") == known + early, "all early rows are counted"
            )
        elif share:
            wait_until(lambda: metric(server, "cascade_drift") > 0.0, "a tier raises the alarm")
        alarms = {tier: settled_metric(server, "cascade_drift", tier=tier) for tier in tiers[:-1]}
        counts = {family: count(family) - before[family] for family in FAMILIES}
        text = server.log.read_text(errors="replace")[said:]
        return Shown(watched.lines()[logged:], counts, tier, alarms, text)


def test_every_row_before_the_last_tier_may_be_shown_to_it(
    small: Workspace,
    plan: GearPlan,
    watched: Watched,
    rows: Rows,
    tiers: tuple[Any, Any, Any],
    tmp_path: Path,
) -> None:
    label, confidence, _ = tiers
    names = small.cascade.tier_names
    found = serve_once(1.0, with_tolerated(plan, 0.5), watched, rows, names)
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
        assert line["gear"] in range(len(plan.gears))
        assert time.time() - 600 < line["time"] <= time.time()
    assert set(found.alarms.values()) == {0.0}
    assert " differs from " not in found.log

    # The log is what `recalibrate` reads.
    own_log = tmp_path / "shadow.jsonl"
    own_log.write_text("".join(f"{line}\n" for line in found.written))
    logged = read_shadow(own_log, names)
    assert sum(len(of_tier) for of_tier in logged.values()) == len(found.lines)
    policy = parse_policy(plan.gears[-1].policy.model_dump(), "policy")
    for tier, of_tier in logged.items():
        bands = policy.bands[policy.tiers.index(tier)]
        assert (route(bands, of_tier.confidence.astype(np.float32)) == ANSWER).all()


def test_a_tier_that_disagrees_more_often_than_planned_raises_the_alarm(
    small: Workspace, plan: GearPlan, watched: Watched, rows: Rows
) -> None:
    names = small.cascade.tier_names
    hasty = with_policies(plan, (threshold_policy((names[0], names[-1]), (0.0,)), None))
    found = serve_once(0.5, with_tolerated(hasty, 1e-4), watched, rows, names)
    assert sum(line["label"] != line["giant_label"] for line in found.lines) >= 5
    assert {line["probability"] for line in found.lines} == {0.5}
    assert found.alarms == {names[0]: 1.0, names[1]: 0.0}
    said = f"tier {names[0]} differs from {MODEL}_{names[-1]} on more than the"
    assert found.log.count(said) == 1


def test_without_a_share_nothing_is_shown(
    small: Workspace, plan: GearPlan, watched: Watched, rows: Rows
) -> None:
    few = rows.take(slice(0, 50))
    found = serve_once(0.0, plan, watched, few, small.cascade.tier_names)
    assert found.lines == []
    assert set(found.counts.values()) == {0.0}


def test_the_plan_says_what_it_tolerates(small: Workspace, built_plan: GearPlan) -> None:
    table = load_score_table(small.path(SCORES_FILE)).part("verify")
    for gear in built_plan.gears:
        answered = follow(table, gear.policy).answered
        for own, info in enumerate(built_plan.ladder[:-1]):
            mine = answered[:, own]
            if not mine.any():
                continue
            share = (table.label[mine, own] != table.label[mine, -1]).mean()
            assert info.tolerated_disagreement is None or share < info.tolerated_disagreement < 1.0
    assert built_plan.ladder[-1].tolerated_disagreement is None
