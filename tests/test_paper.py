"""The pure parts of `make paper`: what is counted, who skips, and how the page is written."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.paper import EXPERIMENTS
from benchmarks.paper.__main__ import entry, read, wanted
from benchmarks.paper.e3_one_gpu import alone, under_cap
from benchmarks.paper.e5_skips import equal_bands, without_skips, would_skip
from benchmarks.paper.fewest import Point, fewest, fewest_devices, shares_at_least
from benchmarks.paper.finding import Column, Finding, Table
from benchmarks.paper.page import markdown, page
from benchmarks.paper.views import Views
from benchmarks.paper.vit import LARGE_GPU, drawn, half_as_wide, published, tier_loads
from cascade_tools.artifacts import PolicyTable, Route, ScoreTable
from cascade_tools.errors import UsageError
from cascade_tools.planning.evaluate import follow, threshold_policy
from cascade_tools.runtime.policy import ANSWER


@pytest.mark.parametrize("needed", [1, 2, 3, 7, 8, 9, 30])
@pytest.mark.parametrize("most", [1, 5, 8, 29, 64])
def test_the_fewest_are_those_of_a_scan(needed: int, most: int) -> None:
    scan = next((count for count in range(1, most + 1) if count >= needed), None)
    assert fewest(lambda count: count >= needed, most) == scan


@dataclass(frozen=True)
class Holds:
    """A device that holds so many requests per second so accurately, at any latency above its own."""

    rps: float
    points: float
    ms: float = 10.0

    def keeps(self, rate_rps: float, slo_ms: float, allowance: float) -> bool:
        return rate_rps <= self.rps and self.points <= allowance and self.ms <= slo_ms


def test_the_best_way_counts_and_only_among_those_that_keep_everything() -> None:
    giant, cascade, small = Holds(100, 0.0, 20.0), Holds(400, 0.8), Holds(1000, 4.0)
    ways = [giant, cascade, small]
    assert fewest_devices(ways, Point(50.0, 5.0, 1000.0), 64) == (1, small)
    assert fewest_devices(ways, Point(50.0, 1.0, 1000.0), 64) == (3, cascade)
    assert fewest_devices(ways, Point(50.0, 0.5, 1000.0), 64) == (10, giant)
    assert fewest_devices(ways, Point(15.0, 0.5, 1000.0), 64) is None
    assert fewest_devices(ways, Point(50.0, 0.5, 1000.0), 9) is None


def test_of_equals_the_first_way_is_taken() -> None:
    first, second = Holds(100, 0.0), Holds(120, 0.0)
    assert fewest_devices([first, second], Point(50.0, 0.0, 100.0), 4) == (1, first)


def test_shares_of_ratios() -> None:
    assert shares_at_least([1.0, 1.5, 2.0, 4.0], (1.0, 2.0, 3.0)) == [1.0, 0.5, 0.25]


def test_the_planner_keeps_utilization_and_memory_on_one_gpu() -> None:
    loads = tier_loads(published(), (1, 4))
    cap, told, held, utilization, rate = under_cap(loads, 4096)
    assert isinstance(held, int) and isinstance(utilization, float) and isinstance(rate, float)
    assert held <= 4096 - 600
    assert 0.849 - 1e-9 <= utilization <= 1.0 + 1e-9  # one of each at batch 1 is the least
    assert all(tier in str(told) for tier in published().reach)
    giant = alone(loads, 4096)
    assert giant is not None and rate > giant
    assert cap == 4096


def test_what_fits_on_no_gpu_is_said() -> None:
    loads = tier_loads(published(), (1,))
    row = under_cap(loads, 2000)
    assert str(row[1]).startswith("infeasible") and row[2:] == (None, None, None)


def test_half_the_units_take_twice_the_work() -> None:
    for point in published().profile.points_of("small", LARGE_GPU):
        half = half_as_wide(point)
        work = point.latency_p50_ms * point.kernel_utilization
        assert half.latency_p50_ms * half.kernel_utilization == pytest.approx(2.0 * work)
        assert half.latency_p50_ms >= point.latency_p50_ms - 1e-9
        assert half.kernel_utilization <= 0.98


def test_drawn_rows_reach_the_tiers_as_given() -> None:
    ladder = published()
    confidence = drawn(ladder).confidence
    waiting = np.ones(len(confidence), bool)
    for tier, reach in enumerate(ladder.reach.values()):
        assert waiting.mean() == pytest.approx(reach, abs=0.01)
        waiting &= confidence[:, tier] < 0.5
    assert not waiting.any()


TIERS = ("a", "b", "c")


def rows(*confidence: tuple[float, float, float]) -> ScoreTable:
    count = len(confidence)
    return ScoreTable(
        tiers=TIERS,
        confidence=np.array(confidence, np.float32),
        label=np.zeros((count, 3), np.int64),
        target=np.zeros(count, np.int64),
        group=np.arange(count),
        split=np.full(count, "search"),
    )


def test_equal_bands_send_the_lowest_to_the_last_tier() -> None:
    policy = equal_bands(TIERS, 0.9)
    assert policy.routes[0] == Route(cuts=(0.45, 0.9), to=(2, 1, ANSWER))
    assert policy.routes[1] == Route(cuts=(0.9,), to=(2, ANSWER))
    table = rows((0.1, 1.0, 1.0), (0.5, 1.0, 1.0), (0.95, 1.0, 1.0), (0.5, 0.1, 1.0))
    assert follow(table, policy).visited.tolist() == [[1, 0, 1], [1, 1, 0], [1, 0, 0], [1, 1, 1]]
    assert would_skip(table, policy).tolist() == [True, False, False, False]


def test_without_skips_everything_else_stays() -> None:
    policy = equal_bands(TIERS, 0.9)
    assert without_skips(policy) == threshold_policy(TIERS, (0.9, 0.9))
    never = PolicyTable(
        tiers=TIERS,
        routes=(Route(cuts=(0.3,), to=(2, 1)), Route(cuts=(0.5,), to=(2, -1)), Route(cuts=(), to=(-1,))),
    )
    assert without_skips(never).routes[0] == Route(cuts=(), to=(1,))


def test_views_are_shifts_and_no_shift_is_the_model_itself() -> None:
    body = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(256, 3)).eval()
    image = torch.zeros(2, 1, 16, 16)
    image[0, 0, 5, 7] = 1.0
    image[1, 0, 9, 2] = 1.0
    with torch.no_grad():
        assert torch.equal(Views(body, 0)(image), body(image))
        shifts = [torch.roll(image, (y, x), (2, 3)) for y in (-1, 0, 1) for x in (-1, 0, 1)]
        mean = torch.stack([body(shift) for shift in shifts]).mean(dim=0)
        assert torch.allclose(Views(body, 1)(image), mean, atol=1e-6)


def test_a_table_becomes_markdown_and_survives_the_file() -> None:
    table = Table("T", "modelled", (Column("who"), Column("ms", ".1f")), (("a", 1.25), ("b", None)))
    assert Table.of(table.content()) == table
    assert markdown(table) == ["T (modelled):", "", "| who | ms |", "|---|---:|", "| a | 1.2 |", "| b |  |"]


def test_experiments_are_numbered_and_chosen_by_number() -> None:
    assert [experiment.number for experiment in EXPERIMENTS] == list(range(1, 9))
    assert [experiment.number for experiment in wanted("3, 1,3")] == [3, 1]
    assert wanted(None) == list(EXPERIMENTS)
    with pytest.raises(UsageError, match="'9'"):
        wanted("1,9")


def test_what_was_run_stays_and_what_has_an_older_form_is_to_be_run_again(tmp_path: Path) -> None:
    known = entry(EXPERIMENTS[0], Finding(("Found.",), ()), 3.0, 0.25, quick=False)
    older = {name: value for name, value in known.items() if name != "stolen_share"}
    file = tmp_path / "paper.json"
    file.write_text(json.dumps({"experiments": {"1": known, "2": older}}))
    assert list(read(file)) == ["1"]
    text = page(EXPERIMENTS, read(file))
    assert "3 s; the host took 25% of the cores away meanwhile." in text
    assert "Not run for this page: 2. " in text
