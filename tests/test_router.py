"""The router with functions in place of tiers: the seam that `model.py` fills inside Triton."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascade_tools.runtime.batch import DEADLINE, DEGRADED, Batch, Ticket, TierAnswer
from cascade_tools.runtime.metrics import Family, Metrics
from cascade_tools.runtime.plan import PlanError, PlanFile, TierInfo
from cascade_tools.runtime.policy import ANSWER
from cascade_tools.runtime.router import CANCEL_CHECK_MS, Router, join
from cascade_tools.runtime.tiers import Inputs, TierError
from tests.helpers import Array, Json, changed, gear_entry, plan_content, route_entry

TIERS = ("tiny", "base", "giant")
PATIENCE_S = 30.0


@dataclass
class Answered:
    """What one request got, copied at the moment it was answered; no rows where it is an error."""

    label: list[int]
    confidence: list[float]
    tier: list[int]
    flags: list[int]
    error: str = ""
    cancelled: bool = False


@dataclass
class Ladder:
    """Tiers that look their answers up by the number of the row.

    Attributes:
        label, confidence: [rows, tiers].
        before: called with the tier's name before it answers; may wait or raise.
        calls: (tier, row numbers) of every call, in order.
    """

    label: Array
    confidence: Array
    before: Callable[[str], None] = lambda tier: None
    calls: list[tuple[str, list[int]]] = field(default_factory=list)

    def __call__(self, info: TierInfo, inputs: Inputs, probabilities: bool) -> TierAnswer:
        tier = info.tier
        column = TIERS.index(tier)
        rows = inputs["ROW"][:, 0].astype(int)
        self.calls.append((tier, rows.tolist()))
        self.before(tier)
        classes = np.eye(10, dtype=np.float32)[self.label[rows, column]] if probabilities else None
        return TierAnswer(self.label[rows, column], self.confidence[rows, column], classes)

    def asked(self) -> Counter[str]:
        return Counter(tier for tier, _ in self.calls)


@dataclass
class Desk:
    """A router with its ladder, its counts, and everything that it answered."""

    router: Router
    ladder: Ladder
    plan_path: Path
    counts: Counter[tuple[str, ...]]
    answers: dict[int, Answered] = field(default_factory=dict)
    times_answered: Counter[int] = field(default_factory=Counter)
    late: set[int] = field(default_factory=set)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def send(self, batch: Batch, ticket: Ticket) -> None:
        """What the router calls for a late answer."""
        self._keep(batch, ticket, late=True)

    def _keep(self, batch: Batch, ticket: Ticket, *, late: bool) -> None:
        mine = slice(ticket.first, ticket.first + ticket.rows)
        number = ticket.handle
        assert isinstance(number, int)
        with self.changed:
            self.answers[number] = (
                Answered([], [], [], [], ticket.error, ticket.cancelled)
                if ticket.error or ticket.cancelled
                else Answered(
                    batch.label[mine].tolist(),
                    batch.confidence[mine].tolist(),
                    batch.tier[mine].tolist(),
                    batch.flags[mine].tolist(),
                )
            )
            self.times_answered[number] += 1
            if late:
                self.late.add(number)
            self.changed.notify_all()

    def execute(
        self,
        requests: list[list[int]],
        deadline_s: float | None = None,
        is_cancelled: Callable[[], bool] = lambda: False,
    ) -> Batch:
        """Send requests, each a list of row numbers; the n-th gets the handle n."""
        tickets = []
        for number, rows in enumerate(requests):
            assert self.router.admit(len(rows)) == ""
            tickets.append(Ticket(len(rows), deadline_s, is_cancelled, number))
        flat = [row for rows in requests for row in rows]
        inputs: Inputs = {"ROW": np.asarray(flat, np.int64)[:, None]}
        batch, completed = self.router.execute(tickets, inputs, len(flat))
        # Triton takes its memory back now.
        inputs["ROW"][:] = -1
        for ticket in completed:
            self._keep(batch, ticket, late=False)
        return batch

    def wait_for(self, count: int) -> dict[int, Answered]:
        """All answers, once there are `count`."""
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.answers) >= count, PATIENCE_S)
        return self.answers

    def serve(self, requests: list[list[int]], **options: Any) -> dict[int, Answered]:
        """Send requests and wait for all of their answers."""
        self.execute(requests, **options)
        return self.wait_for(len(requests))

    def close(self) -> None:
        self.router.close()

    def count(self, name: str, **labels: str) -> int:
        """A counter's value; complete after `close`."""
        return self.counts[(name, *sorted(labels.values()))]


class CountingFamily:
    """A metric family that adds into one Counter, by name and the labels' values."""

    def __init__(self, name: str, counts: Counter[tuple[str, ...]]) -> None:
        self._name = name
        self._counts = counts

    def Metric(self, labels: dict[str, str]) -> CountingMetric:
        return CountingMetric((self._name, *sorted(labels.values())), self._counts)


