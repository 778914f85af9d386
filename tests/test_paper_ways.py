"""Experiment 8's ways to serve a host, and how its runs on the server are told."""

from __future__ import annotations

import numpy as np

from benchmarks.paper.check_points import COLUMNS, row_of
from benchmarks.paper.fewest import Point
from benchmarks.paper.ways import direct
from cascade_tools.planning.outcomes import Outcomes
from tests.helpers import replayed

from .simulated import recorded, run, service, system, tier


def test_a_model_that_is_asked_directly_has_no_admission() -> None:
    host = system(tier("only", service(10.0)), router={"rows_in_flight": 8})
    all_at_once, said = [0.0] * 40, recorded([0.9])
    assert run(host, all_at_once, said).refused > 0
    assert run(direct(host, "only"), all_at_once, said).refused == 0


def told(late_ms: float) -> dict[str, object]:
    """A run of requests of 10 ms that were sent so late."""
    count = 50
    outcomes = Outcomes(
        arrival_s=np.arange(count) / 10.0,
        latency_ms=np.full(count, 10.0),
        tier=np.zeros(count, np.int64),
        correct=np.ones(count, bool),
        gear=np.zeros(count, np.int64),
    )
    row = row_of(
        Point(30.0, 1.0, 100.0),
        2,
        ("cascades", "small > giant"),
        (9.0, 0.5),
        replayed(outcomes, late_ms),
        1.0,
    )
    return {column.name: cell for column, cell in zip(COLUMNS, row, strict=True)}


def test_a_run_whose_generator_lagged_gets_no_verdict() -> None:
    good, bad = told(0.1), told(7.5)
    assert (good["kept, measured"], good["generator"]) == ("yes", "in time")
    assert (bad["kept, measured"], bad["generator"]) == ("does not count", "lagged by 7.5 ms (P99)")
    assert bad["kept, simulated"] == "yes"
