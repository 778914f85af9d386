"""Counts what became of the requests of one fault, and holds every answer against the oracle."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.faults.load import ANSWERED, CANCELLED, ERROR, GIVEN_UP, KINDS
from benchmarks.faults.oracle import TOLERANCE, Oracle

SHOWN_ERRORS = 8

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class InForce:
    """A policy, and when it may have been the router's (seconds since the epoch)."""

    policy: str
    from_s: float
    until_s: float


@dataclass(frozen=True)
class Verdict:
    """The counts of one fault; `unexpected` are errors that the fault does not explain.

    `wrong` and `answered_twice` count requests that are in another column, too.
    """

    sent: int
    answered: int
    wrong: int
    degraded: int
    refused: int
    lost: int
    lost_expected: int
    answered_twice: int
    unexpected: int
    errors: dict[str, int]


def judge(
    oracle: Oracle,
    records: dict[str, Array],
    plans: Sequence[InForce],
    allowed: Sequence[str],
    lost_with: Sequence[float],
    second_sends: int,
) -> Verdict:
    """Count.

    Args:
        oracle: the right answers.
        records: as `load` wrote them.
        plans: what the router may have gone by, and when.
        allowed: patterns of the errors that the fault explains.
        lost_with: times at which the router's process was killed; what was under way then may be lost.
        second_sends: answers that the router tried to send twice.
    """
    outcome, begun_s, ended_s = records["outcome"], records["begun_s"], records["ended_s"]
    owner = np.repeat(np.arange(len(outcome)), records["answers"])
    good, fine = _answers(oracle, records, plans, owner)
    answered = outcome == ANSWERED
    flagged = np.zeros(len(outcome), bool)
    flagged[owner[records["flags"] != 0]] = True
    wrong = answered & (records["answers"] != records["rows"])
    wrong[owner[~np.where(records["flags"] != 0, fine, good)]] = True
    # A malformed request has no right answer.
    wrong |= answered & (records["kind"] == KINDS.index("malformed"))
    given_up = outcome == GIVEN_UP
    excused = np.zeros(len(outcome), bool)
    for killed_s in lost_with:
        excused |= (begun_s <= killed_s) & (ended_s >= killed_s)
    errors = _errors(records)
    unexpected = sum(n for text, n in errors.items() if not any(re.search(a, text) for a in allowed))
    return Verdict(
        sent=len(outcome),
        answered=int((answered & ~flagged).sum()),
        wrong=int(wrong.sum()),
        degraded=int((answered & flagged).sum()),
        refused=int(((outcome == ERROR) | (outcome == CANCELLED)).sum()),
        lost=int((given_up & ~excused).sum()),
        lost_expected=int((given_up & excused).sum()),
        answered_twice=second_sends + int((records["own_id"] == 0).sum()),
        unexpected=unexpected,
        errors=dict(sorted(errors.items(), key=lambda item: -item[1])[:SHOWN_ERRORS]),
    )


def _answers(
    oracle: Oracle, records: dict[str, Array], plans: Sequence[InForce], owner: Array
) -> tuple[Array, Array]:
    """Per answered row: is it what a policy in force gives, and is it what the named tier gives."""
    row, tier = records["row"], records["tier"]
    known = (row >= 0) & (tier >= 0) & (tier < oracle.label.shape[1])
    at = np.where(known, row, 0), np.where(known, tier, 0)
    fine = (
        known
        & (oracle.label[at] == records["label"])
        & (np.abs(oracle.confidence[at] - records["confidence"]) <= TOLERANCE)
    )
    routed = np.zeros(len(row), bool)
    begun_s, ended_s = records["begun_s"][owner], records["ended_s"][owner]
    for plan in plans:
        overlaps = (begun_s <= plan.until_s) & (ended_s >= plan.from_s)
        routed |= overlaps & (oracle.tier[plan.policy][at[0]] == tier)
    return fine & routed, fine


def _errors(records: dict[str, Array]) -> dict[str, int]:
    """Messages and how often; numbers that differ from case to case are left out."""
    found: dict[str, int] = {}
    failed = (records["outcome"] == ERROR) | (records["outcome"] == CANCELLED)
    for number in records["text"][failed].tolist():
        text = re.sub(r"\b0x[0-9a-f]+|\b\d{3,}\b", "N", str(records["texts"][number]))
        found[text] = found.get(text, 0) + 1
    return found