@dataclass
class CountingMetric:
    key: tuple[str, ...]
    counts: Counter[tuple[str, ...]]

    def increment(self, value: float) -> None:
        self.counts[self.key] += int(value)

    def set(self, value: float) -> None:
        self.counts[self.key] = int(value)


def write_plan(path: Path, content: object) -> None:
    beside = path.with_name("new")
    beside.write_text(content if isinstance(content, str) else json.dumps(content))
    beside.replace(path)


def open_desk(
    folder: Path,
    label: list[list[int]],
    confidence: list[list[float]],
    content: Json | None = None,
    before: Callable[[str], None] = lambda tier: None,
) -> Desk:
    path = folder / "gear_plan.json"
    write_plan(path, content or plan_content())
    counts: Counter[tuple[str, ...]] = Counter()

    def make_family(family: Family) -> CountingFamily:
        return CountingFamily(family.name, counts)

    ladder = Ladder(np.asarray(label, np.int64), np.asarray(confidence, np.float32), before)
    desks: list[Desk] = []
    router = Router(
        PlanFile(path),
        ladder,
        lambda batch, ticket: desks[0].send(batch, ticket),
        Metrics(make_family, {}),
    )
    desks.append(Desk(router, ladder, path, counts))
    return desks[0]


Opener = Callable[..., Desk]


@pytest.fixture
def open_router(tmp_path: Path) -> Iterator[Opener]:
    desks: list[Desk] = []

    def opener(*arguments: Any, **options: Any) -> Desk:
        desks.append(open_desk(tmp_path, *arguments, **options))
        return desks[-1]

    yield opener
    for desk in desks:
        desk.close()


