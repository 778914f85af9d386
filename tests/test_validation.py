"""When a simulated run counts as right, and when a measured one does not count."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks import validate_simulator
from benchmarks.validate_simulator import Tried
from benchmarks.validation.pace import Pace, at_pace, pace_of
from benchmarks.validation.pairs import arrivals, write_trace
from benchmarks.validation.table import markdown, summary
from benchmarks.validation.verdict import FIGURES, Figures, figures_of, judge
from cascade_tools.machine import core_speed
from cascade_tools.machine.core_speed import CoreSpeed
from cascade_tools.planning.outcomes import FloatArray, Outcomes

REAL = Figures(throughput_rps=100.0, goodput=0.95, p50_ms=10.0, p95_ms=40.0, shares=(0.6, 0.4))


def test_the_median_counts() -> None:
    runs = [replace(REAL, p50_ms=value) for value in (9.9, 10.4, 10.0)]
    verdict = judge(replace(REAL, p50_ms=11.4), runs, 0.5)
    assert verdict.measured.p50_ms == 10.0
    assert verdict.error["p50_ms"] == pytest.approx(0.14)
    assert verdict.valid
    assert not verdict.missed


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("throughput_rps", 94.0),
        ("goodput", 0.91),
        ("p50_ms", 11.6),
        ("p95_ms", 31.0),
        ("shares", (0.611, 0.389)),
        ("p95_ms", float("nan")),
    ],
)
def test_what_is_beyond_its_bar_is_a_miss(name: str, value: float) -> None:
    simulated = Figures(**{**vars(REAL), name: value})
    assert judge(simulated, [REAL, REAL, REAL], 0.85).missed == (name,)


def test_above_the_calm_rates_only_throughput_and_goodput_are_held() -> None:
    simulated = replace(REAL, goodput=0.91, p50_ms=99.0, p95_ms=999.0, shares=(0.0, 1.0))
    assert judge(simulated, [REAL], 1.1).missed == ()
    assert judge(simulated, [REAL], 0.85).missed == ("goodput", "p50_ms", "p95_ms", "shares")


def test_a_pair_that_spreads_or_whose_generator_lagged_does_not_count() -> None:
    runs = [replace(REAL, p95_ms=value) for value in (36.0, 40.0, 46.0)]
    verdict = judge(REAL, runs, 0.5)
    assert verdict.unsteady == ("p95_ms",)
    assert not verdict.valid
    assert judge(REAL, runs, 1.1).valid  # beyond the calm rates that figure is not held
    assert not judge(REAL, [REAL] * 3, 0.5, lagged=1).valid
    assert not judge(REAL, [REAL] * 3, 0.5, noisy=1).valid


def test_figures_are_those_of_the_outcomes() -> None:
    found = figures_of(
        Outcomes(
            arrival_s=np.array([0.0, 1.0, 2.0]),
            latency_ms=np.array([10.0, 30.0, np.nan]),
            tier=np.array([0, 1, -1]),
            correct=np.array([True, False, False]),
            gear=np.zeros(3, np.int64),
        ),
        slo_ms=20.0,
        tiers=2,
    )
    assert found.goodput == pytest.approx(1 / 3)
    assert found.shares == (0.5, 0.5)
    assert found.p50_ms == 20.0


@pytest.mark.parametrize("kind", ["poisson", "gamma", "trace"])
def test_arrivals_have_the_rate_that_was_asked_for(kind: str, tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    write_trace(trace)
    found = arrivals(kind, 200.0, 20.0, trace)
    assert len(found) / 20.0 == pytest.approx(200.0, rel=0.15)
    assert found[-1] < 20.0
    np.testing.assert_array_equal(found, arrivals(kind, 200.0, 20.0, trace))


def test_the_table_says_what_became_of_every_pair() -> None:
    row = {f"{name}_{side}": getattr(REAL, name) for name in FIGURES for side in ("simulated", "measured")}
    row |= {"shares_measured": (0.58, 0.42), "spread": dict.fromkeys(FIGURES, 0.01), "stolen_share": 0.02}
    row |= {"slowness": [1.0, 1.04, 1.3], "noisy_runs": 0}
    found = [
        markdown(
            [{**row, "pair": "giant poisson 20%", "lagged_runs": 0, "unsteady": [], "missed": [], **more}]
        )
        for more in (
            {},
            {"missed": ["shares"]},
            {"unsteady": ["p95_ms"]},
            {"lagged_runs": 1},
            {"noisy_runs": 1},
        )
    ]
    assert all("| giant poisson 20% | 100 / 100 | 0.950 / 0.950 |" in table for table in found)
    assert all("| 0.020 |" in table for table in found)
    assert all("| 2% | 4% |" in table for table in found)
    ends = (
        "| within |",
        "| misses shares |",
        "| not counted: p95_ms spread |",
        "generator lagged |",
        "cores' speed |",
    )
    assert all(table.endswith(end) for table, end in zip(found, ends, strict=True))


def test_the_summary_counts_what_is_within_each_bar() -> None:
    sides = ("simulated", "at_speed", "measured")
    row = {f"{name}_{side}": getattr(REAL, name) for name in FIGURES for side in sides}
    row |= {"rate_share": 0.5, "valid": True, "within_bars": True, "lagged_runs": 0}
    rows = [
        row,
        {**row, "p50_ms_simulated": 0.5 * REAL.p50_ms, "valid": False},
        {**row, "lagged_runs": 1, "valid": False},
        {
            **row,
            "rate_share": 1.1,
            "throughput_rps_simulated": 2.0 * REAL.throughput_rps,
            "within_bars": False,
        },
    ]
    content = {"rows": rows, "capacity_rps": {"giant": 100.0}, "capacity_simulated_rps": {"giant": 120.0}}
    said = summary(content)
    assert said.startswith("4 pairs, 2 counted, 1 of these within all bars.")
    assert "- up to 85% of the capacity: throughput_rps within 0.05 in 2 of 2" in said
    assert "p50_ms within 0.15 in 1 of 2 (median ratio 0.75)" in said
    assert "- up to 85% of the capacity, at the speed that the cores had: throughput_rps within" in said
    assert "p50_ms within 0.15 in 2 of 2 (median ratio 1.00)" in said
    assert "- above: throughput_rps within 0.05 in 0 of 1, goodput within 0.05 in 1 of 1" in said
    assert said.endswith("simulated / measured: giant 120 / 100")


@pytest.mark.parametrize(
    ("taken", "spare_s", "kept"),
    [
        ([0.0, 0.01, 0.02], 99.0, [0, 1, 2]),
        ([0.4, 0.0, 0.01, 0.5, 0.02], 99.0, [1, 2, 4]),
        ([0.5 - 0.01 * number for number in range(15)], 99.0, [14, 13, 12]),  # five times as many at most
        ([0.4, 0.3, 0.2], 0.0, [2, 1, 0]),
    ],
)
def test_runs_from_which_the_host_took_too_much_are_made_again(
    monkeypatch: pytest.MonkeyPatch, taken: list[float], spare_s: float, kept: list[int]
) -> None:
    made: list[SimpleNamespace] = []

    def run_once(*_: object) -> SimpleNamespace:
        share = taken[len(made)]
        made.append(SimpleNamespace(taken_share=share, is_calm=share <= 0.1, number=len(made)))
        return made[-1]

    monkeypatch.setattr(validate_simulator, "_try", run_once)
    spare: Any = validate_simulator.Spare(spare_s)
    nobody: Any = None
    found: Any = validate_simulator._measured(nobody, np.zeros(1), 3, spare)
    assert [one.number for one in found] == kept
    assert len(made) == len(taken)
    assert (spare.left_s < spare_s) == (len(taken) > 3)


def test_a_run_is_calm_where_neither_time_nor_speed_was_taken() -> None:
    run: Any = None
    pace = Pace((0.0, 0.25))
    shares = [(0.0, 0.0), (0.03, 0.1), (0.04, 0.04), (0.0, 0.11)]
    assert [Tried(run, stolen, pace, taken).is_calm for stolen, taken in shares] == [True, True, False, False]


# Cores whose speed changes


def test_work_and_time_are_each_others_inverse() -> None:
    pace = Pace((0.0, 0.25, 0.375, 0.625))  # the second quarter of a second at half speed
    assert pace.slowness == pytest.approx(0.75 / 0.625)
    at_s = np.array([0.0, 0.1, 0.3, 0.5, 0.75, 2.0])
    np.testing.assert_allclose(pace.work_at(at_s), [0.0, 0.1, 0.275, 0.375, 0.625, 1.875])
    np.testing.assert_allclose(pace.time_at(pace.work_at(at_s)), at_s)


def test_the_pace_of_a_run_is_that_of_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """One core slow in the second half; two samples in each quarter of a second, of which one has none."""
    monkeypatch.setattr(core_speed, "_seen_ns", [98.0, 100.0, 102.0, 190.0, 195.0, 200.0])
    at_s = [9.9, 10.0, 10.1, 10.25, 10.35, 10.5, 10.6, 10.75, 10.85, 11.3, 11.4]
    speed = CoreSpeed(at_s, [100.0] * 5 + [100.0, 200.0, 100.0, 200.0, 200.0, 200.0])
    assert pace_of(speed, 10.0, 1.5).work_s == (0.0, 0.25, 0.5, 0.6875, 0.875, 1.0312, 1.1562)
    assert pace_of(CoreSpeed(), 10.0, 0.4).work_s == (0.0, 0.25, 0.5)


def test_on_cores_of_half_the_speed_all_takes_twice_as_long() -> None:
    def one_after_another(arrival_s: FloatArray) -> Outcomes:
        done_s, free_s = [], 0.0
        for at_s in arrival_s.tolist():
            free_s = max(free_s, at_s) + 0.1
            done_s.append(free_s)
        count = len(arrival_s)
        return Outcomes(
            arrival_s=arrival_s,
            latency_ms=1000.0 * (np.array(done_s) - arrival_s),
            tier=np.zeros(count, np.int64),
            correct=np.ones(count, bool),
            gear=np.zeros(count, np.int64),
        )

    arrival_s = np.array([0.0, 0.05, 0.6])
    half = Pace(tuple((0.125 * np.arange(9)).tolist()))
    found = at_pace(one_after_another, arrival_s, half)
    np.testing.assert_allclose(found.arrival_s, arrival_s)
    np.testing.assert_allclose(found.latency_ms, [200.0, 350.0, 200.0])
    full = at_pace(one_after_another, arrival_s, Pace(tuple((0.25 * np.arange(9)).tolist())))
    np.testing.assert_allclose(full.latency_ms, one_after_another(arrival_s).latency_ms)
