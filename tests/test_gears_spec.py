"""What `gears` of a cascade.yaml may ask for, and what a gear plan says of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from cascade_tools.artifacts import GearPlan, PlannedRates
from cascade_tools.errors import UsageError
from cascade_tools.spec import Gears
from tests.helpers import Json, plan_content, spec_content, write_cascade

RATES: Json = {"max_rps": 500}
HISTOGRAM: Json = {"edges_rps": [0, 100, 500], "shares": [0.9, 0.1]}


@pytest.mark.parametrize("slo", [{"p95_ms": 50}, {"p99_ms": 50}, {"accuracy": 0.9}, {"energy_j": 0.2}])
@pytest.mark.parametrize(
    "rates", [RATES, {"histogram": HISTOGRAM}, {"trace": "day.csv"}, {"trace": "day.csv", "max_rps": 9}]
)
def test_an_slo_and_the_rates_it_is_for(slo: Json, rates: Json) -> None:
    gears = Gears.model_validate({"slo": slo, "rates": rates})
    assert gears.slo is not None
    assert {gears.slo.name: gears.slo.bound} == slo


WRONG: list[tuple[Json, str]] = [
    (
        {"slo": {}, "rates": RATES},
        "slo: give exactly one of p95_ms, p99_ms, accuracy and energy_j; found none",
    ),
    ({"slo": {"p95_ms": 5, "accuracy": 0.9}, "rates": RATES}, "found p95_ms and accuracy"),
    ({"slo": {"p95_ms": 0}, "rates": RATES}, "slo.p95_ms"),
    ({"slo": {"accuracy": 95}, "rates": RATES}, "slo.accuracy"),
    ({"slo": {"p90_ms": 5}, "rates": RATES}, "slo.p90_ms: unknown key"),
    ({"slo": {"p95_ms": 5}}, "rates: needed with 'slo'"),
    ({"slo": {"p95_ms": 5}, "rates": {}}, "give 'histogram', 'trace', or the highest rate as 'max_rps'"),
    ({"slo": {"p95_ms": 5}, "rates": RATES, "count": 3}, "count: with 'slo' the plan finds it; remove it"),
    ({"slo": {"p95_ms": 5}, "rates": RATES, "reserve": 0.1}, "reserve: with 'slo' the plan finds it"),
    ({"rates": {"histogram": HISTOGRAM, "trace": "a.csv"}}, "give 'histogram' or 'trace', not both"),
    ({"rates": {"histogram": HISTOGRAM, "max_rps": 5}}, "'max_rps' is the last of histogram.edges_rps"),
    ({"rates": {"histogram": HISTOGRAM, "bins": 5}}, "'bins' are those of 'histogram'"),
    ({"rates": {"trace": "a.csv", "zipf": 2}}, "'zipf' is for 'max_rps' alone"),
    ({"rates": {"trace": "../a.csv"}}, "rates.trace: must be a relative path inside"),
    ({"rates": {"max_rps": float("inf")}}, "rates.max_rps"),
    ({"rates": {"histogram": {"edges_rps": [0, 5], "shares": [0.5, 0.5]}}}, "2 shares need 3"),
    (
        {"rates": {"histogram": {"edges_rps": list(range(102)), "shares": [1 / 101] * 101}}},
        "at most 101 items",
    ),
    ({"rates": {"histogram": {"edges_rps": [0, 5, 5], "shares": [0.5, 0.5]}}}, "grow from edge to edge"),
    ({"rates": {"histogram": {"edges_rps": [-1, 5], "shares": [1]}}}, "must begin at 0 or above"),
    ({"rates": {"histogram": {"edges_rps": [float("nan"), 5], "shares": [1]}}}, "must begin at 0 or above"),
    ({"rates": {"histogram": {"edges_rps": [0, float("inf")], "shares": [1]}}}, "a finite number"),
    ({"rates": {"histogram": {"edges_rps": [0, 5, 9], "shares": [0.5, 0.4]}}}, "sum to 1, found 0.9"),
    ({"within_allowance": False}, "within_allowance: is for gears with 'slo'"),
]


@pytest.mark.parametrize(("gears", "message"), WRONG, ids=[message for _, message in WRONG])
def test_a_wrong_wish_is_refused_with_its_field(tmp_path: Path, gears: Json, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        write_cascade(tmp_path, {**spec_content(), "gears": gears})
    assert "gears" in caught.value.message
    assert message in caught.value.message


def test_a_plan_says_what_it_was_planned_for() -> None:
    content = plan_content()
    assert "rates" not in content  # as older plans are
    content["rates"] = {"edges_rps": [0.0, 100.0, 500.0], "shares": [0.9, 0.1], "source": "zipf"}
    plan = GearPlan.model_validate({**content, "made_from": {}, "cost_unit": "ms per row"})
    assert plan.rates == PlannedRates(edges_rps=(0.0, 100.0, 500.0), shares=(0.9, 0.1), source="zipf")
    assert GearPlan.model_validate_json(plan.model_dump_json()) == plan


@pytest.mark.parametrize(
    "change",
    [{"edges_rps": [0, 1]}, {"edges_rps": [0, 2, 1]}, {"shares": [0.9, 0.2]}, {"shares": [1.5, -0.5]}],
)
def test_planned_rates_that_are_no_histogram_are_refused(change: Json) -> None:
    with pytest.raises(ValidationError):
        PlannedRates.model_validate(
            {"edges_rps": [0.0, 1.0, 2.0], "shares": [0.9, 0.1], "source": "trace", **change}
        )
