"""Counts that the instances of one router share."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import pytest

from cascade_tools.runtime import counts
from cascade_tools.runtime.counts import SLOTS, Counts, counts_alone, open_counts


@pytest.fixture(autouse=True)
def in_a_folder_of_the_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counts, "SHARED_MEMORY", tmp_path)


def two() -> tuple[Counts, Counts]:
    return open_counts("digits", "digits_0_0", 2), open_counts("digits", "digits_0_1", 2)


def test_one_instance_needs_no_file(tmp_path: Path) -> None:
    alone = open_counts("digits", "digits_0_0", 1)
    alone.admit(3)
    assert alone.in_flight == 3
    assert list(tmp_path.iterdir()) == []


def test_rows_in_flight_are_those_of_all_instances() -> None:
    first, second = two()
    first.admit(3)
    second.admit(4)
    assert first.in_flight == second.in_flight == 7
    first.admit(-3)
    assert second.in_flight == 4


def test_each_instance_sees_every_arrival_once() -> None:
    first, second = two()
    assert first.arrive(5) == 5
    assert second.arrive(2) == 7
    assert first.arrive(0) == 2
    assert second.arrive(0) == 0


def test_an_instance_that_comes_back_has_nothing_in_flight_and_keeps_the_arrivals() -> None:
    first, second = two()
    second.admit(9)
    second.arrive(4)
    first.arrive(1)
    again = open_counts("digits", "digits_0_1", 2)
    assert first.in_flight == 0
    assert again.arrive(1) == 1
    assert first.arrive(0) == 1


def test_routers_of_other_names_do_not_share() -> None:
    first, _ = two()
    other = open_counts("letters", "letters_0_0", 2)
    first.admit(1)
    assert other.in_flight == 0


def admit_elsewhere(server_pid: int, folder: Path) -> None:
    counts.SHARED_MEMORY = folder
    os.getppid = lambda: server_pid
    open_counts("digits", "digits_0_1", 2).admit(11)


def test_processes_share(tmp_path: Path) -> None:
    mine = open_counts("digits", "digits_0_0", 2)
    child = multiprocessing.get_context("fork").Process(target=admit_elsewhere, args=(os.getppid(), tmp_path))
    child.start()
    child.join()
    assert mine.in_flight == 11


def test_more_instances_than_slots_are_refused() -> None:
    with pytest.raises(ValueError, match=f"at most {SLOTS}"):
        open_counts("digits", "digits_0_0", SLOTS + 1)


def test_alone_counts_like_one_of_many() -> None:
    alone = counts_alone()
    assert alone.arrive(2) == 2
    assert alone.arrive(3) == 3
