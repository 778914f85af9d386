"""The router around broken tiers, and with rows that wait for company; functions in place of tiers."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cascade_tools.runtime.batch import DEGRADED, FALLBACK
from cascade_tools.runtime.breaker import FAILURES_TO_OPEN
from cascade_tools.runtime.policy import ANSWER
from cascade_tools.runtime.tiers import TierError
from tests.helpers import Json, gear_entry, plan_content, route_entry
from tests.test_router import CONFIDENCE, LABEL, PATIENCE_S, TIERS, Desk, open_desk, wait_until, write_plan

EASY, MIDDLE, HARD = 0, 1, 2  # rows that the first, the second and the third tier accept


class Broken:
    """Tiers that fail as long as their name is in `tiers`."""

    def __init__(self, *tiers: str) -> None:
        self.tiers = set(tiers)

    def __call__(self, tier: str) -> None:
        if tier in self.tiers:
            raise TierError("out of order")


@pytest.fixture
def broken() -> Broken:
    return Broken()


@pytest.fixture
def desk(tmp_path: Path, broken: Broken) -> Iterator[Desk]:
    one = open_desk(tmp_path, LABEL, CONFIDENCE, before=broken)
    yield one
    one.close()


def fallback_entry(without: list[str], tiers: list[str], routes: list[Json]) -> Json:
    return {"without": without, "gears": [gear_entry({"tiers": tiers, "routes": routes})]}


def with_fallbacks(desk: Desk, *entries: Json) -> None:
    content = {**plan_content(), "fallbacks": list(entries)}
    before = desk.router.plan
    write_plan(desk.plan_path, content)
    wait_until(lambda: desk.router.plan is not before)


def ask(desk: Desk, row: int) -> tuple[int, int]:
    """Tier and flags of the answer to one row."""
    desk.answers.clear()
    answer = desk.serve([[row]])[0]
    assert answer.error == ""
    return answer.tier[0], answer.flags[0]


def break_open(desk: Desk, broken: Broken, tier: str) -> None:
    """Let a tier fail until it is not asked any more."""
    broken.tiers.add(tier)
    row = TIERS.index(tier)
    for _ in range(FAILURES_TO_OPEN):
        ask(desk, row)


def test_a_tier_that_keeps_failing_is_not_asked_any_more(desk: Desk, broken: Broken) -> None:
    break_open(desk, broken, "base")
    asked = desk.ladder.asked()["base"]
    assert asked == FAILURES_TO_OPEN
    assert ask(desk, MIDDLE) == (2, DEGRADED)
    assert desk.ladder.asked()["base"] == asked
    wait_until(lambda: desk.count("cascade_tier_broken", tier="base") == 1)
    assert desk.count("cascade_tier_errors", tier="base") == asked


def test_a_broken_tier_comes_back_by_a_probe_and_no_request_pays_for_it(desk: Desk, broken: Broken) -> None:
    break_open(desk, broken, "base")
    broken.tiers.clear()
    wait_until(lambda: desk.ladder.calls[-1] == ("base", [MIDDLE]))
    wait_until(lambda: desk.count("cascade_tier_broken", tier="base") == 0)
    assert ask(desk, MIDDLE) == (1, 0)


def test_a_probe_that_raises_anything_keeps_the_tier_out(desk: Desk, broken: Broken) -> None:
    break_open(desk, broken, "base")
    desk.ladder.before = failing_unexpectedly
    wait_until(lambda: desk.count("cascade_tier_errors", tier="base") > FAILURES_TO_OPEN)
    assert ask_any(desk) == "base is out"
    desk.ladder.before = broken
    broken.tiers.clear()
    wait_until(lambda: not desk.router._tiers.broken)


def failing_unexpectedly(tier: str) -> None:
    if tier == "base":
        raise ValueError("no such thing")


def ask_any(desk: Desk) -> str:
    return "base is out" if ask(desk, MIDDLE) == (2, DEGRADED) else "base is asked"


def test_an_answer_that_was_under_way_when_the_breaker_opened_closes_it(tmp_path: Path) -> None:
    first, go_on = threading.Event(), threading.Event()

    def before(tier: str) -> None:
        if tier != "base":
            return
        if not first.is_set():
            first.set()
            assert go_on.wait(PATIENCE_S)
        elif not go_on.is_set():
            raise TierError("out of order")

    desk = open_desk(tmp_path, LABEL, CONFIDENCE, before=before)
    desk.execute([[MIDDLE]])
    assert first.wait(PATIENCE_S)
    for _ in range(FAILURES_TO_OPEN):
        desk.answers.clear()
        desk.serve([[MIDDLE]])
    assert desk.router._tiers.broken == {"base"}
    go_on.set()
    wait_until(lambda: not desk.router._tiers.broken)
    assert ask(desk, MIDDLE) == (1, 0)
    desk.close()


def test_a_tier_is_probed_with_a_row_that_it_once_answered(desk: Desk, broken: Broken) -> None:
    assert ask(desk, MIDDLE) == (1, 0)
    break_open_by(desk, broken, "base", row=HARD)
    seen = len(desk.ladder.calls)
    wait_until(lambda: len(desk.ladder.calls) > seen)
    assert desk.ladder.calls[seen] == ("base", [MIDDLE])


def break_open_by(desk: Desk, broken: Broken, tier: str, row: int) -> None:
    broken.tiers.add(tier)
    for _ in range(FAILURES_TO_OPEN):
        ask(desk, row)


def test_the_routes_that_the_plan_holds_without_the_tier_serve_and_are_flagged(
    desk: Desk, broken: Broken
) -> None:
    with_fallbacks(
        desk,
        fallback_entry(
            ["base"], ["tiny", "giant"], [route_entry([0.95], [1, ANSWER]), route_entry([], [-1])]
        ),
        fallback_entry(["giant"], ["tiny"], [route_entry([], [-1])]),
    )
    break_open(desk, broken, "base")
    # Row 0 has .9: enough for the plan's own gear, not for this one.
    assert ask(desk, EASY) == (2, FALLBACK)
    assert desk.ladder.asked()["base"] == FAILURES_TO_OPEN
    wait_until(lambda: desk.count("cascade_gear") == -1)
    broken.tiers.clear()
    wait_until(lambda: not desk.router._tiers.broken)
    assert ask(desk, EASY) == (0, 0)
    desk.close()
    assert desk.count("cascade_fallback") == 1


def test_without_the_last_tier_its_fallback_answers_for_good(desk: Desk, broken: Broken) -> None:
    with_fallbacks(
        desk,
        fallback_entry(["giant"], ["tiny", "base"], [route_entry([0.5], [1, ANSWER]), route_entry([], [-1])]),
    )
    break_open(desk, broken, "giant")
    assert ask(desk, HARD) == (1, FALLBACK)


def test_of_several_fallbacks_the_one_that_gives_up_least_serves(desk: Desk, broken: Broken) -> None:
    alone = [route_entry([], [-1])]
    with_fallbacks(
        desk,
        fallback_entry(["base", "giant"], ["tiny"], alone),
        fallback_entry(["base"], ["giant"], alone),
    )
    break_open(desk, broken, "base")
    assert ask(desk, EASY) == (2, FALLBACK)
    broken.tiers.add("giant")
    for _ in range(FAILURES_TO_OPEN):
        desk.answers.clear()
        desk.serve([[EASY]])
    assert ask(desk, EASY) == (0, FALLBACK)


def test_a_broken_tier_that_no_gear_uses_changes_nothing(tmp_path: Path) -> None:
    content = plan_content()
    content["gears"] = [
        gear_entry(
            {"tiers": ["tiny", "giant"], "routes": [route_entry([0.5], [1, -1]), route_entry([], [-1])]}
        )
    ]
    content["fallbacks"] = [fallback_entry(["base"], ["giant"], [route_entry([], [-1])])]
    desk = open_desk(tmp_path, LABEL, CONFIDENCE, content)
    desk.router._tiers.broken = frozenset({"base"})
    assert ask(desk, EASY) == (0, 0)
    assert ask(desk, HARD) == (2, 0)
    desk.close()


# Tiers in the router's own process


def local_desk(folder: Path, content: Json, *models: str, before: Broken | None = None) -> Desk:
    """A router that runs some tiers itself; each asks the same ladder."""
    desk = open_desk(folder, LABEL, CONFIDENCE, content, before or Broken())
    infos = {info.model: info for info in desk.router.plan.ladder}
    local = {m: lambda inputs, probs, m=m: desk.ladder(infos[m], inputs, probs) for m in models}
    desk.router._tiers._local = local  # type: ignore[assignment]
    return desk


def test_a_cheap_local_tier_is_asked_at_once_and_a_dear_one_from_a_thread(tmp_path: Path) -> None:
    content = plan_content()
    desk = local_desk(tmp_path, content, "digits_tiny", "digits_base")
    answers = desk.serve([[EASY], [MIDDLE], [HARD]])
    assert [answers[n].tier for n in range(3)] == [[0], [1], [2]]
    assert desk.late == {2}
    desk.close()


@pytest.mark.parametrize("change", [{"p50_ms": 0.5}, {"further_row_ms": 0.5}])
def test_a_local_tier_that_takes_longer_than_a_hand_off_is_handed_off(
    tmp_path: Path, change: dict[str, float]
) -> None:
    content = plan_content()
    content["ladder"][1].update(change)
    desk = local_desk(tmp_path, content, "digits_tiny", "digits_base")
    desk.serve([[MIDDLE], [MIDDLE]])
    assert desk.late == {0, 1}
    desk.close()


def test_a_local_tier_that_raises_is_passed_over(tmp_path: Path) -> None:
    broken = Broken()
    desk = local_desk(tmp_path, plan_content(), "digits_tiny", "digits_base", before=broken)
    broken.tiers.add("tiny")
    assert ask(desk, EASY) == (1, DEGRADED)
    desk.close()


# The batch trigger


def waiting(min_queue: int, max_wait_ms: float, **limits: Any) -> Json:
    content = plan_content()
    content["gears"][0].update(min_queue=min_queue, max_wait_ms=max_wait_ms)
    content["limits"].update(limits)
    return content


FOR_EVER_MS = 1e6


def test_rows_of_several_calls_are_asked_together_and_answered_by_sender(tmp_path: Path) -> None:
    desk = open_desk(tmp_path, LABEL, CONFIDENCE, waiting(4, FOR_EVER_MS))
    for number, row in enumerate((EASY, MIDDLE, HARD)):
        send(desk, number, row)
    assert desk.ladder.calls == []
    send(desk, 3, EASY)
    answers = desk.wait_for(4)
    assert desk.ladder.calls[0] == ("tiny", [EASY, MIDDLE, HARD, EASY])
    assert [answers[n].label for n in range(4)] == [[1], [5], [9], [1]]
    assert desk.late == {0, 1, 2, 3}
    assert set(desk.times_answered.values()) == {1}
    desk.close()


def send(desk: Desk, number: int, row: int, deadline_s: float | None = None) -> None:
    """One request of one row, with a number of its own, in a call of its own."""
    import numpy as np

    from cascade_tools.runtime.batch import Ticket

    assert desk.router.admit(1) == ""
    inputs: dict[str, Any] = {"ROW": np.array([[row]])}
    _, completed = desk.router.execute([Ticket(1, deadline_s, lambda: False, number)], inputs, 1)
    inputs["ROW"][:] = -1  # Triton takes its memory back
    assert completed == []


def test_too_few_rows_are_answered_when_the_wait_is_over(tmp_path: Path) -> None:
    desk = open_desk(tmp_path, LABEL, CONFIDENCE, waiting(100, 20.0))
    send(desk, 0, HARD)
    assert desk.wait_for(1)[0].label == [9]
    desk.close()


def test_a_deadline_ends_the_wait(tmp_path: Path) -> None:
    desk = open_desk(tmp_path, LABEL, CONFIDENCE, waiting(100, FOR_EVER_MS))
    send(desk, 0, EASY, time.monotonic() + 0.05)
    assert desk.wait_for(1)[0].label == [1]
    desk.close()


def test_what_was_held_goes_in_batches_that_the_tiers_take(tmp_path: Path) -> None:
    desk = open_desk(tmp_path, LABEL, CONFIDENCE, waiting(5, FOR_EVER_MS, max_batch_size=2))
    for number in range(5):
        send(desk, number, EASY)
    desk.wait_for(5)
    assert sorted(len(rows) for _, rows in desk.ladder.calls) == [1, 2, 2]
    desk.close()


def test_held_rows_that_cannot_be_joined_end_in_an_error_and_the_next_are_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise ValueError("of different kinds")

    desk = open_desk(tmp_path, LABEL, CONFIDENCE, waiting(2, FOR_EVER_MS))
    with monkeypatch.context() as patch:
        patch.setattr("cascade_tools.runtime.router.join", refuse)
        send(desk, 0, EASY)
        send(desk, 1, EASY)
        assert "of different kinds" in desk.wait_for(2)[0].error
    send(desk, 2, EASY)
    send(desk, 3, EASY)
    assert desk.wait_for(4)[3].label == [1]
    assert set(desk.times_answered.values()) == {1}
    desk.close()


def test_closing_answers_what_is_held(tmp_path: Path) -> None:
    desk = open_desk(tmp_path, LABEL, CONFIDENCE, waiting(100, FOR_EVER_MS))
    send(desk, 0, HARD)
    desk.close()
    assert desk.answers[0].label == [9]


def test_a_gear_that_does_not_wait_lets_go_what_the_one_before_held(tmp_path: Path) -> None:
    desk = open_desk(tmp_path, LABEL, CONFIDENCE, waiting(100, FOR_EVER_MS))
    send(desk, 0, HARD)
    before = desk.router.plan
    write_plan(desk.plan_path, plan_content())
    wait_until(lambda: desk.router.plan is not before)
    desk.execute([[EASY]])
    desk.router.admit(0)
    wait_until(lambda: desk.ladder.asked()["giant"] == 1)
    desk.close()
    assert sum(desk.times_answered.values()) == 2
