"""The rows of one `execute` call and what became of each.

Rows of several requests are routed together; a request is complete when its last row is settled. All
changes happen under one lock, and a row is settled once: whoever settles the last row of a request gets
the request back, and nobody else ever does. That is what makes "answered exactly once" hold.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

DEGRADED = 1
DEADLINE = 2
FALLBACK = 4

RowNumbers = npt.NDArray[np.intp]


class TierAnswer(NamedTuple):
    """What one tier says: label int64 [n], confidence float32 [n], probabilities [n, classes] or None.

    Of tokens, label is [n, tokens].
    """

    label: npt.NDArray[np.int64]
    confidence: npt.NDArray[np.float32]
    probabilities: npt.NDArray[np.float32] | None


@dataclass
class Ticket:
    """One client request.

    Attributes:
        rows: its number of rows.
        deadline_s: time of the router's clock after which an early answer is better; None for never.
        is_cancelled: asks the server whether the client has gone.
        handle: what the server gave; the router only passes it back.
        retryable: what `error` tells of may be over when the client asks again.
        arrived_s: when it entered `execute`, on the router's clock.
    """

    rows: int
    deadline_s: float | None
    is_cancelled: Callable[[], bool]
    handle: Any
    arrived_s: float = 0.0
    first: int = 0
    open_rows: int = 0
    error: str = ""
    retryable: bool = False
    cancelled: bool = False


class Batch:
    """Results of all rows, as arrays; a ticket owns the rows `first .. first + rows`.

    Args:
        tickets: the requests.
        tokens: labels per row; None for one.
        flags: of every row from the start.
    """

    def __init__(self, tickets: list[Ticket], tokens: int | None = None, flags: int = 0) -> None:
        self.tickets = tickets
        self.rows = 0
        for ticket in tickets:
            ticket.first, ticket.open_rows = self.rows, ticket.rows
            self.rows += ticket.rows
        self.has_deadline = any(ticket.deadline_s is not None for ticket in tickets)
        self.owner = np.repeat(np.arange(len(tickets)), [ticket.rows for ticket in tickets])
        self.label = np.zeros(self.rows if tokens is None else (self.rows, tokens), np.int64)
        self.confidence = np.zeros(self.rows, np.float32)
        self.tier = np.full(self.rows, -1, np.int32)
        self.flags = np.full(self.rows, flags, np.int32)
        self.probabilities: npt.NDArray[np.float32] | None = None
        self._settled = np.zeros(self.rows, bool)
        self._lock = threading.Lock()

    def record(self, rows: RowNumbers, tier: int, answer: TierAnswer) -> None:
        """Keep a tier's answer as the best so far, whether or not it will be accepted."""
        with self._lock:
            self.label[rows] = answer.label
            self.confidence[rows] = answer.confidence
            self.tier[rows] = tier
            if answer.probabilities is not None:
                if self.probabilities is None:
                    classes = answer.probabilities.shape[1]
                    self.probabilities = np.zeros((self.rows, classes), np.float32)
                self.probabilities[rows] = answer.probabilities

    def settle(
        self, rows: RowNumbers, flag: int = 0, error: str = "", *, retryable: bool = False
    ) -> list[Ticket]:
        """Close rows; return the tickets that this call completed, each exactly once ever."""
        with self._lock:
            fresh = rows[~self._settled[rows]]
            self._settled[fresh] = True
            self.flags[fresh] |= flag
            completed = []
            for number in self.owner[fresh].tolist():
                ticket = self.tickets[number]
                if error and not ticket.error:
                    ticket.error, ticket.retryable = error, retryable
                ticket.open_rows -= 1
                if ticket.open_rows == 0:
                    completed.append(ticket)
            return completed

    def mark(self, rows: RowNumbers, flag: int) -> None:
        """Set a flag on rows that stay open."""
        with self._lock:
            self.flags[rows] |= flag
