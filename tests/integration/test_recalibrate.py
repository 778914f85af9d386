"""`recalibrate` on a planned cascade: nothing without drift, a proposal with it, a new plan when asked."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from cascade_tools.artifacts import GearPlan, Profile, RoutingPolicy, ScoreTable
from cascade_tools.planning.evaluate import evaluate, follow, threshold_policy
from cascade_tools.stages.build_repo import build_repo
from cascade_tools.stages.calibrate import SCORES_FILE
from cascade_tools.stages.gears import GEARS_FILE
from cascade_tools.stages.pipeline import run_stage, status
from cascade_tools.stages.place import PLACEMENT_FILE
from cascade_tools.stages.profile import PROFILE_FILE
from cascade_tools.stages.progress import Reporter
from cascade_tools.stages.recalibrate import RECALIBRATED_FILE
from cascade_tools.stages.search import POLICY_FILE, make_question
from cascade_tools.store import Workspace, load_score_table

from ..cli_calls import Outcome, assert_refused, call

LINES = 400
Change = Callable[[dict[str, Any], float], object]


@pytest.fixture
def planned(copied: Workspace, report: Reporter) -> Workspace:
    """The small cascade with a policy of its first tier and its last, whatever this machine measured."""
    table = load_score_table(copied.path(SCORES_FILE))
    question = make_question(copied.cascade, copied.load(PROFILE_FILE, Profile, "profile"))
    cut = float(np.quantile(table.confidence[:, 0], 0.4))
    chosen = evaluate(table, threshold_policy(("near", "kernel"), (cut,)), question)
    chosen = chosen.model_copy(update={"accuracy_drop": 0.0, "accuracy_drop_bound": 0.0})
    policy = copied.load(POLICY_FILE, RoutingPolicy, "search")
    # So dear that no proposal fails because the giant alone is cheaper.
    reference = policy.reference.model_copy(update={"cost": 1e6})
    changes = {"chosen": chosen, "alternatives": (chosen,), "reference": reference}
    copied.save(POLICY_FILE, policy.model_copy(update=changes))
    run_stage("place", copied, report)
    run_stage("gears", copied, report)
    return copied


def chosen_of(work: Workspace) -> RoutingPolicy:
    return work.load(POLICY_FILE, RoutingPolicy, "search")


def write_log(work: Workspace, path: Path, change: Change = lambda line, draw: None) -> Path:
    """Rows that the first tier answered and the search did not see, drawn again and again."""
    table: ScoreTable = load_score_table(work.path(SCORES_FILE)).part("verify")
    answered = np.flatnonzero(follow(table, chosen_of(work).chosen.table).answered[:, 0])
    rng = np.random.default_rng(0)
    lines = []
    for number, row in enumerate(rng.choice(answered, LINES).tolist()):
        line = {
            "time": 1000.0 + number,
            "tier": "near",
            "confidence": float(table.confidence[row, 0]),
            "label": int(table.label[row, 0]),
            "giant_label": int(table.label[row, -1]),
            "probability": 0.01,
        }
        change(line, float(rng.random()))
        lines.append(json.dumps(line))
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def differ_when_unsure(line: dict[str, Any], draw: float) -> None:
    """The giant leaves the tier on half of the rows, but on none of the surest."""
    if draw < 0.5 and line["confidence"] < 0.999:
        line["giant_label"] = line["label"] + 1


def recalibrate(work: Workspace, log: Path, *options: object) -> Outcome:
    build = work.build.parent
    return call("recalibrate", work.cascade.folder, "--shadow", log, "--build-dir", build, *options, "--json")


def files(work: Workspace) -> dict[str, int]:
    return {
        str(path.relative_to(work.build)): path.stat().st_mtime_ns
        for path in work.build.rglob("*")
        if path.is_file() and not path.is_symlink()
    }


def test_the_plan_s_own_rows_have_not_drifted(planned: Workspace, tmp_path: Path) -> None:
    before = files(planned)
    outcome = recalibrate(planned, write_log(planned, tmp_path / "shadow.jsonl"))
    assert outcome.code == 0, outcome.err
    assert outcome.content["drifted"] is False
    assert outcome.content["proposal"] is None
    assert outcome.content["tiers"][0]["rows"] == LINES
    assert "no drift was noticed" in outcome.out
    assert files(planned) == before


def test_drift_is_answered_with_a_proposal_and_nothing_else_changes(
    planned: Workspace, tmp_path: Path
) -> None:
    before = files(planned)
    outcome = recalibrate(planned, write_log(planned, tmp_path / "shadow.jsonl", differ_when_unsure))
    assert outcome.code == 0, outcome.err
    (tier,) = outcome.content["tiers"]
    assert tier["drifted"]
    assert tier["agreement"]["noticed_at"] < LINES
    proposal = outcome.content["proposal"]
    (cut,) = proposal["cuts"]
    assert cut["cut"] > cut["planned"]
    assert cut["disagreement"] <= cut["tolerated"]
    assert proposal["rate_rps"] < proposal["planned_rate_rps"]
    assert outcome.content["applied"] is False
    proposed = planned.load(RECALIBRATED_FILE, RoutingPolicy, "recalibrate")
    assert proposed.chosen.table.model_dump(mode="json") == proposal["policy"]
    assert proposed.recalibrated is not None
    assert proposed.recalibrated.rows == {"near": LINES}
    after = files(planned)
    assert after.pop(RECALIBRATED_FILE)
    assert after == before


def test_applied_cuts_are_what_the_router_reads(planned: Workspace, tmp_path: Path) -> None:
    log = write_log(planned, tmp_path / "shadow.jsonl", differ_when_unsure)
    before = planned.load(GEARS_FILE, GearPlan, "gears").gears
    outcome = recalibrate(planned, log, "--apply")
    assert outcome.code == 0, outcome.err
    cut = outcome.content["proposal"]["cuts"][0]["cut"]
    assert chosen_of(planned).chosen.table.routes[0].cuts[-1] == cut
    plan = planned.path("repository") / "current" / "small" / "plan" / "gear_plan.json"
    assert json.loads(plan.read_text()) == json.loads(planned.path(GEARS_FILE).read_text())
    gears = planned.load(GEARS_FILE, GearPlan, "gears").gears
    assert gears[-1].policy.routes[0].cuts[-1] == cut
    assert [gear.policy.tiers for gear in gears] == [gear.policy.tiers for gear in before]


def test_what_follows_an_applied_policy_is_fresh(
    planned: Workspace, tmp_path: Path, report: Reporter
) -> None:
    build_repo(planned, "embedded", check=False, report=report)
    before = status(planned, "embedded", report)
    log = write_log(planned, tmp_path / "shadow.jsonl", differ_when_unsure)
    assert recalibrate(planned, log, "--apply").code == 0
    assert status(planned, "embedded", report) == before
    assert set(before.values()) == {"fresh"}


def test_a_policy_that_cannot_be_applied_leaves_all_as_it_was(planned: Workspace, tmp_path: Path) -> None:
    log = write_log(planned, tmp_path / "shadow.jsonl", differ_when_unsure)
    for graph in planned.path("export").glob("*.onnx"):
        graph.unlink()
    plan = {name: planned.path(name).read_bytes() for name in (POLICY_FILE, PLACEMENT_FILE, GEARS_FILE)}
    assert_refused(recalibrate(planned, log, "--apply"), 2, "export")
    assert {name: planned.path(name).read_bytes() for name in plan} == plan


def test_evidence_without_end_is_printed_as_a_number(planned: Workspace, tmp_path: Path) -> None:
    def differ(line: dict[str, Any], draw: float) -> None:
        line["giant_label"] = line["label"] + 1

    outcome = recalibrate(planned, write_log(planned, tmp_path / "shadow.jsonl", differ))
    assert outcome.code == 0, outcome.err
    assert outcome.content["tiers"][0]["agreement"]["evidence"] > 1e100
    assert outcome.content["proposal"]["cuts"][0]["kept"] == 0.0


def test_different_probabilities_need_the_smallest(planned: Workspace, tmp_path: Path) -> None:
    def vary(line: dict[str, Any], draw: float) -> None:
        line["probability"] = 0.5 if draw < 0.5 else 0.1

    log = write_log(planned, tmp_path / "shadow.jsonl", vary)
    assert_refused(recalibrate(planned, log), 2, "probability", "--smallest-probability")
    assert recalibrate(planned, log, "--smallest-probability", 0.1).code == 0
    assert_refused(recalibrate(planned, log, "--smallest-probability", 0.2), 2, "0.1, below")
    assert_refused(recalibrate(planned, log, "--smallest-probability", 2), 2, "--smallest-probability 2")


def test_after_new_cuts_the_same_traffic_has_not_drifted_again(planned: Workspace, tmp_path: Path) -> None:
    log = write_log(planned, tmp_path / "shadow.jsonl", differ_when_unsure)
    assert recalibrate(planned, log, "--apply").code == 0
    again = recalibrate(planned, log)
    assert again.code == 0, again.err
    assert again.content["drifted"] is False


def test_a_log_with_too_few_rows_says_so(planned: Workspace, tmp_path: Path) -> None:
    log = write_log(planned, tmp_path / "shadow.jsonl", differ_when_unsure)
    log.write_text("".join(f"{line}\n" for line in log.read_text().splitlines()[:20]))
    outcome = recalibrate(planned, log)
    assert outcome.code == 0
    assert outcome.content["tiers"][0]["agreement"] is None
    assert "too few rows" in outcome.out


def test_a_line_that_is_still_being_written_is_left_out(planned: Workspace, tmp_path: Path) -> None:
    log = write_log(planned, tmp_path / "shadow.jsonl")
    log.write_text(log.read_text() + '{"time": 12')
    assert recalibrate(planned, log).content["tiers"][0]["rows"] == LINES


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tier": "huge"}, ("line 1", "tier: 'huge' is none of near, linear, kernel")),
        ({"probability": 0}, ("line 1", "probability")),
        ({"probability": 1.5}, ("line 1", "probability")),
        ({"confidence": float("nan")}, ("line 1", "confidence")),
        ({"label": "7"}, ("line 1", "label")),
        ({"lable": 7}, ("line 1", "lable: unknown key")),
    ],
)
def test_a_line_that_does_not_fit_is_named(
    planned: Workspace, tmp_path: Path, change: dict[str, object], words: tuple[str, ...]
) -> None:
    log = write_log(planned, tmp_path / "shadow.jsonl", lambda line, draw: line.update(change))
    assert_refused(recalibrate(planned, log), 2, str(log), *words)


def test_a_missing_log_is_named(planned: Workspace, tmp_path: Path) -> None:
    assert_refused(recalibrate(planned, tmp_path / "none.jsonl"), 2, "none.jsonl: No such file")


def test_the_rate_of_false_alarms_has_bounds(planned: Workspace, tmp_path: Path) -> None:
    log = write_log(planned, tmp_path / "shadow.jsonl")
    assert_refused(recalibrate(planned, log, "--false-alarm-rate", 0.7), 2, "--false-alarm-rate 0.7")


def test_cuts_that_the_placement_cannot_carry_are_not_proposed(planned: Workspace, tmp_path: Path) -> None:
    log = write_log(planned, tmp_path / "shadow.jsonl", differ_when_unsure)
    outcome = recalibrate(planned, log)
    assert outcome.content["proposal"] is not None
    outcome = recalibrate(planned, log, "--min-rate", 1e9)
    assert_refused(outcome, 3, "--min-rate")
    assert outcome.content["drifted"] is True
    assert outcome.content["tiers"][0]["drifted"] is True
    assert "yes, at its row" in outcome.out
    assert not planned.path(RECALIBRATED_FILE).exists()


def test_cuts_above_the_cost_bound_are_not_proposed(planned: Workspace, tmp_path: Path) -> None:
    log = write_log(planned, tmp_path / "shadow.jsonl", differ_when_unsure)
    spec = planned.cascade.folder / "cascade.yaml"
    content = yaml.safe_load(spec.read_text())
    content["objective"]["max_cost"] = 1e-6
    spec.write_text(yaml.safe_dump(content))
    assert_refused(recalibrate(planned, log), 3, "objective.max_cost")


def test_when_the_giant_alone_is_cheaper_that_is_said(planned: Workspace, tmp_path: Path) -> None:
    log = write_log(planned, tmp_path / "shadow.jsonl", differ_when_unsure)
    policy = chosen_of(planned)
    cheap = policy.reference.model_copy(update={"cost": 1e-9})
    planned.save(POLICY_FILE, policy.model_copy(update={"reference": cheap}))
    assert_refused(recalibrate(planned, log), 3, "kernel alone")


def test_rows_of_tiers_that_the_plan_does_not_ask_are_told(planned: Workspace, tmp_path: Path) -> None:
    log = write_log(planned, tmp_path / "shadow.jsonl", lambda line, draw: line.update(tier="linear"))
    outcome = recalibrate(planned, log)
    assert outcome.code == 0, outcome.err
    assert outcome.content["unused_rows"] == LINES
    assert "nothing could be tested" in outcome.out


def test_a_plan_that_is_behind_is_warned_of(planned: Workspace, tmp_path: Path) -> None:
    log = write_log(planned, tmp_path / "shadow.jsonl")
    assert "warning" not in recalibrate(planned, log).err
    spec = planned.cascade.folder / "cascade.yaml"
    content = yaml.safe_load(spec.read_text())
    content["gears"] = {"count": 3}
    spec.write_text(yaml.safe_dump(content))
    assert "warning: the plan is behind" in recalibrate(planned, log).err
