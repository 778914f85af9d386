"""`watch` on a real server: it sees what comes in, and swaps the plan under traffic that was not planned."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tritonclient.utils import InferenceServerException

from cascade_tools.artifacts import GearPlan, PlannedRates
from cascade_tools.errors import Infeasible
from cascade_tools.models.usercode import Rows
from cascade_tools.serving.embedded import Server, embedded_triton
from cascade_tools.spec import Gears, Histogram, Rates, Slo
from cascade_tools.stages.build_repo import build_repo
from cascade_tools.stages.gears import GEARS_FILE
from cascade_tools.stages.progress import Reporter
from cascade_tools.stages.watch import read, replan
from cascade_tools.store import Workspace

from ..cli_calls import assert_refused, call
from .helpers import INPUT, Client, plan_path, settled_metric, took_over, wait_until, with_limits

PLANNED_RPS = 5.0
ROWS_IN_FLIGHT = 6


@pytest.fixture
def planned(copied: Workspace, plan: GearPlan, report: Reporter) -> Workspace:
    """A plan for a few rows a second, whose router admits six at once."""
    rates = PlannedRates(edges_rps=(0.0, PLANNED_RPS), shares=(1.0,), source="histogram")
    copied.save(
        GEARS_FILE, with_limits(plan, rows_in_flight=ROWS_IN_FLIGHT).model_copy(update={"rates": rates})
    )
    build_repo(copied, "embedded", check=False, report=report)
    return copied


@pytest.fixture
def own(triton: None, planned: Workspace, tmp_path: Path) -> Iterator[Server]:
    repository = planned.path("repository") / "current"
    with embedded_triton(repository, log=tmp_path / "triton.log") as server:
        yield server


@contextmanager
def traffic(server: Server, rows: Rows) -> Iterator[None]:
    """Requests of four rows, one after the other, until the block ends."""
    done = threading.Event()

    def send() -> None:
        with Client(server, "grpc") as client:
            while not done.wait(0.002):
                client.ask(rows.inputs[INPUT][:4])

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def test_traffic_that_was_not_planned_is_told_and_planned_for(
    own: Server, planned: Workspace, rows: Rows
) -> None:
    arguments = (
        "watch",
        planned.cascade.folder,
        "--build-dir",
        planned.build.parent,
        "--url",
        own.metrics_url,
    )
    quick = ("--once", "--every", 0.2, "--memory", 1, "--json")

    with Client(own, "grpc") as client:
        for _ in range(5):
            client.ask(rows.inputs[INPUT][:4])
        with pytest.raises(InferenceServerException, match="in flight"):
            client.ask(rows.inputs[INPUT][:8])
    settled_metric(own, "cascade_answers")
    reading = read(planned, own.metrics_url)
    assert (reading.rows, reading.requests) == (28.0, 6.0), "the refused request counts, too"
    assert reading.asked["near"] == 20.0, "every admitted row began with the first tier"

    quiet = call(*arguments, *quick)
    assert quiet.code == 0, quiet.err
    assert quiet.content["alarms"] == []
    assert quiet.content["rates"]["mean_rps"] == 0.0
    assert "nothing arrived" in quiet.out
    assert "as planned" not in quiet.out

    with traffic(own, rows):
        told = call(*arguments, *quick)
        assert told.code == 1, told.err
        assert "rates" in told.content["alarms"]
        assert told.content["rates"]["above"] >= told.content["rates"]["alarm_at"]
        assert "ALARM rates: up to" in told.out
        assert (told.content["applied"], told.content["why_not_applied"]) == (False, "--apply was not given")
        assert set(told.content["alarm_times"]) == set(told.content["alarms"])
        assert planned.load(GEARS_FILE, GearPlan, "gears").rates == PlannedRates(
            edges_rps=(0.0, PLANNED_RPS), shares=(1.0,), source="histogram"
        )
        applied = call(*arguments, *quick, "--apply")
        assert applied.code == 1, applied.err
        assert (applied.content["applied"], applied.content["why_not_applied"]) == (True, None)
    new = planned.load(GEARS_FILE, GearPlan, "gears")
    assert new.rates is not None
    assert new.rates.source == "measured"
    assert new.rates.edges_rps[-1] > PLANNED_RPS
    served = plan_path(planned.path("repository") / "current").read_bytes()
    assert json.loads(served) == json.loads(planned.path(GEARS_FILE).read_bytes())
    wait_until(lambda: took_over(own, served) > 0, "the router takes over the plan")


def test_gears_for_an_slo_are_planned_for_the_measured_rates_or_stay(
    copied: Workspace, report: Reporter
) -> None:
    gears = Gears(slo=Slo(p95_ms=2000.0), rates=Rates(max_rps=5.0, bins=2), within_allowance=False)
    work = Workspace(copied.cascade.model_copy(update={"gears": gears}), copied.build)
    new = replan(work, Histogram(edges_rps=(0.0, 10.0, 20.0), shares=(0.5, 0.5)), "embedded", report)
    assert new.service is not None
    assert new.gears[-1].predicted is not None
    assert new.gears[-1].predicted.rate_rps == 20.0
    before = work.path(GEARS_FILE).read_bytes()
    with pytest.raises(Infeasible, match="rows/s"):
        replan(work, Histogram(edges_rps=(0.0, 1e7), shares=(1.0,)), "embedded", report)
    assert work.path(GEARS_FILE).read_bytes() == before


def test_a_replan_that_fails_leaves_all_as_it_was(copied: Workspace, report: Reporter) -> None:
    for graph in copied.path("export").glob("*.onnx"):
        graph.unlink()
    before = copied.path(GEARS_FILE).read_bytes()
    with pytest.raises(Exception, match="export"):
        replan(copied, Histogram(edges_rps=(0.0, 10.0), shares=(1.0,)), "embedded", report)
    assert copied.path(GEARS_FILE).read_bytes() == before


def test_what_cannot_be_watched_is_one_message(copied: Workspace, tmp_path: Path) -> None:
    folder, build = copied.cascade.folder, copied.build.parent
    nobody = "http://127.0.0.1:9/metrics"
    # Not the exit code of an alarm.
    assert_refused(call("watch", folder, "--build-dir", build, "--url", nobody), 4, nobody, ":8002/metrics")
    assert_refused(call("watch", folder, "--build-dir", build, "--url", "127.0.0.1:9"), 4, nobody)
    assert_refused(call("watch", folder, "--url", "ftp://127.0.0.1"), 2, "127.0.0.1:8002")
    assert_refused(
        call("watch", folder, "--build-dir", tmp_path / "none"), 2, "gear_plan.json: missing", "gears"
    )
    assert_refused(call("watch", folder, "--once", "--for", 3), 2, "--once, --for")
    assert_refused(call("watch", folder, "--false-alarm-rate", 0.9), 2, "--false-alarm-rate 0.9")
