"""The router as it works: `execute`, the pool of threads, and the batch trigger (see `runtime/router.py`).

rows that came --> execute: gear, admission, quick local tiers --> answers when it returns
                      |                                              ^
                      '--> pool of threads: call, answers, call, ... -'
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from cascade_tools.planning.simulator.answers import Answers, rows_of
from cascade_tools.planning.simulator.batch import Group
from cascade_tools.planning.simulator.clock import Clock
from cascade_tools.planning.simulator.device import Device
from cascade_tools.planning.simulator.ledger import Ledger
from cascade_tools.planning.simulator.process import Process
from cascade_tools.planning.simulator.system import SimRouter
from cascade_tools.planning.simulator.thread import Thread
from cascade_tools.planning.simulator.tier import Tier
from cascade_tools.runtime.breaker import Breaker
from cascade_tools.runtime.gears import Gear, Gears
from cascade_tools.runtime.plan import GearInfo
from cascade_tools.runtime.router import HAND_OFF_MS


class Router:
    """All instances of the router.

    Args:
        clock: of the simulation.
        system: what it costs, and its limits.
        device: of its CPU time.
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
        device: Device,
        tiers: list[Tier],
        gears: Gears,
        ledger: Ledger,
        come: Callable[[int, int], int],
    ) -> None:
        self._clock = clock
        self._device = device
        self._tiers = tiers
        self._gears = gears
        self._gear: GearInfo | None = None
        self.gears: list[tuple[float, int]] = []
        self._ledger = ledger
        self._answers = Answers(clock, system, device, ledger.ended_s)
        self._come = come
        self._most = system.max_batch_size
        self._limit = system.rows_in_flight
        self._inline_s = system.inline_entry_ms / 1000.0
        self._quick_s = HAND_OFF_MS / 1000.0
        self._batch_s = system.own.batch_ms / 1000.0
        self._request_s = system.own.request_ms / 1000.0
        self._call_s = system.own.call_ms / 1000.0
        self._late_s = system.own.late_ms / 1000.0
        self._processes = [
            Process(device, system.core, system.escalation_threads) for _ in range(system.instances)
        ]
        self._free = deque(self._processes)  # Triton takes the one that has been idle longest
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
        while self._free:
            first = self._next
            end = self._come(first, self._most)
            if end == first:
                return
            self._next = end
            self._execute(self._free.popleft().execute, first, end)

    def done(self, threads: list[Thread]) -> None:
        """Their calls were answered."""
        for thread in threads:
            if self._troubled and self._breakers[thread.node.tier].success():
                self._broken -= {self._tiers[thread.node.tier].name}
            self._answered(thread)

    def failed(self, threads: list[Thread]) -> None:
        """Their calls were not answered: they ask the next larger tier that works."""
        self._troubled = True
        for thread in threads:
            node = thread.node
            if self._breakers[node.tier].failure(self._clock.now):
                self._broken |= {self._tiers[node.tier].name}
            batch = self._ledger.again(thread.batch, node, self._broken, node.tier + 1)
            self._ask(thread, (batch, batch.paths.root, thread.rows), 0.0)

    def _probe(self) -> None:
        """Ask broken tiers again whose delay is over; what is left of them answers at once."""
        now = self._clock.now
        for tier, breaker in zip(self._tiers, self._breakers, strict=True):
            if not breaker.take_probe(now):
                continue
            if tier.alive():
                breaker.success()
                self._broken -= {tier.name}
            else:
                breaker.failure(now)

    # --- execute

    def _execute(self, thread: Thread, first: int, end: int) -> None:
        arrived = end - first
        queue = self._in_flight
        rows = min(arrived, self._limit - queue)
        if arrived >= self._most and queue > 0:
            queue += self._most
        now = self._clock.now
        if self._broken:
            self._probe()
        gear = self._gears.observe(now, arrived, queue, self._broken)
        info = gear.info
        if info is not self._gear:
            self._gear = info
            self.gears.append((now, self._ledger.gear_number(gear)))
        span = self._ledger.take(first + rows, end)
        self._in_flight += rows
        cost_s = self._batch_s + self._request_s * arrived
        if info.min_queue > 1:
            if rows:
                self._hold(span, rows, info.min_queue, now + info.max_wait_ms / 1000.0)
        elif self._held:
            self._release()
        if info.min_queue > 1 or not rows:
            thread.process.run(cost_s, self._return, thread)
            return
        batch = self._ledger.begin((span,), gear, self._broken)
        root = batch.paths.root
        if root.tier >= 0 and self._tiers[root.wanted].planned_s > self._inline_s:
            thread.handed.append((batch, root, rows))
            thread.process.run(cost_s, self._return, thread)
        elif root.tier < 0 or self._tiers[root.tier].model is None:
            self._inline(thread, [(batch, root, rows)], cost_s)
        else:
            self._ask(thread, (batch, root, rows), cost_s)

    def _inline(self, thread: Thread, waiting: list[Group], seconds: float) -> None:
        """Take all quick steps in one go; hand off and answer at their end, when `execute` returns."""
        while waiting:
            batch, node, rows = waiting.pop()
            if node.tier >= 0:
                seconds += self._step(node.tier, rows)
            if node.ending >= 0 and batch.counts[node.ending]:
                thread.ending.append((batch, node.ending))
            for further in batch.onward(node):
                (waiting if self._is_quick(further) else thread.handed).append(further)
        thread.process.run(seconds, self._return, thread)

    def _return(self, thread: Thread) -> None:
        rows = rows_of(thread.ending) if thread.ending else 0
        self._in_flight -= rows
        if thread.handed:
            handed, thread.handed = thread.handed, []
            for group in handed:
                self._hand_off(thread.process, group)
        self._answers.take(rows, self._taken, thread)

    def _taken(self, thread: Thread) -> None:
        """Triton has the answers, and may run `execute` again."""
        if thread.ending:
            ending, thread.ending = thread.ending, []
            self._answers.leave(ending, rows_of(ending))
        self._free.append(thread.process)
        self.wake()

    # --- the pool

    def _hand_off(self, process: Process, group: Group) -> None:
        if process.idle:
            self._ask(process.idle.pop(), group, 0.0)
        else:
            process.tasks.append(group)

    def _go_on(self, thread: Thread, onward: Sequence[Group]) -> None:
        """A thread of the pool goes on with one group; others need not wait for it."""
        process = thread.process
        if onward:
            for group in onward[1:]:
                self._hand_off(process, group)
            self._ask(thread, onward[0], 0.0)
        elif process.tasks:
            self._ask(thread, process.tasks.popleft(), 0.0)
        else:
            process.idle.append(thread)

    def _sent(self, thread: Thread) -> None:
        """Late answers are on their way."""
        rows = thread.batch.counts[thread.node.ending]
        self._in_flight -= rows
        self._answers.take_late(rows, self._taken_late, thread)

    def _taken_late(self, thread: Thread) -> None:
        batch, node = thread.batch, thread.node
        self._answers.leave(((batch, node.ending),), batch.counts[node.ending])
        self._go_on(thread, batch.onward(node))

    # --- both

    def _ask(self, thread: Thread, group: Group, before_s: float) -> None:
        """Ask a tier after so much work of the router."""
        thread.batch, node, rows = group
        thread.node, thread.rows = node, rows
        if node.tier < 0:
            thread.process.run(before_s, self._answered, thread)
            return
        tier = self._tiers[node.tier]
        if tier.model is None:
            thread.process.run(before_s + self._step(node.tier, rows), self._answered, thread)
            return
        tier.rows += rows
        thread.process.run(before_s + self._call_s, self._call, thread)

    def _call(self, thread: Thread) -> None:
        """Triton passes a call on to the queue of its model."""
        tier = self._tiers[thread.node.tier]
        assert tier.model is not None
        if tier.ask_core > 0.0:
            self._device.start(tier.ask_s, tier.ask_core, tier.model.put, thread)
        elif tier.ask_s > 0.0:
            self._clock.at(self._clock.now + tier.ask_s, tier.model.put, thread)
        else:
            tier.model.put(thread)

    def _answered(self, thread: Thread) -> None:
        batch, node = thread.batch, thread.node
        ending = node.ending
        late = batch.counts[ending] if ending >= 0 else 0
        if thread.execute:
            waiting: list[Group] = []
            for group in batch.onward(node):
                (waiting if self._is_quick(group) else thread.handed).append(group)
            if late:
                thread.ending.append((batch, ending))
            if waiting:
                self._inline(thread, waiting, 0.0)
            else:
                self._return(thread)
        elif late:
            thread.process.run(self._late_s * late, self._sent, thread)
        else:
            self._go_on(thread, batch.onward(node))

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
        self._hand_off(self._processes[0], (batch, batch.paths.root, rows))
