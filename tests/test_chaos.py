"""The judge of the chaos benchmark finds what must never happen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from benchmarks.faults.catalogue import FAULTS
from benchmarks.faults.judge import InForce, Verdict, judge
from benchmarks.faults.ladder import policies
from benchmarks.faults.load import ANSWERED, CANCELLED, ERROR, GIVEN_UP, KINDS
from benchmarks.faults.oracle import Oracle

ROWS = 40
Records = dict[str, npt.NDArray[Any]]


@pytest.fixture(scope="module")
def oracle() -> Oracle:
    """Answers that differ from row to row and from tier to tier; even rows end at tier 0, odd ones at 2."""
    rng = np.random.default_rng(0)
    confidence = rng.random((ROWS, 3)).astype(np.float32)
    label = np.arange(3 * ROWS).reshape(ROWS, 3)
    tier = {"base": np.where(np.arange(ROWS) % 2, 2, 0), "giant alone": np.full(ROWS, 2)}
    return Oracle(np.zeros((ROWS, 1), np.float32), label, confidence, policies(confidence), tier)


@pytest.fixture
def records(oracle: Oracle) -> Records:
    """Every row asked for alone, and answered as `base` says; request i lives from second i to i + 1."""
    row = np.arange(ROWS)
    tier = oracle.tier["base"]
    return {
        "kind": np.full(ROWS, KINDS.index("plain")),
        "begun_s": row.astype(float),
        "ended_s": row + 1.0,
        "outcome": np.full(ROWS, ANSWERED),
        "text": np.zeros(ROWS, np.int64),
        "texts": np.array(["", "UNAVAILABLE: 8 rows are in flight", "INTERNAL: oh"]),
        "rows": np.ones(ROWS, np.int64),
        "answers": np.ones(ROWS, np.int64),
        "own_id": np.ones(ROWS, np.int64),
        "row": row,
        "label": oracle.label[row, tier],
        "confidence": oracle.confidence[row, tier],
        "tier": tier.copy(),
        "flags": np.zeros(ROWS, np.int64),
    }


BASE = [InForce("base", 0.0, np.inf)]


def verdict(oracle: Oracle, records: Records, plans: list[InForce] | None = None, **more: Any) -> Verdict:
    settings: dict[str, Any] = {
        "allowed": ("rows are in flight",),
        "lost_with": (),
        "second_sends": 0,
        **more,
    }
    found = judge(oracle, records, plans or BASE, **settings)
    parts = (found.answered, found.degraded, found.refused, found.lost, found.lost_expected)
    assert sum(parts) == found.sent == ROWS
    return found


def unanswered(records: Records, number: int, outcome: int, text: int = 0) -> None:
    """Make a request one without an answer."""
    records["outcome"][number], records["text"][number] = outcome, text
    records["answers"][number] = 0
    for name in ("row", "label", "confidence", "tier", "flags"):
        records[name] = np.delete(records[name], number)


def test_right_answers_are_right(oracle: Oracle, records: Records) -> None:
    found = verdict(oracle, records)
    assert found.answered == ROWS
    assert found.wrong == found.unexpected == found.answered_twice == 0


def other_tier(oracle: Oracle, records: Records) -> None:
    records["tier"][4] = 1
    records["label"][4], records["confidence"][4] = oracle.label[4, 1], oracle.confidence[4, 1]


def other_row(oracle: Oracle, records: Records) -> None:
    records["label"][4], records["confidence"][4] = oracle.label[6, 0], oracle.confidence[6, 0]


def flagged_other_row(oracle: Oracle, records: Records) -> None:
    other_row(oracle, records)
    records["flags"][4] = 1


def too_few_rows(oracle: Oracle, records: Records) -> None:
    records["rows"][4] = 2


def malformed(oracle: Oracle, records: Records) -> None:
    records["kind"][4] = KINDS.index("malformed")


def no_such_tier(oracle: Oracle, records: Records) -> None:
    records["tier"][4] = 3


@pytest.mark.parametrize(
    "spoil", [other_tier, other_row, flagged_other_row, too_few_rows, malformed, no_such_tier]
)
def test_an_answer_that_is_not_right_is_found(
    oracle: Oracle, records: Records, spoil: Callable[[Oracle, Records], None]
) -> None:
    spoil(oracle, records)
    assert verdict(oracle, records).wrong == 1


def test_a_flagged_answer_of_another_tier_is_degraded(oracle: Oracle, records: Records) -> None:
    other_tier(oracle, records)
    records["flags"][4] = 2
    found = verdict(oracle, records)
    assert (found.wrong, found.degraded, found.answered) == (0, 1, ROWS - 1)


def test_a_plan_counts_as_long_as_it_may_have_been_in_force(oracle: Oracle, records: Records) -> None:
    plans = [InForce("giant alone", 0.0, 9.5), InForce("base", 9.0, np.inf)]
    # Even rows were answered by the first tier: wrong until the plan of all tiers came.
    assert verdict(oracle, records, plans).wrong == len([i for i in range(0, ROWS, 2) if i + 1 < 9.0])


def test_errors_are_explained_or_not(oracle: Oracle, records: Records) -> None:
    unanswered(records, 7, CANCELLED, 1)
    unanswered(records, 5, ERROR, 1)
    unanswered(records, 3, ERROR, 2)
    found = verdict(oracle, records)
    assert (found.refused, found.unexpected, found.lost) == (3, 1, 0)
    assert found.errors == {"UNAVAILABLE: 8 rows are in flight": 2, "INTERNAL: oh": 1}


def test_what_was_under_way_when_the_router_was_killed_is_excused(oracle: Oracle, records: Records) -> None:
    unanswered(records, 9, GIVEN_UP)
    unanswered(records, 7, GIVEN_UP)
    found = verdict(oracle, records, lost_with=[7.5])
    assert (found.lost, found.lost_expected) == (1, 1)


def test_second_sends_and_ids_of_others_are_counted(oracle: Oracle, records: Records) -> None:
    records["own_id"][4] = 0
    assert verdict(oracle, records, second_sends=2).answered_twice == 3


def test_there_are_twelve_faults_with_names_of_their_own() -> None:
    assert len({fault.short for fault in FAULTS}) == len({fault.name for fault in FAULTS}) == 12