# Rows by their numbers: 0 is easy, 1 needs the second tier, 2 the third.
LABEL = [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
CONFIDENCE = [[0.9, 0.9, 0.9], [0.1, 0.9, 0.9], [0.1, 0.1, 0.2]]


def policy_content(tiers: tuple[str, ...], routes: list[Json], **changes: Any) -> Json:
    content = plan_content(TIERS)
    content["gears"] = [gear_entry({"tiers": list(tiers), "routes": routes})]
    content.update(changes)
    return content


class Gate:
    """Holds chosen tiers back until it is opened."""

    def __init__(self, *tiers: str) -> None:
        self.tiers = tiers
        self.reached = threading.Event()
        self.open = threading.Event()

    def __call__(self, tier: str) -> None:
        if tier in self.tiers:
            self.reached.set()
            assert self.open.wait(PATIENCE_S)


def failing(*tiers: str, error: Exception | None = None) -> Callable[[str], None]:
    def before(tier: str) -> None:
        if tier in tiers:
            raise error or TierError("out of order")

    return before


def test_an_easy_row_is_answered_by_the_first_tier_at_once(open_router: Opener) -> None:
    desk = open_router(LABEL, CONFIDENCE)
    answer = desk.serve([[0]])[0]
    assert (answer.label, answer.tier, answer.flags) == ([1], [0], [0])
    assert answer.confidence == pytest.approx([0.9])
    assert desk.late == set()
    assert desk.ladder.calls == [("tiny", [0])]


def test_a_hard_row_reaches_the_last_tier(open_router: Opener) -> None:
    desk = open_router(LABEL, CONFIDENCE)
    answer = desk.serve([[2]])[0]
    assert (answer.label, answer.tier) == ([9], [2])
    assert desk.late == {0}
    assert desk.ladder.calls == [("tiny", [2]), ("base", [2]), ("giant", [2])]


def test_the_rows_of_one_request_go_different_ways(open_router: Opener) -> None:
    desk = open_router(LABEL, CONFIDENCE)
    answer = desk.serve([[2, 0, 1, 0]])[0]
    assert answer.label == [9, 1, 5, 1]
    assert answer.tier == [2, 0, 1, 0]
    assert desk.ladder.calls == [("tiny", [2, 0, 1, 0]), ("base", [2, 1]), ("giant", [2])]


def test_easy_requests_do_not_wait_for_hard_ones(open_router: Opener) -> None:
    gate = Gate("base")
    desk = open_router(LABEL, CONFIDENCE, before=gate)
    desk.execute([[0], [1]])
    assert set(desk.answers) == {0}
    assert gate.reached.wait(PATIENCE_S)
    gate.open.set()
    assert desk.wait_for(2)[1].label == [5]


def test_requests_that_skip_to_different_tiers_do_not_wait_for_each_other(
    open_router: Opener,
) -> None:
    gate = Gate("giant")
    routes = [route_entry([0.15, 0.5], [2, 1, -1]), route_entry([], [-1]), route_entry([], [-1])]
    confidence = [[0.9] * 3, [0.3] * 3, [0.1] * 3]
    desk = open_router(LABEL, confidence, policy_content(TIERS, routes), before=gate)
    desk.execute([[2], [1]])
    assert desk.wait_for(1)[1].label == [5]
    gate.open.set()
    assert desk.wait_for(2)[0].label == [9]


def test_a_request_answered_on_the_way_does_not_wait_for_the_last_tier(open_router: Opener) -> None:
    gate = Gate("giant")
    desk = open_router(LABEL, CONFIDENCE, before=gate)
    desk.execute([[2], [1]])
    assert desk.wait_for(1)[1].label == [5]
    gate.open.set()
    assert desk.wait_for(2)[0].label == [9]


def test_ways_part_behind_a_slow_first_tier_too(open_router: Opener) -> None:
    gate = Gate("giant")
    routes = [route_entry([0.15, 0.5], [2, 1, -1]), route_entry([], [-1]), route_entry([], [-1])]
    content = policy_content(TIERS, routes)
    content["ladder"][0]["p50_ms"] = 1000.0
    desk = open_router(LABEL, [[0.9] * 3, [0.3] * 3, [0.1] * 3], content, before=gate)
    desk.execute([[2], [1], [0]])
    answers = desk.wait_for(2)
    assert (answers[1].label, answers[2].label) == ([5], [1])
    gate.open.set()
    assert desk.wait_for(3)[0].label == [9]
    assert desk.times_answered == dict.fromkeys(range(3), 1)


def test_a_skipped_tier_is_not_asked(open_router: Opener) -> None:
    routes = [route_entry([0.5], [2, -1]), route_entry([0.5], [2, -1]), route_entry([], [-1])]
    desk = open_router(LABEL, CONFIDENCE, policy_content(TIERS, routes))
    assert desk.serve([[1]])[0].tier == [2]
    assert desk.ladder.asked() == {"tiny": 1, "giant": 1}


def test_tier_numbers_are_those_of_the_full_ladder(open_router: Opener) -> None:
    routes = [route_entry([0.5], [1, -1]), route_entry([], [-1])]
    desk = open_router(LABEL, CONFIDENCE, policy_content(("base", "giant"), routes))
    answer = desk.serve([[1, 2]])[0]
    assert answer.tier == [1, 2]
    assert answer.label == [5, 9]


def test_nan_confidence_escalates_and_is_reported_as_zero(open_router: Opener) -> None:
    nan = float("nan")
    desk = open_router(LABEL, [[nan, nan, nan]] * 3)
    answer = desk.serve([[0]])[0]
    assert (answer.tier, answer.confidence) == ([2], [0.0])


def test_probabilities_are_asked_for_and_kept(open_router: Opener) -> None:
    desk = open_router(LABEL, CONFIDENCE, {**plan_content(), "probabilities": True})
    batch = desk.execute([[0, 2]])
    desk.wait_for(1)
    assert batch.probabilities is not None
    assert batch.probabilities.argmax(axis=1).tolist() == [1, 9]


def test_an_empty_batch_asks_nobody(open_router: Opener) -> None:
    desk = open_router(LABEL, CONFIDENCE)
    batch, completed = desk.router.execute([], {}, arrived=5)
    assert (batch.rows, completed) == (0, [])
    assert desk.ladder.calls == []


def naive_walk(content: Json, label: Array, confidence: Array) -> tuple[int, int, float]:
    """Label, ladder index and confidence of one row's answer, by following the table as written."""
    policy = content["gears"][0]["policy"]
    level = 0
    while True:
        tier = TIERS.index(policy["tiers"][level])
        value = np.nan_to_num(confidence[tier], nan=0.0)
        entry = policy["routes"][level]
        goal = entry["to"][sum(bool(value >= np.float32(cut)) for cut in entry["cuts"])]
        if goal == ANSWER:
            return int(label[tier]), tier, float(value)
        level = goal


def draw_policy(data: st.DataObject) -> Json:
    tiers = data.draw(st.lists(st.sampled_from(TIERS), min_size=1, unique=True))
    tiers.sort(key=TIERS.index)
    routes = []
    for own in range(len(tiers) - 1):
        cuts = sorted(data.draw(st.lists(st.sampled_from([0.2, 0.4, 0.6, 0.8]), max_size=3)))
        goals = st.sampled_from([ANSWER, *range(own + 1, len(tiers))])
        size = len(cuts) + 1
        to = data.draw(st.lists(goals, min_size=size, max_size=size))
        routes.append(route_entry(cuts, sorted(to, reverse=True)))
    return policy_content(tuple(tiers), [*routes, route_entry([], [-1])])


@settings(max_examples=40)
@given(st.data())
def test_every_row_is_answered_as_its_own_walk_through_the_policy(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = draw_policy(data)
    rows = data.draw(st.integers(1, 20))
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    label = rng.integers(0, 10, (rows, 3))
    confidence = rng.choice([0.1, 0.2, 0.4, 0.5, 0.6, 0.8, 0.9, np.nan], (rows, 3))
    number_of_requests = data.draw(st.integers(1, rows))
    requests = [part.tolist() for part in np.array_split(rng.permutation(rows), number_of_requests)]
    desk = open_desk(tmp_path_factory.mktemp("plan"), label.tolist(), confidence.tolist(), content)
    try:
        answers = desk.serve(requests)
    finally:
        desk.close()
    for number, numbers in enumerate(requests):
        wanted = [naive_walk(content, label[r], confidence[r].astype(np.float32)) for r in numbers]
        found = answers[number]
        assert list(zip(found.label, found.tier, found.confidence, strict=True)) == wanted
        assert found.flags == [0] * len(numbers)
    assert desk.times_answered == dict.fromkeys(range(len(requests)), 1)


def test_many_batches_at_once_are_answered_once_each(open_router: Opener) -> None:
    rng = np.random.default_rng(0)
    label, confidence = rng.integers(0, 10, (50, 3)), rng.random((50, 3))
    desk = open_router(label.tolist(), confidence.tolist())

    def client(number: int) -> None:
        rows = rng.integers(0, 50, 4)
        assert desk.router.admit(4) == ""
        ticket = Ticket(4, None, lambda: False, number)
        inputs: Inputs = {"ROW": rows[:, None]}
        batch, completed = desk.router.execute([ticket], inputs, 4)
        for done in completed:
            desk._keep(batch, done, late=False)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(client, range(200)))
    desk.wait_for(200)
    desk.close()
    assert desk.times_answered == dict.fromkeys(range(200), 1)
    assert desk.router.admit(1000) == ""


def test_rows_above_the_limit_are_refused_at_once(open_router: Opener) -> None:
    content = plan_content()
    content["limits"]["rows_in_flight"] = 10
    desk = open_router(LABEL, CONFIDENCE, content)
    assert desk.router.admit(10) == ""
    refusal = desk.router.admit(1)
    assert "cascade digits: 10 rows are in flight" in refusal
    desk.close()
    assert desk.count("cascade_rejected") == 1


def test_answered_rows_make_room(open_router: Opener) -> None:
    content = plan_content()
    content["limits"]["rows_in_flight"] = 3
    desk = open_router(LABEL, CONFIDENCE, content)
    for _ in range(3):
        desk.answers.clear()
        desk.serve([[0, 2], [1]])
    assert desk.router.admit(3) == ""
    assert desk.router.admit(1) != ""


def test_failed_rows_make_room_too(open_router: Opener) -> None:
    content = plan_content()
    content["limits"]["rows_in_flight"] = 1
    desk = open_router(LABEL, CONFIDENCE, content, before=failing(*TIERS))
    desk.serve([[0]])
    assert desk.router.admit(1) == ""


def test_a_broken_tier_is_replaced_by_the_next_larger(open_router: Opener) -> None:
    desk = open_router(LABEL, CONFIDENCE, before=failing("base"))
    answer = desk.serve([[0, 1]])[0]
    assert (answer.label, answer.tier) == ([1, 6], [0, 2])
    assert answer.flags == [0, DEGRADED]
    desk.close()
    assert desk.count("cascade_degraded") == 1


def test_a_broken_first_tier_is_replaced_for_all_rows(open_router: Opener) -> None:
    desk = open_router(LABEL, CONFIDENCE, before=failing("tiny"))
    answer = desk.serve([[0, 1, 2]])[0]
    assert (answer.label, answer.tier) == ([2, 5, 9], [1, 1, 2])
    assert answer.flags == [DEGRADED] * 3


def test_a_replacement_outside_the_policy_answers_for_good(open_router: Opener) -> None:
    routes = [route_entry([0.5], [1, -1]), route_entry([], [-1])]
    desk = open_router(LABEL, CONFIDENCE, policy_content(("tiny", "giant"), routes), before=failing("tiny"))
    # base is unsure of row 2, but the policy says nothing of what follows base.
    answer = desk.serve([[2]])[0]
    assert (answer.label, answer.tier, answer.flags) == ([8], [1], [DEGRADED])


def test_a_replacement_inside_the_policy_has_its_own_cut(open_router: Opener) -> None:
    routes = [route_entry([0.5], [1, -1]), route_entry([0.95], [2, -1]), route_entry([], [-1])]
    desk = open_router(LABEL, CONFIDENCE, policy_content(TIERS, routes), before=failing("tiny"))
    answer = desk.serve([[1]])[0]
    assert (answer.label, answer.tier, answer.flags) == ([6], [2], [DEGRADED])


def test_without_any_larger_tier_the_best_answer_so_far_is_given(open_router: Opener) -> None:
    desk = open_router(LABEL, CONFIDENCE, before=failing("giant"))
    answer = desk.serve([[2, 0]])[0]
    assert (answer.error, answer.label, answer.tier) == ("", [8, 1], [1, 0])
    assert answer.flags == [DEGRADED, 0]


def test_without_any_tier_the_request_gets_an_error(open_router: Opener) -> None:
    desk = open_router(LABEL, CONFIDENCE, before=failing(*TIERS))
    answer = desk.serve([[0, 1], [2]])[0]
    assert "tier tiny and all larger ones did not answer" in answer.error
    assert desk.times_answered == {0: 1, 1: 1}
    assert desk.ladder.asked() == dict.fromkeys(TIERS, 1)
    desk.close()
    assert desk.count("cascade_failed") == 3


def slow_plan(**p99_ms: float) -> Json:
    content = plan_content()
    for entry in content["ladder"]:
        entry["p99_ms"] = p99_ms.get(entry["tier"], entry["p99_ms"])
    return content


def test_a_deadline_that_the_next_tier_would_miss_ends_in_the_best_answer_so_far(
    open_router: Opener,
) -> None:
    desk = open_router(LABEL, CONFIDENCE, slow_plan(giant=60_000.0))
    answer = desk.serve([[2, 1, 0]], deadline_s=time.monotonic() + PATIENCE_S)[0]
    assert (answer.error, answer.label, answer.tier) == ("", [8, 5, 1], [1, 1, 0])
    assert answer.flags == [DEADLINE, 0, 0]
    assert "giant" not in desk.ladder.asked()
    desk.close()
    assert desk.count("cascade_deadline") == 1


def test_a_larger_batch_misses_a_deadline_that_one_row_keeps(open_router: Opener) -> None:
    content = plan_content()
    content["ladder"][1]["further_row_ms"] = 60_000.0
    desk = open_router(LABEL, CONFIDENCE, content)
    assert desk.serve([[1]], deadline_s=time.monotonic() + PATIENCE_S)[0].flags == [0]
    desk.answers.clear()
    answer = desk.serve([[1, 1]], deadline_s=time.monotonic() + PATIENCE_S)[0]
    assert (answer.tier, answer.flags) == ([0, 0], [DEADLINE] * 2)


def test_a_deadline_far_away_changes_nothing(open_router: Opener) -> None:
    desk = open_router(LABEL, CONFIDENCE, slow_plan(giant=1000.0))
    answer = desk.serve([[2]], deadline_s=time.monotonic() + 3600.0)[0]
    assert (answer.tier, answer.flags) == ([2], [0])


def test_a_row_without_any_answer_is_asked_even_after_its_deadline(open_router: Opener) -> None:
    desk = open_router(LABEL, CONFIDENCE)
    answer = desk.serve([[2]], deadline_s=time.monotonic() - 1.0)[0]
    assert (answer.label, answer.tier, answer.flags) == ([7], [0], [DEADLINE])


def test_a_deadline_concerns_only_its_own_request(open_router: Opener) -> None:
    desk = open_router(LABEL, CONFIDENCE, slow_plan(base=60_000.0))
    tickets = [
        Ticket(1, time.monotonic() + PATIENCE_S, lambda: False, 0),
        Ticket(1, None, lambda: False, 1),
    ]
    desk.router.admit(2)
    desk.router.execute(tickets, {"ROW": np.array([[1], [1]])}, 2)
    answers = desk.wait_for(2)
    assert (answers[0].tier, answers[0].flags) == ([0], [DEADLINE])
    assert (answers[1].tier, answers[1].flags) == ([1], [0])


def costly_plan() -> Json:
    """Larger tiers take so long that asking whether the client has gone is worth its round trip."""
    content = plan_content()
    for entry in content["ladder"][1:]:
        entry["p50_ms"] = CANCEL_CHECK_MS
    return content


def test_a_cancelled_request_stops_before_the_next_tier(open_router: Opener) -> None:
    desk = open_router(LABEL, CONFIDENCE, costly_plan())
    answer = desk.serve([[2]], is_cancelled=lambda: True)[0]
    assert answer.cancelled
    assert desk.times_answered == {0: 1}
    assert desk.ladder.calls == [("tiny", [2])]
    assert desk.router.admit(1000) == ""
    desk.close()
    assert desk.count("cascade_failed") == 1


def test_a_request_cancelled_between_tiers_goes_no_further(open_router: Opener) -> None:
    gate = Gate("base")
    gone = threading.Event()
    desk = open_router(LABEL, CONFIDENCE, costly_plan(), before=gate)
    desk.execute([[2]], is_cancelled=gone.is_set)
    assert gate.reached.wait(PATIENCE_S)
    gone.set()
    gate.open.set()
    assert desk.wait_for(1)[0].cancelled
    assert "giant" not in desk.ladder.asked()


def test_the_rows_of_others_go_on_when_one_client_has_gone(open_router: Opener) -> None:
    desk = open_router(LABEL, CONFIDENCE, costly_plan())
    tickets = [Ticket(1, None, lambda: True, 0), Ticket(1, None, lambda: False, 1)]
    desk.router.admit(2)
    desk.router.execute(tickets, {"ROW": np.array([[2], [2]])}, 2)
    answers = desk.wait_for(2)
    assert (answers[0].cancelled, answers[1].cancelled) == (True, False)
    assert answers[1].label == [9]


def test_before_a_cheap_tier_nobody_asks_whether_the_client_has_gone(open_router: Opener) -> None:
    asked = []

    def is_cancelled() -> bool:
        asked.append(True)
        return True

    desk = open_router(LABEL, CONFIDENCE)
    assert desk.serve([[2]], is_cancelled=is_cancelled)[0].label == [9]
    assert asked == []


@pytest.mark.parametrize("tier", TIERS)
def test_an_unexpected_exception_still_answers_every_request_once(open_router: Opener, tier: str) -> None:
    desk = open_router(LABEL, CONFIDENCE, before=failing(tier, error=KeyError("surprise")))
    answers = desk.serve([[0, 2], [0], [1, 1], [2]])
    desk.close()
    assert desk.times_answered == dict.fromkeys(range(4), 1)
    assert "surprise" in answers[3].error
    if tier != "tiny":
        assert (answers[1].error, answers[1].label) == ("", [1])
    assert desk.router.admit(1000) == ""


def test_an_exception_on_one_way_leaves_the_other_way_alone(open_router: Opener) -> None:
    routes = [route_entry([0.15, 0.5], [2, 1, -1]), route_entry([], [-1]), route_entry([], [-1])]
    confidence = [[0.9] * 3, [0.3] * 3, [0.1] * 3]
    desk = open_router(
        LABEL,
        confidence,
        policy_content(TIERS, routes),
        before=failing("giant", error=KeyError("surprise")),
    )
    answers = desk.serve([[1], [2], [1, 2]])
    desk.close()
    assert (answers[0].error, answers[0].label) == ("", [5])
    assert "surprise" in answers[1].error
    assert "surprise" in answers[2].error
    assert desk.times_answered == dict.fromkeys(range(3), 1)


def test_a_client_check_that_raises_still_answers_once(open_router: Opener) -> None:
    def is_cancelled() -> bool:
        raise RuntimeError("the server forgot the request")

    desk = open_router(LABEL, CONFIDENCE, costly_plan())
    answers = desk.serve([[2], [0]], is_cancelled=is_cancelled)
    assert "forgot" in answers[0].error
    assert answers[1].label == [1]
    assert desk.times_answered == {0: 1, 1: 1}


def test_a_slow_first_tier_does_not_hold_execute_up(open_router: Opener) -> None:
    gate = Gate("tiny")
    content = plan_content()
    content["ladder"][0]["p50_ms"] = 2.5
    desk = open_router(LABEL, CONFIDENCE, content, before=gate)
    desk.execute([[0], [1]])
    assert desk.answers == {}
    gate.open.set()
    answers = desk.wait_for(2)
    assert [answers[0].label, answers[1].label] == [[1], [5]]
    assert desk.late == {0, 1}


def test_a_first_tier_at_the_limit_is_asked_at_once(open_router: Opener) -> None:
    content = plan_content()
    content["ladder"][0]["p50_ms"] = content["limits"]["inline_entry_ms"]
    desk = open_router(LABEL, CONFIDENCE, content)
    desk.execute([[0]])
    assert set(desk.answers) == {0}
    assert desk.late == set()


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def giant_only() -> Json:
    return policy_content(("giant",), [route_entry([], [-1])])


def test_a_plan_swapped_on_disk_is_taken_over(open_router: Opener) -> None:
    desk = open_router(LABEL, CONFIDENCE)
    first = desk.router.plan
    assert desk.serve([[0]])[0].tier == [0]
    write_plan(desk.plan_path, giant_only())
    wait_until(lambda: desk.router.plan is not first)
    assert desk.serve([[0]])[0].tier == [2]


def test_a_batch_under_way_ends_with_the_plan_that_it_began_with(open_router: Opener) -> None:
    gate = Gate("base")
    desk = open_router(LABEL, CONFIDENCE, before=gate)
    first = desk.router.plan
    desk.execute([[2]])
    assert gate.reached.wait(PATIENCE_S)
    write_plan(desk.plan_path, giant_only())
    wait_until(lambda: desk.router.plan is not first)
    gate.open.set()
    assert desk.wait_for(1)[0].tier == [2]


def test_a_corrupt_plan_is_refused_and_the_old_one_stays(
    open_router: Opener, caplog: pytest.LogCaptureFixture
) -> None:
    desk = open_router(LABEL, CONFIDENCE)
    first = desk.router.plan
    with caplog.at_level(logging.ERROR, "cascade"):
        write_plan(desk.plan_path, {**plan_content(), "gears": []})
        wait_until(lambda: desk.counts[("cascade_plan_refused",)] > 0)
    assert "gears: needs at least one" in caplog.text
    assert desk.router.plan is first
    assert desk.serve([[1]])[0].tier == [1]
    desk.close()
    assert desk.count("cascade_plan_refused") == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c["ladder"][1].update(sha256="another graph"),
        lambda c: c["ladder"][1].update(model="other_base"),
        lambda c: c.update(cascade="other"),
        lambda c: c.update(probabilities=True),
        lambda c: c.update(inputs=[{"name": "OTHER", "datatype": "INT64", "dims": [1]}]),
    ],
    ids=["graph", "model", "cascade", "probabilities", "inputs"],
)
def test_a_plan_for_other_models_than_are_loaded_is_refused(
    open_router: Opener, caplog: pytest.LogCaptureFixture, change: Callable[[Json], object]
) -> None:
    desk = open_router(LABEL, CONFIDENCE)
    first = desk.router.plan
    with caplog.at_level(logging.ERROR, "cascade"):
        write_plan(desk.plan_path, changed(giant_only(), change))
        wait_until(lambda: desk.counts[("cascade_plan_refused",)] > 0)
    assert "restart the server" in caplog.text
    assert desk.router.plan is first
    assert desk.serve([[0]])[0].tier == [0]


