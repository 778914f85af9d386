"""Rows that wait for company before the first tier."""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator

import numpy as np
import pytest

from cascade_tools.runtime.batch import Ticket
from cascade_tools.runtime.collector import Collector, Held, in_batches

PATIENCE_S = 30.0
FOR_EVER_S = 1e6


def held(rows: int, number: int = 0) -> Held:
    ticket = Ticket(rows, None, lambda: False, number)
    return Held([ticket], {"ROW": np.full((rows, 1), number)}, rows)


class Desk:
    """A collector and what it has let go."""

    def __init__(self) -> None:
        self.released: queue.Queue[list[int]] = queue.Queue()
        self.collector = Collector(
            lambda parts: self.released.put([part.tickets[0].handle for part in parts])
        )

    def add(self, rows: int, number: int, min_queue: int, wait_s: float = FOR_EVER_S) -> None:
        self.collector.add(held(rows, number), min_queue, time.monotonic() + wait_s)

    def next(self) -> list[int]:
        return self.released.get(timeout=PATIENCE_S)


@pytest.fixture
def desk() -> Iterator[Desk]:
    one = Desk()
    yield one
    one.collector.close()


def test_enough_rows_go_on_together_in_their_order(desk: Desk) -> None:
    for number in range(3):
        desk.add(2, number, 6)
    assert desk.next() == [0, 1, 2]


def test_too_few_rows_go_on_when_the_wait_is_over(desk: Desk) -> None:
    desk.add(1, 7, 100, 0.02)
    assert desk.next() == [7]


def test_the_earliest_end_of_a_wait_counts_for_all(desk: Desk) -> None:
    desk.add(1, 0, 100)
    desk.add(1, 1, 100, 0.02)
    assert desk.next() == [0, 1]


def test_what_comes_after_a_release_waits_anew(desk: Desk) -> None:
    desk.add(2, 0, 2)
    assert desk.next() == [0]
    desk.add(1, 1, 2)
    assert desk.released.empty()
    desk.add(1, 2, 2)
    assert desk.next() == [1, 2]


def test_letting_go_ends_the_wait(desk: Desk) -> None:
    desk.add(1, 0, 100)
    desk.collector.let_go()
    assert desk.next() == [0]


def test_closing_lets_everything_go() -> None:
    desk = Desk()
    desk.add(1, 0, 100)
    desk.add(1, 1, 100)
    desk.collector.close()
    assert desk.next() == [0, 1]


def test_rows_of_different_shapes_are_not_joined() -> None:
    widths = [1, 3, 1, 3, 3]
    calls = [
        held(2, number)._replace(inputs={"ROW": np.zeros((2, width))}) for number, width in enumerate(widths)
    ]
    batches = in_batches(calls, 4)
    assert [[one.tickets[0].handle for one in batch] for batch in batches] == [[0, 2], [1, 3], [4]]


@pytest.mark.parametrize(
    ("sizes", "most", "expected"),
    [
        ([1, 1, 1], 8, [[1, 1, 1]]),
        ([4, 4, 1], 8, [[4, 4], [1]]),
        ([5, 4, 4], 8, [[5], [4, 4]]),
        ([8, 8], 8, [[8], [8]]),
        ([], 8, []),
    ],
)
def test_batches_are_as_large_as_the_tiers_take(
    sizes: list[int], most: int, expected: list[list[int]]
) -> None:
    batches = in_batches([held(rows) for rows in sizes], most)
    assert [[one.rows for one in batch] for batch in batches] == expected
