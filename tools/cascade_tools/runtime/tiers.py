"""Asking tiers, and what happens when one breaks: all fault handling of the router is here.

A tier that fails is replaced by the next larger one that works. A tier that keeps failing is left alone (its
breaker opens), so that nobody waits for it; the router then serves by the plan's routes without it. A probe
outside any request asks it again, with one row that it has seen, until it answers.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from . import metrics as m
from .batch import TierAnswer
from .breaker import Breaker
from .local import LocalTier
from .plan import Plan, TierInfo

Inputs = dict[str, npt.NDArray[np.generic]]

log = logging.getLogger("cascade")


class TierError(Exception):
    """A tier did not answer; the message is the server's."""


class CallTier(Protocol):
    """Calls one tier's model with rows and waits for its answer; raises TierError."""

    def __call__(self, info: TierInfo, inputs: Inputs, probabilities: bool) -> TierAnswer:
        """Answers of all rows; `probabilities` are wanted or not."""


class Asked(NamedTuple):
    """Ladder position of the tier that answered, its answer or None, and whether one was passed over."""

    position: int
    answer: TierAnswer | None
    degraded: bool


@dataclass
class _State:
    """What is remembered of one tier; `row` is what it is probed with, preferably one that it answered."""

    info: TierInfo
    breaker: Breaker = field(default_factory=Breaker)
    row: Inputs | None = None
    row_is_good: bool = False


class Tiers:
    """The tiers of one router; safe for threads.

    Args:
        call_tier: how a tier is asked.
        local: tiers that run in this process, by model; they are asked here and not by `call_tier`.
        metrics: where the states go.
    """

    def __init__(self, call_tier: CallTier, local: Mapping[str, LocalTier], metrics: m.Metrics) -> None:
        self._call_tier = call_tier
        self._local = local
        self._metrics = metrics
        self._lock = threading.Lock()
        self._states: dict[str, _State] = {}
        self._probes: list[threading.Thread] = []
        self.broken: frozenset[str] = frozenset()

    def ask(self, plan: Plan, wanted: int, inputs: Inputs) -> Asked:
        """Ask the tier at a ladder index, or the next larger one that works.

        Confidences that are not finite become 0.
        """
        degraded = False
        for index in range(wanted, len(plan.ladder)):
            info = plan.ladder[index]
            answer = self._try(info, inputs, plan.probabilities) if info.tier not in self.broken else None
            if answer is not None:
                return Asked(index, answer, degraded)
            degraded = True
        return Asked(wanted, None, degraded)

    def is_local(self, info: TierInfo) -> bool:
        """The tier runs in this process."""
        return info.model in self._local

    def call(self, info: TierInfo, inputs: Inputs, probabilities: bool) -> TierAnswer:
        """Ask one tier, broken or not.

        Raises:
            TierError: it did not answer.
        """
        local = self._local.get(info.model)
        if local is None:
            return self._call_tier(info, inputs, probabilities)
        try:
            return local(inputs, probabilities)
        except Exception as error:
            raise TierError(str(error)) from None

    def probe(self, now: float) -> None:
        """Ask broken tiers again whose delay is over, each from a thread of its own."""
        if not self.broken:
            return
        self._probes = [thread for thread in self._probes if thread.is_alive()]
        with self._lock:
            due = [state for state in self._states.values() if state.breaker.take_probe(now)]
        for state in due:
            thread = threading.Thread(target=self._probe, args=(state,), name="probe")
            self._probes.append(thread)
            thread.start()

    def close(self) -> None:
        """Wait for probes under way."""
        for thread in self._probes:
            thread.join()

    def _probe(self, state: _State) -> None:
        assert state.row is not None  # a tier breaks by failing on one
        try:
            self._try(state.info, state.row, False)
        except Exception as error:
            self._failed(state.info, state.row, repr(error))

    def _try(self, info: TierInfo, inputs: Inputs, probabilities: bool) -> TierAnswer | None:
        try:
            answer = self.call(info, inputs, probabilities)
        except TierError as error:
            self._failed(info, inputs, str(error))
            return None
        state = self._states.get(info.tier)
        if state is None or not state.row_is_good or not state.breaker.untroubled:
            self._worked(info, inputs)
        finite = np.isfinite(answer.confidence)
        if not finite.all():
            answer = answer._replace(confidence=np.where(finite, answer.confidence, np.float32(0.0)))
        return answer

    def _worked(self, info: TierInfo, inputs: Inputs) -> None:
        with self._lock:
            state = self._states.setdefault(info.tier, _State(info))
            if not state.row_is_good:
                state.row, state.row_is_good = _first_row(inputs), True
            if state.breaker.success():
                log.warning("tier %s answers again", info.tier)
                self._set_broken()

    def _failed(self, info: TierInfo, inputs: Inputs, error: str) -> None:
        log.warning("tier %s did not answer: %s", info.tier, error)
        self._metrics.add(m.TIER_ERRORS, tier=info.tier)
        with self._lock:
            state = self._states.setdefault(info.tier, _State(info))
            if state.row is None:
                state.row = _first_row(inputs)
            if state.breaker.failure(time.monotonic()):
                log.error("tier %s keeps failing and is not asked any more until a probe succeeds", info.tier)
                self._set_broken()

    def _set_broken(self) -> None:
        self.broken = frozenset(tier for tier, state in self._states.items() if not state.breaker.closed)
        for tier in self._states:
            self._metrics.set(m.TIER_BROKEN, float(tier in self.broken), tier=tier)


def _first_row(inputs: Inputs) -> Inputs:
    return {name: values[:1].copy() for name, values in inputs.items()}