def test_after_a_corrupt_plan_a_legal_one_is_taken_over(open_router: Opener) -> None:
    desk = open_router(LABEL, CONFIDENCE)
    first = desk.router.plan
    write_plan(desk.plan_path, "{")
    wait_until(lambda: desk.counts[("cascade_plan_refused",)] > 0)
    write_plan(desk.plan_path, giant_only())
    wait_until(lambda: desk.router.plan is not first)
    assert desk.serve([[0]])[0].tier == [2]


@pytest.mark.parametrize("content", ["{", "{}"])
def test_a_router_does_not_start_on_an_illegal_plan(tmp_path: Path, content: str) -> None:
    write_plan(tmp_path / "gear_plan.json", content)
    threads = threading.active_count()
    with pytest.raises(PlanError):
        open_desk_on(tmp_path / "gear_plan.json")
    assert threading.active_count() == threads


def test_a_router_does_not_start_without_a_plan(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="cannot be read"):
        open_desk_on(tmp_path / "none.json")


def open_desk_on(path: Path) -> Router:
    ladder = Ladder(np.asarray(LABEL), np.asarray(CONFIDENCE, np.float32))
    return Router(PlanFile(path), ladder, lambda batch, ticket: None, Metrics(lambda f: None, {}))


def two_gears(up_to_rps: float, alpha: float = 8.0) -> Json:
    """The giant alone up to a rate, tiny alone above it; windows of 20 ms."""
    alone = [route_entry([], [-1])]
    content = plan_content(TIERS)
    content["gears"] = [
        gear_entry({"tiers": ["giant"], "routes": alone}, up_to_rps),
        gear_entry({"tiers": ["tiny"], "routes": alone}),
    ]
    content["hysteresis"] = {"alpha": alpha, "window_ms": 20.0}
    return content


