"""Every ticket is handed back exactly once, when its last row is settled."""

from __future__ import annotations

from collections import Counter
from functools import partial

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cascade_tools.runtime.batch import DEADLINE, DEGRADED, Batch, Ticket, TierAnswer
from tests.helpers import Array, run_in_threads, thread_switches_inside


def ticket(rows: int, name: object = None) -> Ticket:
    return Ticket(rows, None, lambda: False, name)


def batch_of(*sizes: int) -> Batch:
    return Batch([ticket(rows, number) for number, rows in enumerate(sizes)])


def rows(*numbers: int) -> Array:
    return np.asarray(numbers, np.intp)


def names(tickets: list[Ticket]) -> list[object]:
    return [entry.handle for entry in tickets]


def answer(*labels: int, probabilities: bool = False) -> TierAnswer:
    confidence = np.full(len(labels), 0.5, np.float32)
    probs = np.eye(10, dtype=np.float32)[list(labels)] if probabilities else None
    return TierAnswer(np.asarray(labels, np.int64), confidence, probs)


def test_tickets_own_consecutive_rows() -> None:
    batch = batch_of(2, 1, 3)
    assert batch.rows == 6
    assert [entry.first for entry in batch.tickets] == [0, 2, 3]
    assert batch.owner.tolist() == [0, 0, 1, 2, 2, 2]


def test_a_batch_of_no_tickets_has_no_rows() -> None:
    batch = Batch([])
    assert batch.rows == 0
    assert batch.settle(rows()) == []


def test_a_ticket_comes_back_with_its_last_row() -> None:
    batch = batch_of(2, 1)
    assert names(batch.settle(rows(0))) == []
    assert names(batch.settle(rows(1))) == [0]
    assert names(batch.settle(rows(2))) == [1]


def test_one_call_may_complete_several_tickets() -> None:
    assert names(batch_of(1, 2, 1).settle(rows(0, 1, 2, 3))) == [0, 1, 2]


def test_a_settled_row_is_not_settled_again() -> None:
    batch = batch_of(1)
    assert names(batch.settle(rows(0))) == [0]
    assert batch.settle(rows(0), DEADLINE, "late") == []
    assert batch.flags.tolist() == [0]
    assert batch.tickets[0].error == ""


def test_the_first_error_of_a_ticket_stays() -> None:
    batch = batch_of(3)
    batch.settle(rows(0), error="first")
    batch.settle(rows(1), error="second")
    (done,) = batch.settle(rows(2))
    assert done.error == "first"


def test_an_error_belongs_to_the_tickets_of_its_rows() -> None:
    batch = batch_of(1, 1)
    batch.settle(rows(0), error="broken")
    batch.settle(rows(1))
    assert [entry.error for entry in batch.tickets] == ["broken", ""]


def test_flags_add_up_on_their_rows() -> None:
    batch = batch_of(2)
    batch.mark(rows(0), DEGRADED)
    batch.settle(rows(0, 1), DEADLINE)
    assert batch.flags.tolist() == [DEGRADED | DEADLINE, DEADLINE]


def test_the_latest_answer_of_a_row_is_kept() -> None:
    batch = batch_of(3)
    assert batch.tier.tolist() == [-1, -1, -1]
    batch.record(rows(0, 1, 2), 0, answer(4, 5, 6))
    batch.record(rows(1), 2, answer(9))
    assert batch.label.tolist() == [4, 9, 6]
    assert batch.tier.tolist() == [0, 2, 0]


def test_probabilities_are_kept_where_a_tier_gives_them() -> None:
    batch = batch_of(2)
    batch.record(rows(0, 1), 0, answer(3, 4))
    assert batch.probabilities is None
    batch.record(rows(1), 1, answer(7, probabilities=True))
    assert batch.probabilities is not None
    assert batch.probabilities.argmax(axis=1).tolist() == [0, 7]


sizes = st.lists(st.integers(1, 4), min_size=1, max_size=6)


@given(st.data(), sizes)
def test_every_ticket_returns_once_and_only_when_complete(data: st.DataObject, sizes: list[int]) -> None:
    batch = batch_of(*sizes)
    subset = st.lists(st.integers(0, batch.rows - 1), unique=True)
    settled: set[int] = set()
    returned: Counter[object] = Counter()
    for part in [*data.draw(st.lists(subset, max_size=8)), list(range(batch.rows))]:
        before = {n for n in range(len(sizes)) if set(own_rows(batch, n)) <= settled}
        settled |= set(part)
        after = {n for n in range(len(sizes)) if set(own_rows(batch, n)) <= settled}
        done = names(batch.settle(rows(*part)))
        assert set(done) == after - before
        returned.update(done)
    assert returned == dict.fromkeys(range(len(sizes)), 1)


def own_rows(batch: Batch, number: int) -> range:
    entry = batch.tickets[number]
    return range(entry.first, entry.first + entry.rows)


def test_many_threads_return_every_ticket_once() -> None:
    rng = np.random.default_rng(0)
    batch = batch_of(*rng.integers(1, 5, 40).tolist())
    returned: list[list[object]] = [[] for _ in range(8)]
    # Between them the threads settle everything, and most rows more than once.
    shares = np.array_split(rng.permutation(batch.rows), len(returned))

    def settle_all(mine: list[object], parts: list[Array]) -> None:
        for part in parts:
            mine += names(batch.settle(part))

    jobs = [
        partial(
            settle_all,
            mine,
            [*(rng.permutation(batch.rows)[: rng.integers(1, 30)] for _ in range(6)), share],
        )
        for mine, share in zip(returned, shares, strict=True)
    ]
    with thread_switches_inside(Batch.settle):
        run_in_threads(jobs)
    counts = Counter(name for mine in returned for name in mine)
    assert counts == dict.fromkeys(range(len(batch.tickets)), 1)
