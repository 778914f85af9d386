"""What one row costs the router's host beside the tiers, and one process of the router.

Of a process of the router one batch takes, one after another:

    own      what `execute` computes, a quick first tier that it runs itself included
    waits    what `execute` waits for before it takes the next batch: a quick first tier that it calls, and
             Triton taking the answers
    pool     what the other threads compute; Python lets one thread at a time, so not while `execute` does
    threads  how long the pool's threads are with what was handed to them, calls and tiers included, over
             the number of threads

The pool computes while `execute` waits, and the longer of both counts. What begins anywhere in a longer wait
goes on after it for shorter^2 / (2 longer) on the average, what begins with it does not: half of that is
taken. So it is with the threads beside all that. The simulator has all this in detail
(`tests/test_row_cost.py` holds both together).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import fsum
from typing import NamedTuple

from cascade_tools.artifacts import INLINE_ENTRY_MS, Profile, RouterCost, RouterLimits
from cascade_tools.planning.curves import latency_at
from cascade_tools.runtime.router import HAND_OFF_MS
from cascade_tools.stages.ladder import further_row_ms
from cascade_tools.stages.search import planned_point

THREADS: int = RouterLimits.model_fields["escalation_threads"].default


class RowCost(NamedTuple):
    """ms that one row costs the router's host.

    Attributes:
        cpu_ms: of its cores, in all.
        serial_ms: of one process of the router, one after another.
        alone_ms: of its cores, where clients ask the last tier directly.
    """

    cpu_ms: float
    serial_ms: float = 0.0
    alone_ms: float = 0.0


def row_cost(
    profile: Profile,
    reach: Mapping[str, float],
    largest_batch: int,
    kinds: Collection[str],
    *,
    may_be_inline: bool,
    skips: bool,
) -> RowCost:
    """What a row costs that takes the way of the average row.

    Where the router's processes bind, rows wait before them, so that their batches are full; else they are
    taken to be as large as the planned ones of the first tier.

    Args:
        profile: of the tiers and the router.
        reach: share of all rows that each tier sees, smallest tier first.
        largest_batch: rows of a batch of the router at most.
        kinds: types of the devices that there are.
        may_be_inline: the router may run quick tiers itself; false where they may stand on a GPU.
        skips: whether rows may pass over a tier.
    """
    seen = {tier: share for tier, share in reach.items() if share > 0.0}
    inline = {tier: may_be_inline and profile.runs_inline(tier) for tier in seen}
    router = profile.router
    if router is None or not seen:
        return RowCost(
            fsum(share * profile.ask_cost(tier, inline[tier]).cpu_ms for tier, share in seen.items())
        )
    planned_rows = float(planned_point(profile, next(iter(seen)), largest_batch).batch)
    alone_rows = float(planned_point(profile, list(reach)[-1], largest_batch).batch)
    full = _Batch(profile, router, seen, inline, kinds, skips, float(largest_batch))
    return RowCost(
        cpu_ms=_Batch(profile, router, seen, inline, kinds, skips, planned_rows).cpu_ms(),
        serial_ms=full.serial_ms(),
        # What no process of the router does is the front end's.
        alone_ms=router.server.per_row_ms(alone_rows, 0.0, 0.0),
    )


@dataclass(frozen=True)
class _Batch:
    """A batch of the router; everything per row of it.

    Attributes:
        seen: share of all rows that each tier sees, without those that see none.
        inline: which tiers the router runs itself.
        kinds: types of the devices that there are.
        skips: whether rows may pass over a tier.
        rows: of the batch.
    """

    profile: Profile
    router: RouterCost
    seen: Mapping[str, float]
    inline: Mapping[str, bool]
    kinds: Collection[str]
    skips: bool
    rows: float

    def cpu_ms(self) -> float:
        """On the host's cores, beside the tiers."""
        steps_ms = self._steps_ms([tier for tier in self.seen if self.inline[tier]])
        return steps_ms + self.router.cpu_ms_per_row(self.rows, self._calls(), self._late())

    def serial_ms(self) -> float:
        """Of one process of the router, one after another."""
        here = self._in_execute()
        router, server = self.router.router, self.router.server
        called = fsum(groups_per_row(self.seen[tier], self.rows) for tier in here if not self.inline[tier])
        own_ms = router.per_row_ms(self.rows, called, 0.0) + self._run_ms(here)
        turns_ms = router.per_row_ms(self.rows, self._calls(), self._late()) + self._run_ms(list(self.seen))
        answered_ms = fsum(self._tier_ms(tier) for tier in here if not self.inline[tier])
        taken_ms = server.batch_ms / self.rows + (1.0 - self._late()) * server.request_ms
        waits_ms, pool_ms = called * server.call_ms + answered_ms + taken_ms, turns_ms - own_ms
        return _beside(own_ms + _beside(waits_ms, pool_ms), self._threads_ms(here))

    def _threads_ms(self, here: Sequence[str]) -> float:
        """How long the threads are with what is handed to them."""
        handed = [tier for tier in self.seen if tier not in here]
        calls = fsum(groups_per_row(self.seen[tier], self.rows) for tier in handed if not self.inline[tier])
        tiers_ms = fsum(self._tier_ms(tier) for tier in handed)
        return (calls * self.router.server.call_ms + tiers_ms) / THREADS

    def _in_execute(self) -> list[str]:
        """The tiers that `execute` waits for, by the router's own rules (`runtime/router.py`)."""
        entry = next(iter(self.seen))
        if self.profile.at(entry, 1).latency_p50_ms > INLINE_ENTRY_MS:
            return []  # all is handed off
        return [tier for tier in self.seen if tier == entry or self._is_quick(tier)]

    def _is_quick(self, tier: str) -> bool:
        points, further = self.profile.points_of(tier), max(0.0, self.rows * self.seen[tier] - 1.0)
        planned_ms = points[0].latency_p50_ms + further * further_row_ms(points)
        return self.inline[tier] and planned_ms <= HAND_OFF_MS

    def _late(self) -> float:
        here = self._in_execute()
        return late_share([share for tier, share in self.seen.items() if tier not in here], skips=self.skips)

    def _calls(self) -> float:
        return fsum(groups_per_row(self.seen[tier], self.rows) for tier in self.seen if not self.inline[tier])

    def _run_ms(self, tiers: Sequence[str]) -> float:
        """Of the router, for those of the tiers that it runs itself."""
        mine = [tier for tier in tiers if self.inline[tier]]
        return self._steps_ms(mine) + fsum(self._tier_ms(tier) for tier in mine)

    def _steps_ms(self, tiers: Sequence[str]) -> float:
        """What running such tiers takes beside their own time."""
        return fsum(
            groups_per_row(self.seen[tier], self.rows) * self.profile.ask_cost(tier, True).cpu_ms
            for tier in tiers
        )

    def _tier_ms(self, tier: str) -> float:
        """Of a tier's own time, on the device type where it is the quickest; of any, if none is profiled."""
        share = self.seen[tier]
        rows = max(1, round(self.rows * share))
        points = [found for kind in self.kinds if (found := self.profile.points_of(tier, kind))]
        points = points or [self.profile.points_of(tier)]
        return share * min(latency_at(found, rows) for found in points) / rows


def _beside(one_ms: float, other_ms: float) -> float:
    """What is done at the same time, and gets into each other's way."""
    longer_ms, shorter_ms = max(one_ms, other_ms), min(one_ms, other_ms)
    return longer_ms + (shorter_ms**2 / (4.0 * longer_ms) if longer_ms > 0.0 else 0.0)


def groups_per_row(share: float, batch_rows: float) -> float:
    """Of how many groups of rows that go to a tier together a row is, if that tier sees such a share.

    A batch of the router makes one group of the rows that go to a tier, and none where no row does.
    """
    return float(1.0 - (1.0 - share) ** batch_rows) / batch_rows


def late_share(reach: Sequence[float], *, skips: bool) -> float:
    """Share of rows that are answered late.

    Args:
        reach: of the tiers that `execute` does not wait for.
        skips: whether rows may pass over a tier. Without skips each tier sees some of the rows of the one
            before; with them no more is known than that it is not above the sum.
    """
    return min(1.0, fsum(reach)) if skips else max(reach, default=0.0)
