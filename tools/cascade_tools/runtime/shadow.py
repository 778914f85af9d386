"""A sample of the rows that a tier answers is shown to the last tier, too, off the request's path.

    router --offer--> bounded queue --> one thread --> last tier --> counts, a line per row

A full queue, or a router with more than one batch under way, drops what is offered: the sample is thinned
under load, for all rows alike. The log holds no inputs; at its largest size it begins anew, and the one
before is kept.

Per tier a bet runs on its agreement with the last tier. Once it is won, the tier has drifted: a gauge goes up
and one line is logged, falsely with a probability of at most 1 % per plan.
"""

from __future__ import annotations

import json
import logging
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from . import metrics as m
from .batch import TierAnswer
from .bet import Bet
from .plan import TierInfo

SHADOW_VARIABLE = "CASCADE_SHADOW_LOG"  # path of the log; where it is not set, nothing is shown
QUEUE_LENGTH = 64
LARGEST_BYTES = 16 * 2**20

log = logging.getLogger("cascade")


class ShadowRows(NamedTuple):
    """Rows that `tier` has answered: copies of their inputs, its answer, and who is asked again.

    `tolerated` is the plan's share of disagreements, `alarm_at` the wealth from which on it is a drift.
    """

    tier: str
    tolerated: float | None
    alarm_at: float
    gear: int
    giant: TierInfo
    inputs: dict[str, npt.NDArray[np.generic]]
    answer: TierAnswer
    probability: float


class Shadow:
    """Asks the last tier again and keeps what it said.

    Args:
        file: the log, JSON lines.
        call_tier: how a tier is asked.
        metrics: where counts go.
    """

    def __init__(
        self,
        file: Path,
        call_tier: Callable[[TierInfo, dict[str, npt.NDArray[np.generic]], bool], TierAnswer],
        metrics: m.Metrics,
    ) -> None:
        self._file = file
        self._call_tier = call_tier
        self._metrics = metrics
        self._random = np.random.default_rng()
        self._bets: dict[str, Bet] = {}
        self._drifted: set[str] = set()
        self._queue: queue.Queue[ShadowRows | None] = queue.Queue(QUEUE_LENGTH)
        self._thread = threading.Thread(target=self._work, name="shadow")
        self._thread.start()

    def sample(self, accepted: npt.NDArray[np.bool_], share: float) -> npt.NDArray[np.bool_]:
        """Which of the accepted rows are shown, each with the same probability."""
        picked: npt.NDArray[np.bool_] = accepted & (self._random.random(len(accepted)) < share)
        return picked

    def offer(self, rows: ShadowRows) -> None:
        """Take rows if there is room; never waits."""
        try:
            self._queue.put_nowait(rows)
        except queue.Full:
            self.drop(rows.tier, len(rows.answer.label))

    def drop(self, tier: str, rows: int) -> None:
        """Count rows that were sampled and are not shown."""
        self._metrics.add(m.SHADOW_DROPPED, rows, tier=tier)

    def close(self) -> None:
        """Finish what was taken, then stop."""
        self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (rows := self._queue.get()) is not None:
            try:
                self._show(rows)
            except Exception as error:
                self.drop(rows.tier, len(rows.answer.label))
                log.warning("rows of tier %s not shown to %s: %s", rows.tier, rows.giant.model, error)

    def _show(self, rows: ShadowRows) -> None:
        giant = self._call_tier(rows.giant, rows.inputs, False)
        same = (rows.answer.label == giant.label).reshape(len(giant.label), -1).all(axis=1)
        self._metrics.add(m.SHADOW_ROWS, len(same), tier=rows.tier)
        self._metrics.add(m.SHADOW_AGREES, int(same.sum()), tier=rows.tier)
        self._watch(rows, same)
        self._write(rows, giant)

    def _watch(self, rows: ShadowRows, same: npt.NDArray[np.bool_]) -> None:
        if rows.tolerated is None:
            return
        bet = self._bets.get(rows.tier)
        if bet is None or bet.share != rows.tolerated:  # the first rows, or another plan
            bet = self._bets[rows.tier] = Bet(rows.tolerated)
            self._drifted.discard(rows.tier)
            self._metrics.set(m.DRIFT, 0.0, tier=rows.tier)
        for agrees in same.tolist():
            if bet.add(not agrees) >= rows.alarm_at and rows.tier not in self._drifted:
                self._drifted.add(rows.tier)
                self._metrics.set(m.DRIFT, 1.0, tier=rows.tier)
                log.error(
                    "tier %s differs from %s on more than the %.2f %% that the plan tolerates; "
                    "see `cascade-tools recalibrate`",
                    rows.tier,
                    rows.giant.model,
                    100.0 * rows.tolerated,
                )

    def _write(self, rows: ShadowRows, giant: TierAnswer) -> None:
        now = time.time()
        lines = [
            json.dumps(
                {
                    "time": now,
                    "tier": rows.tier,
                    "confidence": float(confidence),
                    "label": label,
                    "giant_label": giant_label,
                    "probability": rows.probability,
                    "gear": rows.gear,
                }
            )
            for confidence, label, giant_label in zip(
                rows.answer.confidence, rows.answer.label.tolist(), giant.label.tolist(), strict=True
            )
        ]
        if self._file.exists() and self._file.stat().st_size > LARGEST_BYTES:
            self._file.replace(self._file.with_name(f"{self._file.name}.1"))
        with self._file.open("a", encoding="utf-8") as file:
            file.write("".join(f"{line}\n" for line in lines))
