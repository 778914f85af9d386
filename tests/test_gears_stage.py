"""Gears for an SLO, from artifacts to the plan on disk: `place` finds the placement, `gears` plans on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from cascade_tools.artifacts import (
    CalibratedTier,
    Calibration,
    Exported,
    GearPlan,
    InputSpec,
    Placement,
    Profile,
    ProfilePoint,
    Reliability,
)
from cascade_tools.errors import CascadeError, Infeasible, UsageError
from cascade_tools.planning.gears import forecast
from cascade_tools.runtime.plan import parse_plan
from cascade_tools.stages.calibrate import CALIBRATION_FILE, SCORES_FILE
from cascade_tools.stages.export import EXPORTED_FILE
from cascade_tools.stages.gears import GEARS_FILE
from cascade_tools.stages.pipeline import run_stage, stage_named
from cascade_tools.stages.place import PLACEMENT_FILE
from cascade_tools.stages.profile import PROFILE_FILE
from cascade_tools.stages.progress import stderr_reporter
from cascade_tools.store import Workspace, save_score_table
from tests.cli_calls import call
from tests.helpers import Json, exported, spec_content, write_cascade
from tests.tables import random_table

RELIABILITY = Reliability(ece=0.0, ece_equal_width=0.0, nll=0.0, brier=0.0, auroc=None)
MS = {"small": 1.0, "large": 12.0}
DEVICES = {"devices": [{"type": "cores", "kind": "cpu", "cores": 2, "memory_mib": 2048}]}


@pytest.fixture(autouse=True)
def short_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is tested here shows in short simulations, too."""
    monkeypatch.setattr(forecast, "FEWEST", 200)
    monkeypatch.setattr(forecast, "MOST", 400)


def point(tier: str, batch: int) -> ProfilePoint:
    ms = MS[tier] * (0.4 + 0.6 * batch)
    return ProfilePoint(
        tier=tier,
        format="onnx",
        device="cores",
        batch=batch,
        latency_p50_ms=ms,
        latency_p99_ms=1.2 * ms,
        throughput_rps=1000.0 * batch / ms,
        cpu_ms_per_row=ms / batch,
        memory_mib=100.0,
        kernel_utilization=0.5,
        energy_j=ms / batch / 100.0,
        origin="measured",
        energy_origin="modelled",
    )


def planned(folder: Path, gears: Json, **more: Json) -> Workspace:
    """A cascade with all that comes before its gears, made up."""
    content = {
        **spec_content(),
        "objective": {"max_accuracy_drop": 6.0, "guarantee": False},
        "serving": {"max_batch_size": 8},
        "gears": gears,
        **more,
    }
    cascade = write_cascade(folder / "pair", content, {"devices.yaml": yaml.safe_dump(DEVICES)})
    work = Workspace(cascade, folder / "build" / "pair")
    names = cascade.tier_names
    heads = tuple(
        CalibratedTier(
            tier=name,
            method="temperature",
            signal="max_probability",
            temperature=1.0,
            accuracy=0.9,
            before=RELIABILITY,
            after=RELIABILITY,
        )
        for name in names
    )
    calibration = Calibration(
        cascade="pair",
        made_from={},
        inputs=(InputSpec(name="X", datatype="FP32", dims=(3,)),),
        classes=2,
        rows={"fit": 1, "search": 400, "verify": 400},
        tiers=heads,
    )
    work.save(CALIBRATION_FILE, calibration)
    table = random_table(3, 800, tiers=2)
    split = np.where(np.arange(800) % 2, "search", "verify")
    save_score_table(work.path(SCORES_FILE), table.model_copy(update={"tiers": names, "split": split}))
    files = tuple(exported("onnx", f"{name}.onnx").model_copy(update={"tier": name}) for name in names)
    work.save(EXPORTED_FILE, Exported(cascade="pair", made_from={}, environment={}, tiers=files))
    points = tuple(point(name, batch) for name in names for batch in (1, 2, 4, 8))
    work.save(
        PROFILE_FILE,
        Profile(cascade="pair", made_from={}, environment={}, points=points, hop=None, router=None),
    )
    run_stage("search", work, stderr_reporter())
    return work


def planned_gears(work: Workspace) -> GearPlan:
    for verb in ("place", "gears"):
        run_stage(verb, work, stderr_reporter())
    return work.load(GEARS_FILE, GearPlan, "gears")


