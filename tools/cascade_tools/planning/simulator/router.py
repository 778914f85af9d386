"""The router as it works: `execute`, the pool of threads, and the batch trigger (see `runtime/router.py`).

rows that came --> execute: gear, admission, quick local tiers --> answers when it returns
                      |                                              ^
                      '--> pool of threads: call, answers, call, ... -'
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cascade_tools.planning.simulator.batch import Batch, Group
from cascade_tools.planning.simulator.clock import Clock
from cascade_tools.planning.simulator.device import Device
from cascade_tools.planning.simulator.ledger import Ledger
from cascade_tools.planning.simulator.model import Ask, Model
from cascade_tools.planning.simulator.paths import Node
from cascade_tools.planning.simulator.system import SimRouter
from cascade_tools.runtime.breaker import Breaker
from cascade_tools.runtime.gears import Gear, Gears
from cascade_tools.runtime.plan import GearInfo
from cascade_tools.runtime.router import HAND_OFF_MS


@dataclass(eq=False, slots=True)
class Tier:
    """One tier as the router knows it; times in seconds.

    Attributes:
        model: its first stage; None where the router runs it itself, then `local_s` by rows of a batch.
        ask_s: latency of a call; `ask_cpu_s` its CPU time.
        planned_s: of one row in the gear plan, `further_row_s` of each further one.
    """

    name: str
    model: Model | None
    local_s: list[float]
    local_j: list[float]
    ask_s: float
    ask_cpu_s: float
    planned_s: float
    further_row_s: float
    batches: int = 0
    rows: int = 0
    energy_j: float = 0.0


class _Thread:
    """Who asks tiers: `execute` of one instance, or a thread of the pool."""

    __slots__ = ("answered", "execute", "handed")

    def __init__(self, execute: bool) -> None:
        self.execute = execute
        self.answered: list[tuple[Batch, int]] = []
        self.handed: list[Group] = []


class Router:
    """All instances of the router.

    Args:
        clock: of the simulation.
        system: what it costs, and its limits.
        device: of its CPU time, None where that is counted nowhere.
        tiers: the full ladder.
        gears: the runtime's.
        ledger: where batches are kept.
        come: from a request on, up to which one requests have come.

    Attributes:
        gears: since when (s) which gear.
    """

    def __init__(
        self,
        clock: Clock,
        system: SimRouter,
        device: Device | None,
        tiers: list[Tier],
        gears: Gears,
        ledger: Ledger,
        come: Callable[[int, int], int],
    ) -> None:
        self._clock = clock
        self._device = device
        self._core = 1.0 / system.cores
        self._tiers = tiers
        self._gears = gears
        self._gear: GearInfo | None = None
        self.gears: list[tuple[float, int]] = []
        self._ledger = ledger
        self._come = come
        self._most = system.max_batch_size
        self._limit = system.rows_in_flight
        self._inline_s = system.inline_entry_ms / 1000.0
        self._quick_s = HAND_OFF_MS / 1000.0
        self._batch_s = system.batch_ms / 1000.0
        self._row_s = system.row_ms / 1000.0
        self._hand_off_s = system.hand_off_ms / 1000.0
        self._late_s = system.late_row_ms / 1000.0
        self._idle = system.instances
        self._threads = system.escalation_threads * system.instances
        self._tasks: deque[Group] = deque()
        self._next = 0
        self._in_flight = 0
        self._breakers = [Breaker() for _ in tiers]
        self._troubled = False
        self._broken: frozenset[str] = frozenset()
        self._held: list[tuple[int, int]] = []  # spans and their rows
        self._held_rows = 0
        self._held_wanted = 0
        self._held_until_s = 0.0

    def wake(self) -> None:
        """Start `execute` wherever an instance is free and something has come."""
        while self._idle:
            first = self._next
            end = self._come(first, self._most)
            if end == first:
                return
            self._next = end
            self._idle -= 1
            self._execute(first, end)

    def done(self, asks: list[Ask]) -> None:
        """Calls were answered."""
        for ask in asks:
            if self._troubled and self._breakers[ask.node.tier].success():
                self._broken -= {self._tiers[ask.node.tier].name}
            self._answered(ask.asker, ask.batch, ask.node)

    def failed(self, asks: list[Ask]) -> None:
        """Calls were not answered: their threads ask the next larger tier that works."""
        self._troubled = True
        for ask in asks:
            node = ask.node
            if self._breakers[node.tier].failure(self._clock.now):
                self._broken |= {self._tiers[node.tier].name}
            batch = self._ledger.again(ask.batch, node, self._broken, node.tier + 1)
            self._ask(ask.asker, (batch, batch.paths.root, ask.rows), 0.0)

    # --- execute

    def _execute(self, first: int, end: int) -> None:
        arrived = end - first
        queue = self._in_flight
        rows = min(arrived, self._limit - queue)
        if arrived >= self._most and queue > 0:
            queue += self._most
        now = self._clock.now
        gear = self._gears.observe(now, arrived, queue, self._broken)
        if gear.info is not self._gear:
            self._gear = gear.info
            self.gears.append((now, self._ledger.gear_number(gear)))
        span = self._ledger.take(first + rows, end)
        self._in_flight += rows
        cost_s = self._batch_s + self._row_s * arrived
        thread = _Thread(execute=True)
        if rows and gear.info.min_queue > 1:
            self._hold(span, rows, gear.info.min_queue, now + gear.info.max_wait_ms / 1000.0)
            self._work(cost_s, cost_s, self._return, thread)
            return
        if gear.info.min_queue == 1 and self._held:
            self._release()
        if not rows:
            self._work(cost_s, cost_s, self._return, thread)
            return
        batch = self._ledger.begin([span], gear, self._broken)
        root = batch.paths.root
        if root.tier >= 0 and self._tiers[root.wanted].planned_s > self._inline_s:
            thread.handed.append((batch, root, rows))
            self._work(cost_s, cost_s, self._return, thread)
        elif root.tier < 0 or self._tiers[root.tier].model is None:
            self._inline(thread, [(batch, root, rows)], cost_s)
        else:
            self._ask(thread, (batch, root, rows), cost_s)

    def _inline(self, thread: _Thread, waiting: list[Group], seconds: float) -> None:
        """Take all quick steps in one go; hand off and answer at their end, when `execute` returns."""
        while waiting:
            group = waiting.pop()
            batch, node, rows = group
            if node.tier >= 0:
                seconds += self._step(node.tier, rows)
            self._end(thread, batch, node)
            for further in batch.onward(node):
                quick = self._is_quick(further)
                (waiting if quick else thread.handed).append(further)
        self._work(seconds, seconds, self._return, thread)

    def _return(self, thread: _Thread) -> None:
        self._settle(thread)
        self._idle += 1
        for group in thread.handed:
            self._hand_off(group)
        self.wake()

    # --- the pool

    def _hand_off(self, group: Group) -> None:
        if self._threads:
            self._threads -= 1
            self._ask(_Thread(execute=False), group, self._hand_off_s)
        else:
            self._tasks.append(group)

    def _leave(self, thread: _Thread) -> None:
        """The thread has nothing left to ask."""
        if self._tasks:
            self._ask(thread, self._tasks.popleft(), self._hand_off_s)
        else:
            self._threads += 1

    # --- both

    def _ask(self, thread: _Thread, group: Group, before_s: float) -> None:
        """Ask a tier after so much work of the router."""
        batch, node, rows = group
        if node.tier < 0:
            self._work(before_s, before_s, self._stepped, (thread, batch, node))
            return
        tier = self._tiers[node.tier]
        if tier.model is None:
            seconds = before_s + self._step(node.tier, rows)
            self._work(seconds, seconds, self._stepped, (thread, batch, node))
            return
        tier.rows += rows
        ask = Ask(thread, batch, node, rows)
        self._work(before_s + tier.ask_s, before_s + tier.ask_cpu_s, self._call, ask)

    def _call(self, ask: Ask) -> None:
        model = self._tiers[ask.node.tier].model
        assert model is not None
        model.put(ask)

    def _stepped(self, done: tuple[_Thread, Batch, Node]) -> None:
        self._answered(*done)

    def _answered(self, thread: _Thread, batch: Batch, node: Node) -> None:
        onward = batch.onward(node)
        if thread.execute:
            self._end(thread, batch, node)
            waiting: list[Group] = []
            for group in onward:
                (waiting if self._is_quick(group) else thread.handed).append(group)
            if waiting:
                self._inline(thread, waiting, 0.0)
            else:
                self._return(thread)
            return
        late = batch.counts[node.ending] if node.ending >= 0 else 0
        self._end(thread, batch, node)
        if self._late_s and late:
            seconds = self._late_s * late
            self._work(seconds, seconds, self._go_on, (thread, onward))
        else:
            self._go_on((thread, onward))

    def _go_on(self, work: tuple[_Thread, list[Group]]) -> None:
        """A thread of the pool sends its answers and goes on with one group; others need not wait for it."""
        thread, onward = work
        self._settle(thread)
        for group in onward[1:]:
            self._hand_off(group)
        if onward:
            self._ask(thread, onward[0], 0.0)
        else:
            self._leave(thread)

    def _end(self, thread: _Thread, batch: Batch, node: Node) -> None:
        if node.ending >= 0 and batch.counts[node.ending]:
            thread.answered.append((batch, node.ending))

    def _settle(self, thread: _Thread) -> None:
        """What has ended is answered now."""
        now = self._clock.now
        ended_s = self._ledger.ended_s
        for batch, path in thread.answered:
            ended_s[batch.base + path] = now
            self._in_flight -= batch.counts[path]
        if thread.answered:
            thread.answered = []

    def _is_quick(self, group: Group) -> bool:
        _, node, rows = group
        tier = self._tiers[node.wanted]
        return tier.model is None and tier.planned_s + (rows - 1) * tier.further_row_s <= self._quick_s

    def _step(self, number: int, rows: int) -> float:
        """Seconds that a tier in this process takes."""
        tier = self._tiers[number]
        tier.batches += 1
        tier.rows += rows
        tier.energy_j += tier.local_j[rows]
        return tier.ask_s + tier.local_s[rows]

    def _work(self, seconds: float, cpu_s: float, then: Callable[[Any], None], argument: Any) -> None:
        """Let the router take so long, and so much of its device."""
        if seconds <= 0.0:
            then(argument)
        elif self._device is None or cpu_s <= 0.0:
            self._clock.at(self._clock.now + seconds, then, argument)
        else:
            self._device.start(seconds, self._core * cpu_s / seconds, then, argument)

    # --- the batch trigger

    def _hold(self, span: int, rows: int, wanted: int, until_s: float) -> None:
        if not self._held or until_s < self._held_until_s:
            self._held_until_s = until_s
            self._clock.at(until_s, self._overdue, None)
        self._held.append((span, rows))
        self._held_rows += rows
        self._held_wanted = wanted
        if self._held_rows >= wanted:
            self._release()

    def _overdue(self, _: Any) -> None:
        if self._held and self._clock.now >= self._held_until_s:
            self._release()

    def _release(self) -> None:
        """Start what was held, in batches that the tiers take; the rows of one call are never parted."""
        held, self._held, self._held_rows = self._held, [], 0
        gear = self._gears.current(self._broken)
        part: list[int] = []
        total = 0
        for span, rows in held:
            if part and total + rows > self._most:
                self._begin_held(part, total, gear)
                part, total = [], 0
            part.append(span)
            total += rows
        self._begin_held(part, total, gear)

    def _begin_held(self, spans: list[int], rows: int, gear: Gear) -> None:
        batch = self._ledger.begin(spans, gear, self._broken)
        self._hand_off((batch, batch.paths.root, rows))