def let_arrive(desk: Desk, rows: int) -> None:
    """Rows that the router sees but refuses, and a window's time after them."""
    desk.router.execute([], {}, arrived=rows)
    time.sleep(0.03)


def tiers_now(desk: Desk, rows: int = 1) -> set[int]:
    """The tiers that answer some rows at this moment."""
    desk.answers.clear()
    return set(desk.serve([[0] * rows])[0].tier)


def test_the_gear_follows_the_rate(open_router: Opener) -> None:
    desk = open_router(LABEL, CONFIDENCE, two_gears(up_to_rps=0.01))
    assert tiers_now(desk) == {2}
    time.sleep(0.03)
    assert tiers_now(desk) == {0}
    wait_until(lambda: desk.counts[("cascade_gear",)] == 1)


def test_refused_rows_count_towards_the_rate(open_router: Opener) -> None:
    desk = open_router(LABEL, CONFIDENCE, two_gears(up_to_rps=100.0))
    let_arrive(desk, 1_000_000)
    assert tiers_now(desk) == {0}


def test_the_slower_gear_returns_when_nothing_is_in_flight(open_router: Opener) -> None:
    desk = open_router(LABEL, CONFIDENCE, two_gears(up_to_rps=1e6, alpha=1e6))
    let_arrive(desk, 1_000_000_000)
    let_arrive(desk, 0)
    # The rows that ask are themselves not a queue.
    assert tiers_now(desk) == {2}


