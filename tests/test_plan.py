"""The parser of gear plans, and the file that they come from."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cascade_tools.runtime.plan import PlanError, PlanFile, parse_plan, parse_policy
from cascade_tools.runtime.policy import ANSWER
from tests.helpers import Json, changed, gear_entry, plan_content, route_entry

Change = Callable[[Json], object]


def policy(content: Json) -> Json:
    table: Json = content["gears"][0]["policy"]
    return table


def first_route(content: Json) -> Json:
    entry: Json = policy(content)["routes"][0]
    return entry


def test_a_legal_plan_becomes_arrays_and_limits() -> None:
    plan = parse_plan(plan_content(), "abc")
    assert plan.cascade == "digits"
    assert plan.inputs == ("ROW",)
    assert [tier.model for tier in plan.ladder] == ["digits_tiny", "digits_base", "digits_giant"]
    assert (plan.ladder[0].p50_ms, plan.ladder[0].p99_ms) == (0.1, 0.2)
    assert plan.gears[-1].up_to_rps == math.inf
    assert plan.gears[0].policy.tiers == ("tiny", "base", "giant")
    assert plan.gears[0].policy.bands[0].cuts.tolist() == [0.5]
    assert plan.gears[0].policy.bands[0].to.tolist() == [1, ANSWER]
    assert plan.gears[0].policy.bands[0].to.dtype == np.int64
    assert (plan.alpha, plan.window_ms, plan.digest) == (8.0, 100.0, "abc")
    assert plan.limits.rows_in_flight == 1000
    assert plan.limits.escalation_threads == 4


def test_a_tier_is_found_by_its_place_in_the_ladder() -> None:
    plan = parse_plan(plan_content())
    assert [plan.ladder_index(name) for name in ("tiny", "base", "giant")] == [0, 1, 2]


def test_a_policy_may_leave_tiers_out() -> None:
    content = plan_content()
    content["gears"][0] = gear_entry(
        {"tiers": ["tiny", "giant"], "routes": [route_entry([0.5], [1, -1]), route_entry([], [-1])]}
    )
    assert parse_plan(content).gears[0].policy.tiers == ("tiny", "giant")


def test_a_policy_may_skip_a_tier_and_repeat_a_cut() -> None:
    content = plan_content()
    first_route(content).update(cuts=[0.25, 0.25], to=[2, 1, -1])
    assert parse_plan(content).gears[0].policy.bands[0].to.tolist() == [2, 1, -1]


POLICY = "gears[0].policy"


def fall_back(content: Json, without: list[str], **gear: float) -> None:
    content["fallbacks"] = [{"without": without, "gears": [{**content["gears"][0], **gear}]}]


BROKEN: list[tuple[Change, str]] = [
    (lambda c: c.update(kind="policy"), "kind, format: expected gear_plan, 1"),
    (lambda c: c.update(format=2), "kind, format: expected gear_plan, 1"),
    (lambda c: c.update(gears=[]), "gears: needs at least one, and up_to_rps of the last"),
    (lambda c: c["gears"][0].update(up_to_rps=5.0), "gears: needs at least one, and up_to_rps"),
    (
        lambda c: c.update(gears=[{**c["gears"][0], "up_to_rps": r} for r in (9.0, 9.0, None)]),
        "gears: up_to_rps must grow from gear to gear",
    ),
    (
        lambda c: c.update(gears=[{**c["gears"][0], "up_to_rps": r} for r in (9.0, 8.0, None)]),
        "gears: up_to_rps must grow from gear to gear",
    ),
    (
        lambda c: policy(c).update(tiers=["tiny", "base", "huge"]),
        f"{POLICY}.tiers: 'huge' is not in the ladder",
    ),
    (
        lambda c: policy(c).update(tiers=["base", "tiny", "giant"]),
        f"{POLICY}.tiers: must be in the order of the ladder",
    ),
    (
        lambda c: c["gears"][0].update(min_queue=0),
        "gears[0].min_queue: must be a number of at least 1",
    ),
    (
        lambda c: policy(c).update(tiers=[], routes=[]),
        f"{POLICY}.tiers: needs at least one tier, and none twice",
    ),
    (
        lambda c: policy(c).update(tiers=["tiny", "tiny", "giant"]),
        f"{POLICY}.tiers: needs at least one tier, and none twice",
    ),
    (lambda c: policy(c)["routes"].pop(), f"{POLICY}.routes: 2 routes for 3 tiers"),
    (
        lambda c: first_route(c).update(cuts=[]),
        f"{POLICY}.routes[0]: 0 cuts need 1 destinations",
    ),
    (
        lambda c: first_route(c).update(to=[1, 1, -1]),
        f"{POLICY}.routes[0]: 1 cuts need 2 destinations",
    ),
    *[
        (
            lambda c, cut=cut: first_route(c).update(cuts=[cut]),
            f"{POLICY}.routes[0].cuts: must be finite numbers",
        )
        for cut in (math.nan, math.inf, -math.inf, "0.5", None)
    ],
    (
        lambda c: first_route(c).update(cuts=[0.5, 0.4], to=[2, 1, -1]),
        f"{POLICY}.routes[0].cuts: must not decrease",
    ),
    (
        lambda c: first_route(c).update(to=[-1, 1]),
        f"{POLICY}.routes[0].to: destinations must not grow with confidence",
    ),
    (
        lambda c: first_route(c).update(cuts=[0.1, 0.5], to=[1, 2, -1]),
        f"{POLICY}.routes[0].to: destinations must not grow with confidence",
    ),
    *[
        (
            lambda c, goal=goal: policy(c)["routes"][1].update(to=[goal, -1]),
            f"{POLICY}.routes[1].to: must be -1 or the index of a larger tier in use",
        )
        for goal in (0, 1, 3)
    ],
    (
        lambda c: first_route(c).update(to=[1, -2]),
        f"{POLICY}.routes[0].to: must be -1 or the index of a larger tier in use",
    ),
    (
        lambda c: policy(c)["routes"][2].update(cuts=[0.5], to=[-1, -1]),
        f"{POLICY}.routes[2]: the last tier answers always",
    ),
    (lambda c: c.update(gears=None), "not a gear plan: "),
    (lambda c: c.update(gears=["fast"]), "not a gear plan: "),
    (lambda c: c.update(limits=[]), "not a gear plan: "),
    (lambda c: c["ladder"][0].update(p50_ms="soon"), "not a gear plan: "),
    (lambda c: c["limits"].update(rows_in_flight="many"), "not a gear plan: "),
    *[
        (lambda c, key=key: c.pop(key), f"{key}: missing")
        for key in (
            "kind",
            "format",
            "cascade",
            "inputs",
            "probabilities",
            "ladder",
            "gears",
            "hysteresis",
            "limits",
        )
    ],
    *[
        (lambda c, key=key: c["limits"].pop(key), f"{key}: missing")
        for key in (
            "rows_in_flight",
            "max_batch_size",
            "inline_entry_ms",
            "escalation_threads",
            "shadow_share",
        )
    ],
    *[(lambda c, key=key: c["hysteresis"].pop(key), f"{key}: missing") for key in ("alpha", "window_ms")],
    *[
        (lambda c, key=key: c["gears"][0].pop(key), f"{key}: missing")
        for key in ("policy", "min_queue", "up_to_rps")
    ],
    *[
        (lambda c, key=key: c["ladder"][0].pop(key), f"{key}: missing")
        for key in ("tier", "model", "sha256", "p50_ms", "p99_ms", "further_row_ms")
    ],
    *[
        (
            lambda c, name=name, value=value: c["limits"].update({name: value}),
            f"limits.{name}: must be a number of at least {least}, found {value}",
        )
        for name, least, value in (
            ("rows_in_flight", 1, 0),
            ("rows_in_flight", 1, math.inf),
            ("max_batch_size", 1, -1),
            ("inline_entry_ms", 0, -1),
            ("inline_entry_ms", 0, math.nan),
            ("escalation_threads", 1, 0),
        )
    ],
    *[
        (
            lambda c, name=name, value=value: c["hysteresis"].update({name: value}),
            f"hysteresis.{name}: must be a number of at least {least}, found {value}",
        )
        for name, least, value in (
            ("alpha", 0, -1),
            ("alpha", 0, math.nan),
            ("window_ms", 1, 0),
            ("window_ms", 1, math.inf),
        )
    ],
    (lambda c: c["gears"][0].update(min_queue=1.5), "gears[0].min_queue: must be a whole number"),
    (lambda c: c["gears"][0].update(max_wait_ms=math.nan), "gears[0].max_wait_ms: must be a number"),
    (lambda c: fall_back(c, []), "fallbacks[0].without: must be tiers of the ladder"),
    (lambda c: fall_back(c, ["large"]), "fallbacks[0].without: must be tiers of the ladder"),
    (lambda c: fall_back(c, ["base"]), "fallbacks[0].gears[0].policy.tiers: has a tier that it does"),
    (lambda c: fall_back(c, ["base"], up_to_rps=1.0), "fallbacks[0].gears: needs at least one"),
    (lambda c: policy(c).pop("routes"), "routes: missing"),
    (lambda c: policy(c).pop("tiers"), "tiers: missing"),
    (lambda c: first_route(c).pop("cuts"), "cuts: missing"),
    (lambda c: first_route(c).pop("to"), "to: missing"),
]


@pytest.mark.parametrize(("change", "message"), BROKEN, ids=[text for _, text in BROKEN])
def test_a_broken_plan_is_refused_with_the_field(change: Change, message: str) -> None:
    with pytest.raises(PlanError) as caught:
        parse_plan(changed(plan_content(), change))
    assert str(caught.value).startswith(message)


def test_a_policy_of_one_tier_that_escalates_is_refused() -> None:
    with pytest.raises(PlanError, match=r"p\.routes\[0\]\.to"):
        parse_policy({"tiers": ["only"], "routes": [route_entry([0.5], [1, -1])]}, "p")


def write(path: Path, content: object) -> None:
    beside = path.with_name("new")
    beside.write_text(content if isinstance(content, str) else json.dumps(content))
    beside.replace(path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "gear_plan.json"
    write(path, plan_content())
    return path


def test_the_first_poll_gives_the_plan(path: Path) -> None:
    plan = PlanFile(path).poll()
    assert plan is not None
    assert plan.cascade == "digits"
    assert len(plan.digest) == 64


def test_an_unchanged_file_is_not_offered_again(path: Path) -> None:
    file = PlanFile(path)
    file.poll()
    assert file.poll() is None
    write(path, plan_content())
    assert file.poll() is None


def test_a_plan_put_in_place_by_rename_is_offered_once(path: Path) -> None:
    file = PlanFile(path)
    before = file.poll()
    write(path, plan_content(("tiny", "giant")))
    after = file.poll()
    assert before is not None
    assert after is not None
    assert [tier.tier for tier in after.ladder] == ["tiny", "giant"]
    assert after.digest != before.digest
    assert file.poll() is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ("\x00", "not JSON"),
        ("[1]", "not a gear plan"),
        ("{}", "kind: missing"),
        ({**plan_content(), "gears": []}, "gears: needs"),
    ],
)
def test_a_corrupt_plan_is_refused_once(path: Path, content: object, message: str) -> None:
    file = PlanFile(path)
    file.poll()
    write(path, content)
    with pytest.raises(PlanError, match=message):
        file.poll()
    assert file.poll() is None


def test_bytes_that_are_no_text_are_refused(path: Path) -> None:
    path.write_bytes(b"\xff\xfe{}\x80")
    with pytest.raises(PlanError, match="not JSON"):
        PlanFile(path).poll()


def test_a_legal_plan_after_a_corrupt_one_is_taken(path: Path) -> None:
    file = PlanFile(path)
    file.poll()
    write(path, "{")
    with pytest.raises(PlanError):
        file.poll()
    write(path, plan_content(("tiny", "giant")))
    assert file.poll() is not None


def test_a_missing_plan_is_refused_once_with_its_path(path: Path) -> None:
    file = PlanFile(path)
    file.poll()
    path.unlink()
    with pytest.raises(PlanError, match=r"gear_plan\.json: cannot be read"):
        file.poll()
    assert file.poll() is None


def test_a_plan_that_comes_back_is_taken(path: Path) -> None:
    file = PlanFile(path)
    file.poll()
    path.unlink()
    with pytest.raises(PlanError):
        file.poll()
    write(path, plan_content())
    assert file.poll() is not None


def test_a_batch_takes_longer_by_its_further_rows() -> None:
    content = plan_content()
    content["ladder"][0].update(p99_ms=5.0, further_row_ms=2.0)
    info = parse_plan(content).ladder[0]
    assert [info.slow_ms(rows) for rows in (0, 1, 4)] == [5.0, 5.0, 11.0]


def test_plans_for_the_same_models_differ_only_in_what_may_change() -> None:
    plan = parse_plan(plan_content())
    content = plan_content()
    content["hysteresis"]["alpha"] = 3.0
    content["limits"]["rows_in_flight"] = 7
    content["ladder"][0]["p50_ms"] = 9.0
    first_route(content).update(cuts=[0.7])
    assert parse_plan(content).models == plan.models
    content["ladder"][0]["sha256"] = "another graph"
    assert parse_plan(content).models != plan.models


def test_half_a_tier_is_no_destination() -> None:
    routes = [{"cuts": [0.5], "to": [1.5, -1]}, route_entry([0.5], [2, -1]), route_entry([], [-1])]
    with pytest.raises(PlanError):
        parse_policy({"tiers": ["a", "b", "c"], "routes": routes}, "policy")


def test_a_cut_too_large_for_float32_is_refused() -> None:
    with pytest.raises(PlanError):
        parse_policy(
            {"tiers": ["a", "b"], "routes": [route_entry([1e39], [1, -1]), route_entry([], [-1])]}, "policy"
        )


def test_a_plan_without_inputs_is_refused() -> None:
    with pytest.raises(PlanError, match="inputs"):
        parse_plan(plan_content() | {"inputs": []})


def test_a_tier_twice_in_the_ladder_is_refused() -> None:
    content = plan_content()
    with pytest.raises(PlanError, match="ladder: no tier twice"):
        parse_plan(content | {"ladder": [*content["ladder"], content["ladder"][0]]})


@pytest.mark.parametrize("field", ["p50_ms", "p99_ms", "further_row_ms"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0])
def test_times_of_the_ladder_are_finite_and_not_negative(field: str, value: float) -> None:
    content = plan_content()
    content["ladder"][0][field] = value
    with pytest.raises(PlanError, match="ladder: times"):
        parse_plan(content)


def test_a_gear_without_a_number_for_its_rate_is_refused() -> None:
    content = plan_content()
    content["gears"] = [gear_entry(content["gears"][0]["policy"], math.nan), *content["gears"]]
    with pytest.raises(PlanError, match="up_to_rps"):
        parse_plan(content)
