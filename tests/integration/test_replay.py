"""`cascade-tools replay` on the session's server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cascade_tools.artifacts import GearPlan
from cascade_tools.errors import CascadeError
from cascade_tools.models.usercode import Rows
from cascade_tools.planning.traces import lateness
from cascade_tools.planning.traces.generators import poisson
from cascade_tools.serving.embedded import Server, free_ports
from cascade_tools.serving.replay import replay
from cascade_tools.store import Workspace

from ..cli_calls import Outcome, assert_refused, call
from .helpers import INPUT, MODEL, predict, swapped_plan, with_limits, with_trigger

DATATYPES = {INPUT: "FP32"}


def verb(work: Workspace, *arguments: object) -> Outcome:
    return call("replay", work.cascade.folder, "--build-dir", work.build.parent, *arguments, "--json")


def test_every_request_gets_the_answer_of_its_row(
    server: Server, rows: Rows, tiers: tuple[Any, Any, Any], plan: GearPlan, small: Workspace
) -> None:
    arrival = poisson(150.0, 2.0, seed=1)
    picked = np.random.default_rng(1).integers(0, len(rows), len(arrival))
    found = replay(
        server.grpc_url,
        MODEL,
        rows.inputs,
        DATATYPES,
        picked,
        arrival,
        target=rows.target,
        metrics_url=server.metrics_url,
    )
    outcomes = found.outcomes
    assert outcomes.answered.all()
    expected = predict(tiers, small.cascade.tier_names, plan.gears[0].policy)
    clear = expected.clear[picked]
    np.testing.assert_array_equal(outcomes.tier[clear], expected.tier[picked][clear])
    right = expected.label[picked] == rows.target[picked]
    np.testing.assert_array_equal(outcomes.correct[clear], right[clear])
    np.testing.assert_array_equal(outcomes.arrival_s, arrival)
    # Latency counts from the planned time: lateness is in it, and nothing is sent early.
    assert (found.lateness_ms >= 0).all()
    assert (outcomes.latency_ms > found.lateness_ms).all()
    assert set(outcomes.gear.tolist()) <= {-1, 0}
    assert 0 in outcomes.gear
    assert found.client_cpu_s > 0


def test_the_same_generator_asks_a_model_that_does_not_say_which_tier_it_is(
    server: Server, rows: Rows, tiers: tuple[Any, Any, Any], plan: GearPlan
) -> None:
    own, giant = plan.ladder[-1].model, len(plan.ladder) - 1
    picked, arrival = np.arange(40) % len(rows), np.arange(40) / 200.0
    found = replay(
        server.grpc_url, own, rows.inputs, DATATYPES, picked, arrival, target=rows.target, tier=giant
    )
    assert not found.errors
    assert (found.outcomes.tier == giant).all()
    np.testing.assert_array_equal(found.outcomes.correct, tiers[0][picked, giant] == rows.target[picked])
    assert (found.outcomes.latency_ms > found.lateness_ms).all()


def test_what_admission_refuses_is_counted_apart(
    server: Server, served: Path, rows: Rows, plan: GearPlan
) -> None:
    """All at once, almost nothing may be in flight, and what is admitted is held for a while."""
    count = 100
    narrow = with_limits(plan, rows_in_flight=plan.limits.max_batch_size)
    with swapped_plan(server, served, with_trigger(narrow, 4096, 300.0)):
        found = replay(
            server.grpc_url,
            MODEL,
            rows.inputs,
            DATATYPES,
            np.arange(count) % len(rows),
            np.zeros(count),
            target=rows.target,
        )
    assert 0 < found.refused.sum() < count
    assert not found.failed.any()
    assert not found.errors
    np.testing.assert_array_equal(found.refused, ~found.outcomes.answered)
    assert np.isnan(found.outcomes.latency_ms[found.refused]).all()
    assert (found.outcomes.gear == -1).all()


def test_nobody_at_the_address_and_no_such_model_are_one_message(server: Server, rows: Rows) -> None:
    few = (rows.inputs, DATATYPES, np.arange(3), np.zeros(3))
    nobody = f"127.0.0.1:{free_ports().grpc}"
    for url, model, word in ((nobody, MODEL, "connect"), (server.grpc_url, "nothing", "nothing")):
        with pytest.raises(CascadeError, match=word) as caught:
            replay(url, model, *few, target=rows.target)
        assert len(caught.value.message.splitlines()) == 1


def test_the_verb_replays_a_file(
    server: Server, small: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lateness, "ALLOWED_MS", 1e6)  # however busy this machine is
    trace, out = tmp_path / "tweets.csv", tmp_path / "out"
    trace.write_text("second,count\n0,100000\n1,40000\n2,80000\n3,7\n")
    at = ("--url", server.grpc_url, "--metrics-url", server.metrics_url)
    outcome = verb(
        small, *at, "--trace", trace, "--peak-rps", 100, "--window", "0:3", "--slo-ms", 500, "--out", out
    )
    assert outcome.code == 0, outcome.err
    content = outcome.content
    assert content["peak_rps"] == 100
    assert [moment["arrived"] for moment in content["over_time"]] == [100, 40, 80]
    assert content["requests"] == 220
    assert content["refused"] == content["failed"] == 0
    assert 0 <= content["goodput"] <= 1
    assert content["accuracy"] > 0.5
    assert sum(content["shares"].values()) == pytest.approx(1.0)
    # The session's server was not started by the verb: its CPU time is not known, and it has no meter here.
    assert content["server_cpu_ms"] is None
    assert (content["energy_j"] is None) == (content["no_meter"] is not None)
    assert content["valid"] is True
    assert json.loads((out / "replay.json").read_text())["goodput"] == content["goodput"]
    assert (out / "replay.html").is_file()


def test_a_replay_whose_generator_lagged_is_a_failed_check(
    server: Server, small: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lateness, "ALLOWED_MS", 0.0)
    monkeypatch.setattr(lateness, "ALLOWED_SHARE", 0.0)
    at = ("--url", server.grpc_url, "--metrics-url", server.metrics_url, "--out", tmp_path)
    outcome = verb(small, *at, "--rate", 100, "--seconds", 1)
    assert outcome.code == 1
    assert outcome.content["valid"] is False
    assert outcome.err.count("not valid: the generator lagged") == 2, "before the figures, and behind them"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--trace", "nowhere.csv"), ("nowhere.csv",)),
        (("--rate", 5, "--seconds", 10, "--window", "50:60"), ("nothing arrives", "--window")),
    ],
)
def test_wrong_options_are_named(
    small: Workspace, arguments: tuple[object, ...], words: tuple[str, ...]
) -> None:
    assert_refused(verb(small, *arguments), 2, *words)