def test_rows_in_flight_keep_the_faster_gear(open_router: Opener) -> None:
    desk = open_router(LABEL, CONFIDENCE, two_gears(up_to_rps=1e6, alpha=1e6))
    desk.router.admit(1)
    let_arrive(desk, 1_000_000_000)
    let_arrive(desk, 0)
    assert tiers_now(desk) == {0}


@pytest.mark.parametrize(("waiting", "rows", "tiers"), [(1, 32, {0}), (1, 31, {2}), (0, 32, {2})])
def test_a_full_batch_behind_others_means_that_more_is_waiting(
    open_router: Opener, waiting: int, rows: int, tiers: set[int]
) -> None:
    # At most 32 rows in 30 ms: a rate below 60 times the 33 rows that seem to wait, above 60 times one.
    desk = open_router(LABEL, CONFIDENCE, two_gears(up_to_rps=1e6, alpha=60.0))
    desk.router.admit(waiting)
    let_arrive(desk, 1_000_000_000)
    let_arrive(desk, rows)
    assert tiers_now(desk, rows) == tiers


def test_after_a_burst_the_accurate_gear_comes_back_though_rows_keep_arriving(open_router: Opener) -> None:
    desk = open_router(LABEL, CONFIDENCE, two_gears(up_to_rps=50.0))
    let_arrive(desk, 1_000_000)
    assert tiers_now(desk) == {0}
    for _ in range(2):  # five rows a second, each answered before the next
        time.sleep(0.2)
        last = tiers_now(desk)
    assert last == {2}


