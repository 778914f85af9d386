"""The cascade itself: which rows go where, and what happens when something breaks.

    execute ----> admit ----> first tier, whole batch ----> accepted rows: returned at once
                                     |
                                     '--> the rest: thread pool --> next tier --> accepted: answered
                                                         ^                |
                                                         '---- the rest --'

Early answers never wait for hard rows. Nothing here knows Triton: `model.py` passes in how a tier is
called and how a late answer is sent.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from . import metrics as m
from .batch import DEADLINE, DEGRADED, FALLBACK, Batch, RowNumbers, Ticket, TierAnswer
from .collector import Collector, Held, in_batches
from .counts import Counts, counts_alone
from .gears import Gear, Gears
from .local import LocalTier
from .plan import Plan, PlanError, PlanFile, TierInfo
from .policy import ANSWER, Policy, route
from .shadow import Shadow, ShadowRows
from .tiers import CallTier, Inputs, Tiers

HOUSEKEEPING_PERIOD_S = 0.25
CANCEL_CHECK_MS = 1.0
HAND_OFF_MS = 0.3  # what a thread of the pool and a late answer cost
FLAGGED = ((m.DEGRADED, DEGRADED), (m.DEADLINES, DEADLINE), (m.FALLBACKS, FALLBACK))

log = logging.getLogger("cascade")


@dataclass(frozen=True)
class _Group:
    """Rows of one batch on their way to the same tier, with copies of their inputs."""

    batch: Batch
    plan: Plan
    gear: Gear
    level: int
    rows: RowNumbers
    inputs: Inputs

    @property
    def policy(self) -> Policy:
        return self.gear.info.policy

    @property
    def info(self) -> TierInfo:
        """The tier that the rows are on their way to."""
        return self.plan.ladder[self.plan.ladder_index(self.policy.tiers[self.level])]

    def part(self, keep: npt.NDArray[np.bool_], level: int) -> _Group:
        inputs = {name: values[keep] for name, values in self.inputs.items()}
        return _Group(self.batch, self.plan, self.gear, level, self.rows[keep], inputs)


class Router:
    """Routes batches; one per Triton instance.

    Args:
        plan_file: polled every 250 ms; the first plan must be legal.
        call_tier: how a tier is asked.
        send: sends the late answer of a ticket; must not raise.
        metrics: where counts go.
        shadow: shows a sample of the answered rows to the last tier; None for none.
        counts: shared with the other instances of this router; None for the only one.
        open_local: the tiers that run in this process, by model; asked once.

    Raises:
        PlanError: the first plan is missing or illegal.
    """

    def __init__(
        self,
        plan_file: PlanFile,
        call_tier: CallTier,
        send: Callable[[Batch, Ticket], None],
        metrics: m.Metrics,
        shadow: Shadow | None = None,
        counts: Counts | None = None,
        open_local: Callable[[Plan], Mapping[str, LocalTier]] = lambda plan: {},
    ) -> None:
        plan = plan_file.poll()
        if plan is None:
            raise PlanError("no gear plan")
        self._plan_file = plan_file
        self._tiers = Tiers(call_tier, open_local(plan), metrics)
        self._send = send
        self._metrics = metrics
        self._shadow = shadow
        self._lock = threading.Lock()
        self._counts = counts or counts_alone()
        self._adopt(plan)
        self._pool = ThreadPoolExecutor(plan.limits.escalation_threads, "escalate")
        self._collector = Collector(self._release)
        self._closing = threading.Event()
        self._housekeeper = threading.Thread(target=self._keep_house, name="housekeeping")
        self._housekeeper.start()

    @property
    def plan(self) -> Plan:
        """The plan that new batches begin with."""
        return self._plan

    def admit(self, rows: int) -> str:
        """Count rows in; an answer other than "" is the reason of a refusal."""
        with self._lock:
            limit = self._plan.limits.rows_in_flight
            if self._counts.in_flight + rows <= limit:
                self._counts.admit(rows)
                return ""
        self._metrics.add(m.REJECTED, rows)
        return (
            f"cascade {self._plan.cascade}: {limit} rows are in flight, the limit of this router; "
            "send again later"
        )

    def execute(self, tickets: list[Ticket], inputs: Inputs, arrived: int) -> tuple[Batch, list[Ticket]]:
        """Ask the first tier and hand the doubtful rows on.

        Args:
            tickets: the admitted requests.
            inputs: their rows, joined in the same order; may be views that die when this returns.
            arrived: rows that came in, refused ones included.

        Returns:
            The batch and the tickets that are already complete; all others are sent later.
        """
        now = time.monotonic()
        for ticket in tickets:
            ticket.arrived_s = now
        rows = sum(ticket.rows for ticket in tickets)
        with self._lock:
            plan = self._plan
            # What waited before these rows; a full batch says that more waits in Triton.
            queue = self._counts.in_flight - rows
            if arrived >= plan.limits.max_batch_size and queue > 0:
                queue += plan.limits.max_batch_size
            gear = self._gears.observe(now, self._counts.arrive(arrived), queue, self._tiers.broken)
        if rows and gear.info.min_queue > 1:
            self._hold(tickets, inputs, rows, plan, gear)
            return Batch([], plan.tokens), []
        if gear.info.min_queue == 1:
            self._collector.let_go()
        everything = self._begin(tickets, inputs, plan, gear)
        completed: list[Ticket] = []
        if rows:
            self._start(everything, completed)
        return everything.batch, completed

    def close(self) -> None:
        """Answer everything that was handed off, then stop the threads."""
        self._collector.close()
        self._pool.shutdown(wait=True)
        if self._shadow is not None:
            self._shadow.close()
        self._closing.set()
        self._housekeeper.join()
        self._tiers.close()
        self._metrics.close()

    def _start(self, everything: _Group, completed: list[Ticket]) -> None:
        """Take the steps that are quick in this thread, and hand all others off."""
        if everything.info.p50_ms > everything.plan.limits.inline_entry_ms:
            self._hand_off(everything.part(np.ones(len(everything.rows), bool), 0))
            return
        try:
            waiting = [everything]
            while waiting:
                for group in self._advance(waiting.pop(), completed):
                    if self._is_quick(group):
                        waiting.append(group)
                    else:
                        self._hand_off(group)
        except Exception as error:
            log.exception("routing failed")
            self._settle(everything, completed, error=f"cascade {everything.plan.cascade}: {error!r}")

    def _begin(self, tickets: list[Ticket], inputs: Inputs, plan: Plan, gear: Gear) -> _Group:
        batch = Batch(tickets, plan.tokens, FALLBACK if gear.is_fallback else 0)
        return _Group(batch, plan, gear, 0, np.arange(batch.rows), inputs)

    def _hold(self, tickets: list[Ticket], inputs: Inputs, rows: int, plan: Plan, gear: Gear) -> None:
        """Let rows wait for company, but never so long that a deadline is missed by it."""
        release_at_s = tickets[0].arrived_s + gear.info.max_wait_ms / 1000.0
        first = plan.ladder[plan.ladder_index(gear.info.policy.tiers[0])]
        for ticket in tickets:
            if ticket.deadline_s is not None:
                release_at_s = min(release_at_s, ticket.deadline_s - first.slow_ms(rows) / 1000.0)
        copies = {name: values.copy() for name, values in inputs.items()}
        self._collector.add(Held(tickets, copies, rows), gear.info.min_queue, release_at_s)

    def _release(self, held: list[Held]) -> None:
        """Start what was held, in batches that the tiers take."""
        with self._lock:
            plan, gear = self._plan, self._gears.current(self._tiers.broken)
        for part in in_batches(held, plan.limits.max_batch_size):
            tickets = [ticket for one in part for ticket in one.tickets]
            try:
                inputs = join([one.inputs for one in part], plan.inputs)
                self._hand_off(self._begin(tickets, inputs, plan, gear))
            except Exception as error:
                log.exception("held rows could not be joined")
                completed: list[Ticket] = []
                lost = self._begin(tickets, {}, plan, gear)
                self._settle(lost, completed, error=f"cascade {plan.cascade}: {error!r}")
                self._send_all(lost.batch, completed)

    def _is_quick(self, group: _Group) -> bool:
        """Asking the next tier here takes less than handing the rows to a thread would."""
        info = group.info
        planned_ms = info.p50_ms + (len(group.rows) - 1) * info.further_row_ms
        return planned_ms <= HAND_OFF_MS and self._tiers.is_local(info)

    def _hand_off(self, group: _Group) -> None:
        try:
            self._pool.submit(self._escalate, group)
        except RuntimeError:  # closing: no other thread takes it any more
            self._escalate(group)

    def _escalate(self, group: _Group) -> None:
        completed: list[Ticket] = []
        try:
            waiting = [group]
            while waiting:
                onward = self._advance(waiting.pop(), completed)
                self._send_all(group.batch, completed)
                # This thread goes on with one group; others need not wait for it.
                for other in onward[1:]:
                    self._hand_off(other)
                waiting += onward[:1]
        except Exception as error:
            log.exception("routing failed")
            text = f"cascade {group.plan.cascade}: {error!r}"
            self._settle(group, completed, error=text)
        finally:
            self._send_all(group.batch, completed)

    def _send_all(self, batch: Batch, completed: list[Ticket]) -> None:
        while completed:
            self._send(batch, completed.pop())

    def _advance(self, group: _Group, completed: list[Ticket]) -> list[_Group]:
        """One step: ask the group's tier, settle what it answers, return the groups that go on."""
        group = self._drop_the_late(group, completed)
        if not group.rows.size:
            return []
        wanted = group.plan.ladder_index(group.policy.tiers[group.level])
        answered_by, answer, degraded = self._tiers.ask(group.plan, wanted, group.inputs)
        if degraded:
            group.batch.mark(group.rows, DEGRADED)
        if answer is None:
            self._settle_without_answer(group, completed)
            return []
        group.batch.record(group.rows, answered_by, answer)
        tier = group.plan.ladder[answered_by].tier
        if tier not in group.policy.tiers:  # it stands in for one that is, and so answers for good
            self._settle(group, completed)
            return []
        level = group.policy.tiers.index(tier)
        self._metrics.observe(
            m.CONFIDENCE,
            answer.confidence.tolist(),
            m.CONFIDENCE_EDGES,
            tier=tier,
        )
        goal = route(group.policy.bands[level], answer.confidence)
        accepted = goal == ANSWER
        self._show(group, answered_by, answer, accepted)
        if accepted.all():
            self._settle(group, completed)
            return []
        if accepted.any():
            self._settle(group.part(accepted, level), completed)
        onward = []
        for number in range(level + 1, len(group.policy.tiers)):
            chosen = goal == number
            if chosen.any():
                part = group.part(chosen, number)
                self._metrics.add(
                    m.ESCALATIONS,
                    len(part.rows),
                    source=group.policy.tiers[level],
                    target=group.policy.tiers[number],
                )
                onward.append(part)
        return onward

    def _show(
        self, group: _Group, answered_by: int, answer: TierAnswer, accepted: npt.NDArray[np.bool_]
    ) -> None:
        """Offer a sample of the accepted rows to be shown to the last tier."""
        ladder, limits = group.plan.ladder, group.plan.limits
        if self._shadow is None or group.gear.is_fallback or answered_by == len(ladder) - 1:
            return
        picked = self._shadow.sample(accepted, limits.shadow_share)
        if not picked.any():
            return
        info = ladder[answered_by]
        tier = info.tier
        if self._counts.in_flight > limits.max_batch_size:
            self._shadow.drop(tier, int(picked.sum()))
            return
        inputs = {name: values[picked] for name, values in group.inputs.items()}
        answer = TierAnswer(answer.label[picked], answer.confidence[picked], None)
        self._shadow.offer(
            ShadowRows(
                tier,
                info.tolerated,
                group.plan.alarm_at,
                group.gear.number,
                ladder[-1],
                inputs,
                answer,
                limits.shadow_share,
            )
        )

    def _drop_the_late(self, group: _Group, completed: list[Ticket]) -> _Group:
        """Settle rows whose client has gone, or whose deadline the next tier would miss."""
        batch = group.batch
        info = group.info
        # Asking whether a client has gone is a round trip to the server: not for a cheap tier.
        ask_cancelled = group.level > 0 and info.p50_ms >= CANCEL_CHECK_MS
        if not ask_cancelled and not batch.has_deadline:
            return group
        owner = batch.owner[group.rows]
        late = np.zeros(len(owner), bool)
        ready_s = time.monotonic() + info.slow_ms(len(owner)) / 1000.0
        for number in set(owner.tolist()):
            ticket = batch.tickets[number]
            if ask_cancelled and ticket.is_cancelled():
                ticket.cancelled = True
                late |= owner == number
            elif ticket.deadline_s is not None and ready_s > ticket.deadline_s:
                late |= (owner == number) & (batch.tier[group.rows] >= 0)
        if not late.any():
            return group
        self._settle(group.part(late, group.level), completed, flag=DEADLINE)
        return group.part(~late, group.level)

    def _settle_without_answer(self, group: _Group, completed: list[Ticket]) -> None:
        has_answer = group.batch.tier[group.rows] >= 0
        self._settle(group.part(has_answer, group.level), completed, flag=DEGRADED)
        tier = group.policy.tiers[group.level]
        text = f"cascade {group.plan.cascade}: tier {tier} and all larger ones did not answer"
        self._settle(group.part(~has_answer, group.level), completed, error=text, retryable=True)

    def _settle(
        self,
        group: _Group,
        completed: list[Ticket],
        flag: int = 0,
        error: str = "",
        *,
        retryable: bool = False,
    ) -> None:
        """Close the group's rows; tickets that this completes join `completed` before anything else."""
        if not group.rows.size:
            return
        done = group.batch.settle(group.rows, flag, error, retryable=retryable)
        completed += done
        if done:
            self._count(group, done)

    def _count(self, group: _Group, done: list[Ticket]) -> None:
        """Counts of finished requests: rows by answering tier, flags, latency by slowest tier."""
        batch, now = group.batch, time.monotonic()
        with self._lock:
            self._counts.admit(-sum(ticket.rows for ticket in done))
        names = [info.tier for info in group.plan.ladder]
        for ticket in done:
            if ticket.error or ticket.cancelled:
                self._metrics.add(m.FAILED, ticket.rows)
                continue
            mine = slice(ticket.first, ticket.first + ticket.rows)
            tiers, flags = batch.tier[mine].tolist(), batch.flags[mine].tolist()
            for tier in tiers:
                self._metrics.add(m.ANSWERS, tier=names[tier])
            for family, flag in FLAGGED:
                flagged = sum(1 for value in flags if value & flag)
                if flagged:
                    self._metrics.add(family, flagged)
            elapsed_ms = (now - ticket.arrived_s) * 1000.0
            self._metrics.observe(m.LATENCY, [elapsed_ms], m.LATENCY_EDGES_MS, tier=names[max(tiers)])

    def _adopt(self, plan: Plan) -> None:
        with self._lock:
            self._plan, self._gears = plan, Gears(plan)

    def _keep_house(self) -> None:
        """Take over a new plan and write the metrics out, until the router closes."""
        while not self._closing.wait(HOUSEKEEPING_PERIOD_S):
            try:
                plan = self._plan_file.poll()
                if plan is not None:
                    if plan.models != self._plan.models:
                        raise PlanError("it is for other models than are loaded; restart the server")
                    self._adopt(plan)
                    log.warning("took over gear plan %s", plan.digest[:12])
            except PlanError as error:
                self._metrics.add(m.PLAN_REFUSED)
                log.error("refused a gear plan, the old one stays: %s", error)
            except Exception:
                log.exception("the gear plan could not be looked at")
            try:
                self._tiers.probe(time.monotonic())
                gear = self._gears.current(self._tiers.broken)
                self._metrics.set(m.GEAR, -1 if gear.is_fallback else gear.number)
                self._metrics.flush()
            except Exception:
                log.exception("metrics could not be written")


def join(parts: list[Inputs], names: tuple[str, ...]) -> Inputs:
    """Join the rows of several requests; a single one is passed on without a copy."""
    if len(parts) == 1:
        return {name: parts[0][name] for name in names}
    return {name: np.concatenate([part[name] for part in parts]) for name in names}