def test_gears_are_planned_for_an_slo_on_the_placement_that_place_found(tmp_path: Path) -> None:
    work = planned(tmp_path, {"slo": {"p95_ms": 60}, "rates": {"max_rps": 300, "bins": 3}})
    plan = planned_gears(work)
    assert plan.service is not None
    assert (plan.service.slo, plan.service.bound) == ("p95_ms", 60.0)
    assert plan.rates is not None
    assert plan.rates.edges_rps == (0.0, 100.0, 200.0, 300.0)
    assert plan.rates.source == "zipf"
    for gear in plan.gears:
        assert gear.predicted is not None
        assert gear.predicted.p95_ms <= 60.0
        assert gear.predicted.energy_j is not None
        assert gear.predicted.rate_rps == (300.0 if gear.up_to_rps is None else gear.up_to_rps)
    assert plan.hysteresis.alpha == 8.0
    assert len(plan.gears) > 1, "the rates are such that one policy does not do"
    accuracies = [gear.predicted_accuracy for gear in plan.gears]
    assert accuracies == sorted(accuracies, reverse=True)
    router = parse_plan(plan.model_dump(mode="json"))
    assert [gear.up_to_rps for gear in router.gears[:-1]] == [gear.up_to_rps for gear in plan.gears[:-1]]
    assert work.load(PLACEMENT_FILE, Placement, "place").method == "gears"
    assert stage_named("place").state(work) == stage_named("gears").state(work) == "fresh"


def test_other_rates_make_placement_and_gears_stale(tmp_path: Path) -> None:
    work = planned(tmp_path, {"slo": {"p95_ms": 60}, "rates": {"max_rps": 30, "bins": 1}})
    planned_gears(work)
    slower = work.cascade.gears.model_copy(update={"target_busy_share": 0.7})
    other = Workspace(
        work.cascade.model_copy(update={"gears": slower}).in_folder(work.cascade.folder), work.build
    )
    assert stage_named("place").state(other) == stage_named("gears").state(other) == "stale"


def test_a_trace_gives_the_rates(tmp_path: Path) -> None:
    work = planned(
        tmp_path, {"slo": {"accuracy": 0.5}, "rates": {"trace": "day.csv", "bins": 2, "max_rps": 40}}
    )
    (work.cascade.folder / "day.csv").write_text("second,count\n0,10\n1,20\n2,100\n")
    plan = planned_gears(work)
    assert plan.rates is not None
    assert plan.rates.source == "trace"
    assert plan.rates.edges_rps == (0.0, 20.0, 40.0)
    assert plan.rates.shares == pytest.approx((2 / 3, 1 / 3))
    (work.cascade.folder / "day.csv").write_text("second,count\n0,10\n")
    assert stage_named("place").state(work) == "stale"


def test_without_an_slo_the_rates_are_only_kept(tmp_path: Path) -> None:
    with_rates = planned_gears(planned(tmp_path / "with", {"rates": {"max_rps": 100}}))
    without = planned_gears(planned(tmp_path / "without", {}))
    assert with_rates.rates is not None
    assert without.rates is None
    assert with_rates.service is None
    assert with_rates.gears == without.gears
    assert all(gear.predicted is None for gear in without.gears)


def test_policies_below_the_allowance_are_taken_only_where_that_is_said(tmp_path: Path) -> None:
    gears: Json = {"slo": {"p95_ms": 60}, "rates": {"max_rps": 900, "bins": 2}}
    kept = planned(tmp_path / "kept", gears)
    with pytest.raises(Infeasible) as caught:
        run_stage("place", kept, stderr_reporter())
    assert caught.value.constraint in ("rate", "p95_ms")
    assert "gears.within_allowance" in caught.value.hint
    assert not kept.path(PLACEMENT_FILE).exists()
    beyond = planned_gears(planned(tmp_path / "beyond", {**gears, "within_allowance": False}))
    assert beyond.gears[-1].predicted_accuracy < beyond.gears[0].predicted_accuracy - 0.06


WRONG: list[tuple[Json, Json, type[CascadeError], str]] = [
    ({"trace": "none.csv"}, {}, UsageError, "none.csv: cannot be read"),
    ({"max_rps": 10}, {"placement": {"objective": {"rate_rps": 5}}}, UsageError, "placement.objective: with"),
]


@pytest.mark.parametrize(("rates", "more", "kind", "message"), WRONG, ids=["no trace", "two goals"])
def test_what_cannot_be_planned_is_said(
    tmp_path: Path, rates: Json, more: Json, kind: type[CascadeError], message: str
) -> None:
    work = planned(tmp_path, {"slo": {"p95_ms": 60}, "rates": rates}, **more)
    with pytest.raises(kind) as caught:
        run_stage("place", work, stderr_reporter())
    assert message in caught.value.message


def test_the_verb_shows_every_gear_and_the_mean(tmp_path: Path) -> None:
    work = planned(tmp_path, {"slo": {"p95_ms": 60}, "rates": {"max_rps": 30, "bins": 1}})
    run_stage("place", work, stderr_reporter())
    shown = call("gears", work.cascade.folder, "--build-dir", tmp_path / "build", "--json")
    assert shown.code == 0, shown.err
    assert shown.content["service"]["slo"] == "p95_ms"
    for words in (
        "up to rows/s",
        "waits for",
        "p95, ms",
        "busy",
        "Mean over the planned requests: accuracy 0.",
    ):
        assert words in shown.out