def test_close_answers_everything_under_way(open_router: Opener) -> None:
    gate = Gate("base", "giant")
    desk = open_router(LABEL, CONFIDENCE, before=gate)
    desk.execute([[1], [2], [0, 2]])
    assert gate.reached.wait(PATIENCE_S)
    closing = threading.Thread(target=desk.close)
    closing.start()
    closing.join(timeout=0.2)
    assert closing.is_alive()
    gate.open.set()
    closing.join(timeout=PATIENCE_S)
    assert not closing.is_alive()
    assert {n: a.label for n, a in desk.answers.items()} == {0: [5], 1: [9], 2: [1, 9]}
    assert desk.times_answered == dict.fromkeys(range(3), 1)


def test_close_ends_its_threads_and_may_be_called_twice(tmp_path: Path) -> None:
    before = threading.active_count()
    desk = open_desk(tmp_path, LABEL, CONFIDENCE)
    desk.serve([[2]])
    desk.close()
    assert threading.active_count() == before
    desk.close()


def test_counts_of_answers_escalations_and_latency(open_router: Opener) -> None:
    desk = open_router(LABEL, CONFIDENCE)
    desk.serve([[0, 1], [2], [0]])
    desk.close()
    answers = [desk.count("cascade_answers", tier=tier) for tier in TIERS]
    assert answers == [2, 1, 1]
    assert desk.count("cascade_escalations", source="tiny", target="base") == 2
    assert desk.count("cascade_escalations", source="base", target="giant") == 1
    requests = [desk.count("cascade_latency_ms_bucket", tier=tier, le="+Inf") for tier in TIERS]
    assert requests == [1, 1, 1]
    confidences = [desk.count("cascade_confidence_bucket", tier=tier, le="+Inf") for tier in TIERS]
    assert confidences == [4, 2, 1]


