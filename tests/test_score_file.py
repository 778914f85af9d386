"""`search --scores` and `evaluate` in an empty folder, as a user calls them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cascade_tools.artifacts import PolicyTable
from tests.cli_calls import assert_refused, call
from tests.tables import random_table

COST = "tiny=1,base=3,giant=10"


@pytest.fixture
def scores(tmp_path: Path) -> Path:
    return write(tmp_path / "scores.npz", 6000)


def write(path: Path, rows: int, **changes: Any) -> Path:
    table = random_table(11, rows)
    arrays = {
        "confidence": table.confidence,
        "label": table.label,
        "target": table.target,
        "tier": np.array(table.tiers),
    }
    np.savez(path, **{**arrays, **changes})
    return path


def test_a_search_prints_the_policy_its_price_and_its_promise(scores: Path) -> None:
    outcome = call("search", "--scores", scores, "--cost", COST, "--max-accuracy-drop", 2, "--json")
    assert outcome.code == 0, outcome.err
    found = outcome.content
    PolicyTable.model_validate(found["policy"])
    assert found["certified"] is True
    assert found["accuracy_drop"] <= found["bound"] <= 2.0
    assert found["reference"] == "giant"
    assert set(found["reach"]) == {"tiny", "base", "giant"}
    cost = {"tiny": 1.0, "base": 3.0, "giant": 10.0}
    assert found["cost"] == pytest.approx(sum(found["reach"][t] * c for t, c in cost.items()))
    assert len(found["frontier"]) >= 50
    assert "certified" in outcome.out


def test_evaluating_the_printed_policy_gives_the_same_figures(scores: Path, tmp_path: Path) -> None:
    found = call("search", "--scores", scores, "--cost", COST, "--max-accuracy-drop", 2, "--json").content
    for name, content in (("whole", found), ("table", found["policy"])):
        file = tmp_path / f"{name}.json"
        file.write_text(json.dumps(content))
        again = call("evaluate", "--policy", file, "--scores", scores, "--cost", COST, "--json").content
        for field in ("policy", "accuracy", "cost", "reach"):
            assert again[field] == found[field]


def test_what_cannot_be_certified_is_exit_3_with_what_would_do(tmp_path: Path) -> None:
    few = write(tmp_path / "few.npz", 150)
    outcome = call("search", "--scores", few, "--cost", COST, "--max-accuracy-drop", 0.5, "--json")
    assert_refused(outcome, 3, "cannot be certified", "--no-guarantee")
    assert outcome.content["certified"] is False
    assert outcome.content["certifiable_drop"] > 0.5
    assert "rows_needed" in outcome.content
    assert "policy" not in outcome.content


def test_without_the_guarantee_the_rows_at_hand_decide(tmp_path: Path) -> None:
    few = write(tmp_path / "few.npz", 150)
    options = ("--scores", few, "--cost", COST, "--max-accuracy-drop", 2, "--no-guarantee", "--json")
    found = call("search", *options).content
    assert found["certified"] is False
    assert found["bound"] is None
    assert found["accuracy_drop"] <= 2.0
    assert found["cost"] < 10.0


def test_explain_says_why_and_what_more_would_save(scores: Path) -> None:
    outcome = call(
        "search", "--scores", scores, "--cost", "tiny=1,base=10,giant=10", "--max-accuracy-drop", 2,
        "--explain", "--json",
    )  # fmt: skip
    assert "left out: base: giant is no worse" in outcome.out
    assert outcome.content["explain"]["cost_of_one_more_point"] <= outcome.content["explain"]["cost"]


def test_tiers_without_names_are_numbered(tmp_path: Path) -> None:
    table = random_table(11, 900)
    path = tmp_path / "bare.npz"
    np.savez(path, confidence=table.confidence, label=table.label, target=table.target)
    cost = "tier0=1,tier1=3,tier2=10"
    found = call(
        "search", "--scores", path, "--cost", cost, "--max-accuracy-drop", 5, "--no-guarantee", "--json"
    )
    assert found.content["reference"] == "tier2"


def test_another_reference_and_a_budget(scores: Path) -> None:
    options = ("--scores", scores, "--cost", COST, "--no-guarantee", "--json")
    base = call("search", *options, "--max-accuracy-drop", 0, "--reference", "base").content
    assert base["reference"] == "base"
    assert base["cost"] < call("search", *options, "--max-accuracy-drop", 0).content["cost"]
    assert call("search", *options, "--max-cost", 4).content["cost"] <= 4.0


def test_a_smaller_tier_that_is_right_more_often_than_the_last_is_warned_of(
    scores: Path, tmp_path: Path
) -> None:
    options = ("--no-guarantee", "--max-accuracy-drop", 0)
    assert "warning" not in call("search", "--scores", scores, "--cost", COST, *options).err
    with np.load(scores) as table:
        arrays = dict(table)
    for name in ("confidence", "label"):
        arrays[name] = arrays[name][:, ::-1]
    reversed_ladder = tmp_path / "reversed.npz"
    np.savez(reversed_ladder, **arrays)
    warned = call("search", "--scores", reversed_ladder, "--cost", COST, *options).err
    assert "warning: tiny is right on" in warned
    assert "the reference giant" in warned


def test_a_latency_bound_alone_asks_for_the_most_accurate(scores: Path) -> None:
    latency = ("--latency-ms", "tiny=10,base=30,giant=100", "--no-guarantee", "--json")
    options = ("--scores", scores, "--cost", COST, *latency)
    fast = call("search", *options, "--max-latency", "p99=50").content
    assert fast["latency_p99_ms"] <= 50.0
    free = call("search", *options, "--max-latency", "p99=1000").content
    assert free["accuracy"] > fast["accuracy"]
    assert free["accuracy"] >= free["reference_accuracy"]


def test_a_latency_bound(scores: Path) -> None:
    options = ("--scores", scores, "--cost", COST, "--max-accuracy-drop", 16, "--no-guarantee", "--json")
    latency = ("--latency-ms", "tiny=10,base=30,giant=100", "--max-latency", "p99=50")
    assert call("search", *options, *latency).content["latency_p99_ms"] <= 50.0


MISTAKES = {
    "no cost": (("--max-accuracy-drop", 1), "--cost"),
    "a tier without a cost": (("--cost", "tiny=1,base=2", "--max-accuracy-drop", 1), "'giant'"),
    "a cost of nobody": (("--cost", f"{COST},vast=9", "--max-accuracy-drop", 1), "'vast'"),
    "a cost that is no number": (("--cost", "tiny=1,base=x,giant=2", "--max-accuracy-drop", 1), "'base=x'"),
    "nothing asked for": (("--cost", COST), "--max-accuracy-drop"),
    "a drop beyond all points": (("--cost", COST, "--max-accuracy-drop", 101), "--max-accuracy-drop 101"),
    "an unknown reference": (("--cost", COST, "--max-accuracy-drop", 1, "--reference", "vast"), "vast"),
    "a bound without latencies": (
        ("--cost", COST, "--max-accuracy-drop", 1, "--max-latency", "p99=5"),
        "--latency-ms",
    ),
    "a bound of no quantile": (
        ("--cost", COST, "--max-accuracy-drop", 1, "--latency-ms", COST, "--max-latency", "p98=5"),
        "p98=5",
    ),
    "a confidence of one": (("--cost", COST, "--max-accuracy-drop", 1, "--confidence", 1), "--confidence 1"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_names_the_option(scores: Path, mistake: str) -> None:
    options, word = MISTAKES[mistake]
    assert_refused(call("search", "--scores", scores, *options, "--json"), 2, word)


def test_either_a_folder_or_a_table(scores: Path) -> None:
    assert_refused(call("search", scores.parent, "--scores", scores, "--json"), 2, "--scores")
    assert_refused(call("search", scores.parent, "--max-accuracy-drop", 1, "--json"), 2, "cascade.yaml")


def test_a_policy_of_other_tiers_is_refused(scores: Path, tmp_path: Path) -> None:
    policy = tmp_path / "p.json"
    policy.write_text('{"tiers": ["vast"], "routes": [{"cuts": [], "to": [-1]}]}')
    assert_refused(call("evaluate", "--policy", policy, "--scores", scores, "--json"), 2, "'vast'")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"tiers": ["tiny"], "routes": []}', '{"policy": 3}'])
def test_what_is_no_policy_is_refused(scores: Path, tmp_path: Path, text: str) -> None:
    policy = tmp_path / "p.json"
    policy.write_text(text)
    assert_refused(call("evaluate", "--policy", policy, "--scores", scores, "--json"), 2, str(policy))


def test_rows_that_all_heads_saw_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "fit.npz", 90, split=np.full(90, "fit"))
    outcome = call("search", "--scores", path, "--cost", COST, "--max-accuracy-drop", 1, "--json")
    assert_refused(outcome, 2, "split")


def test_without_labels_the_giant_is_right(tmp_path: Path) -> None:
    table = random_table(11, 6000)
    path = tmp_path / "bare.npz"
    np.savez(path, confidence=table.confidence, label=table.label, tier=np.array(table.tiers))
    options = ("--scores", path, "--cost", COST, "--max-accuracy-drop", 3, "--json")
    assert_refused(call("search", *options), 2, "target")
    outcome = call("search", *options, "--labels", "giant")
    assert outcome.code == 0, outcome.err
    assert outcome.content["reference_accuracy"] == 1.0
    assert outcome.content["labels"] == "giant"
    assert "the answers of giant count as right" in outcome.out
