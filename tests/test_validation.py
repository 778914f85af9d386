"""When a simulated run counts as right, and when a measured one does not count."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import validate_simulator
from benchmarks.validation.pairs import arrivals, write_trace
from benchmarks.validation.table import markdown, summary
from benchmarks.validation.verdict import FIGURES, Figures, figures_of, judge
from cascade_tools.planning.outcomes import Outcomes

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
    found = [
        markdown(
            [{**row, "pair": "giant poisson 20%", "lagged_runs": 0, "unsteady": [], "missed": [], **more}]
        )
        for more in ({}, {"missed": ["shares"]}, {"unsteady": ["p95_ms"]}, {"lagged_runs": 1})
    ]
    assert all("| giant poisson 20% | 100 / 100 | 0.950 / 0.950 |" in table for table in found)
    assert all("| 0.020 |" in table for table in found)
    ends = ("| within |", "| misses shares |", "| not counted: p95_ms spread |", "generator lagged |")
    assert all(table.endswith(end) for table, end in zip(found, ends, strict=True))


def test_the_summary_counts_what_is_within_each_bar() -> None:
    row = {f"{name}_{side}": getattr(REAL, name) for name in FIGURES for side in ("simulated", "measured")}
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
    assert "- above: throughput_rps within 0.05 in 0 of 1, goodput within 0.05 in 1 of 1" in said
    assert said.endswith("simulated / measured: giant 120 / 100")


class Runs:
    """Stands for the server: each run loses so much of its time to the host."""

    def __init__(self, stolen: list[float]) -> None:
        self.stolen = stolen
        self.made = 0

    def measure(self, _: object) -> int:
        self.made += 1
        return self.made - 1


@pytest.mark.parametrize(
    ("stolen", "spare", "kept"),
    [
        ([0.0, 0.01, 0.02], 9, [0, 1, 2]),
        ([0.4, 0.0, 0.01, 0.5, 0.02], 9, [1, 2, 4]),
        ([0.4, 0.3, 0.2, 0.1, 0.5, 0.6], 9, [3, 2, 1]),  # twice as many, and then the calmest
        ([0.4, 0.3, 0.2, 0.1], 1, [3, 2, 1]),
    ],
)
def test_runs_from_which_the_host_took_cores_are_made_again(
    monkeypatch: pytest.MonkeyPatch, stolen: list[float], spare: int, kept: list[int]
) -> None:
    bench = Runs(stolen)
    monkeypatch.setattr(validate_simulator, "stolen_share", lambda _: stolen[bench.made - 1])
    left = validate_simulator.Spare(spare)
    runs, shares = validate_simulator._measured(bench, np.zeros(1), 3, left)  # type: ignore[arg-type]
    assert list(map(int, runs)) == kept  # type: ignore[arg-type]
    assert shares == [stolen[number] for number in kept]
    assert bench.made == len(stolen) and left.left == spare - (len(stolen) - 3)