def test_join_passes_a_single_request_on_without_a_copy() -> None:
    values = np.arange(3)[:, None]
    assert join([{"A": values, "B": values}], ("A",))["A"] is values


def test_join_puts_the_rows_of_requests_in_order() -> None:
    joined = join([{"A": np.array([[1]])}, {"A": np.array([[2], [3]])}], ("A",))
    assert joined["A"].ravel().tolist() == [1, 2, 3]


def test_ways_that_part_while_the_router_closes_are_all_answered(tmp_path: Path) -> None:
    gate = Gate("tiny")
    routes = [route_entry([0.15, 0.5], [2, 1, -1]), route_entry([], [-1]), route_entry([], [-1])]
    content = policy_content(TIERS, routes)
    content["ladder"][0]["p50_ms"] = 1000.0
    confidences = [[0.9] * 3, [0.3] * 3, [0.1] * 3]
    desk = open_desk(tmp_path, LABEL, confidences, content, before=gate)
    desk.execute([[1], [2]])
    assert gate.reached.wait(5)
    closing = threading.Thread(target=desk.close)
    closing.start()
    time.sleep(0.2)
    gate.open.set()
    closing.join(30)
    assert {number: answer.label for number, answer in desk.answers.items()} == {0: [5], 1: [9]}
    assert desk.times_answered == {0: 1, 1: 1}
