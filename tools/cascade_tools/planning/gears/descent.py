"""One descent: from the best policy everywhere down to gears that hold, driven by errors.

    SP2 assign     which policy serves which bin of rates     no assignment is left: the descent ends
    SP3 scenarios  one placement for all bins                 an error: SP2 refuses a policy to the named bin
    SP4 batching   the batch trigger of every bin             an error: SP3 places anew, then SP2 refuses

A refusal is for good, so there are at most bins x policies of them. What a bin is refused, every bin of a
higher rate is, too: more rows on the same instances are not easier.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from cascade_tools.errors import Infeasible
from cascade_tools.planning.gears.assign import assign
from cascade_tools.planning.gears.batching import Held, hold
from cascade_tools.planning.gears.front import front
from cascade_tools.planning.gears.outcome import no_assignment, unsettled
from cascade_tools.planning.gears.question import GearQuestion
from cascade_tools.planning.gears.refused import BETTER, Assigned, Refusals, Refused, short
from cascade_tools.planning.gears.scenarios import Common, Scenario, common_placement, margins
from cascade_tools.planning.gears.worth import Worth
from cascade_tools.planning.placement.problem import IntArray


class Plan(NamedTuple):
    """A feasible one: policy of every bin, placement, what every bin gets, and the sum of the gains."""

    assigned: Assigned
    placed: Common
    held: tuple[Held, ...]
    value: float


@dataclass(frozen=True)
class Descent:
    """How one ended.

    Attributes:
        plan: None where there is none for `cause`.
        refused: policies to bins, on the way.
        left_out: bins to which every policy was.
        count: the last placement that was sustained.
    """

    plan: Plan | None
    cause: Infeasible | None
    refused: Refusals
    left_out: int
    count: IntArray | None


class Descents:
    """All descents of one question; they share what was placed, simulated and learnt."""

    def __init__(self, question: GearQuestion) -> None:
        self.question = question
        self.candidates = front(question)
        self.worth = Worth(question, self.candidates)
        self.rounds = 0
        self._placed: dict[frozenset[Scenario], Common | Infeasible] = {}
        self._held: dict[tuple[bytes, int, int], Held] = {}
        self.hopeless = self._never()

    def descend(self, forced: Mapping[int, int], fixed: IntArray | None) -> Descent:
        """From the best policy everywhere down to a plan that holds.

        Args:
            forced: policy by bin that is not given up.
            fixed: the placement, where only the gears are to be found.
        """
        refused = Refused(self.question, self.candidates, self.worth, dict(self.hopeless), forced)
        best: Plan | None = None
        cause: Infeasible | None = None
        seen: set[tuple[Assigned, bytes]] = set()
        count, last = fixed, None
        for _ in range(self._most_rounds()):
            self.rounds += 1
            try:
                assigned = assign(self.worth.gain(), refused.allowed(), self.worth.side(), forced)
            except Infeasible as error:
                cause = error
                break
            if assigned is None:
                break
            plan = self._step(assigned, count, fixed is not None, refused)
            if plan is None:
                continue
            last = count = plan.placed.count
            value, kept = self.worth.of(assigned)
            if kept and (best is None or value > best.value):
                best = plan._replace(value=value)
            if not self.worth.on_a_mean or (assigned, count.tobytes()) in seen:
                break
            seen.add((assigned, count.tobytes()))
        else:
            cause = unsettled(self.question, self._most_rounds())
        if best is None and cause is None:
            cause = no_assignment(self.question, self.candidates, self.worth, refused.causes)
        return Descent(
            best,
            None if best else cause,
            refused.causes,
            refused.left_out(),
            last if best is None else best.placed.count,
        )

    def _most_rounds(self) -> int:
        """Every round refuses a pair, or ends; where the SLO is on a mean it may teach as often, too."""
        pairs = len(self.question.rates.shares) * len(self.candidates)
        return (2 if self.worth.on_a_mean else 1) * pairs + 1

    def placements(self) -> list[IntArray]:
        """Those that were found, in the order in which they were."""
        return [placed.count for placed in self._placed.values() if isinstance(placed, Common)]

    def _step(
        self,
        assigned: Assigned,
        count: IntArray | None,
        fixed: bool,
        refused: Refused,
    ) -> Plan | None:
        """Once through SP3 and SP4; an error is added to what is refused."""
        scenarios, is_new = self._scenarios(assigned), fixed
        placed: Common | Infeasible | None = self._keep(count, scenarios)
        if not fixed and not self._sustains(placed):
            placed, is_new = self._place(scenarios), True
        if not isinstance(placed, Common):
            assert placed is not None
            refused.misfit(assigned, placed)
            return None
        if not self._sustains(placed):
            refused.load(assigned, placed, fixed)
            return None
        held = self._hold(assigned, placed.count)
        if any(one.wrong for one in held) and not is_new:
            again = self._place(scenarios)
            if isinstance(again, Common) and self._sustains(again):
                placed, held = again, self._hold(assigned, again.count)
        if any(one.wrong for one in held):
            refused.latency(assigned, held, fixed)
            return None
        for number, one in enumerate(held):
            self.worth.learn(number, assigned[number], one.forecast)
        return Plan(assigned, placed, held, 0.0)

    def _never(self) -> Refusals:
        """What no placement whatever could do, even if it served nothing else."""
        refused: Refusals = {}
        share = self.question.target_busy_share
        for number, rate in enumerate(self.question.rates.top_rps.tolist()):
            for policy, one in enumerate(self.candidates):
                if one.capacity_rps * share < rate:
                    refused[number, policy] = short(
                        f"at {rate:.0f} rows/s: {' > '.join(one.policy.table.tiers)} sustains at most "
                        f"{one.capacity_rps * share:.0f} at a busy share of {share:g}",
                        "rate",
                    )
        return refused

    def _scenarios(self, assigned: Assigned) -> list[Scenario]:
        top = self.question.rates.top_rps.tolist()
        return [Scenario(top[b], self.candidates[k].reach) for b, k in enumerate(assigned)]

    def _sustains(self, placed: Common | Infeasible | None) -> bool:
        if not isinstance(placed, Common):
            return False
        return float(placed.margins.min()) * self.question.target_busy_share >= 1.0 - BETTER

    def _keep(self, count: IntArray | None, scenarios: list[Scenario]) -> Common | None:
        if count is None:
            return None
        return Common(count, margins(self.question.problem, count, scenarios))

    def _place(self, scenarios: list[Scenario]) -> Common | Infeasible:
        key = frozenset(scenarios)
        if key not in self._placed:
            try:
                found = common_placement(self.question.problem, scenarios, self.question.time_limit_s)
            except Infeasible as error:
                self._placed[key] = error
            else:
                self._placed[key] = found
        known = self._placed[key]
        if isinstance(known, Infeasible):
            return known
        return Common(known.count, margins(self.question.problem, known.count, scenarios))

    def _hold(self, assigned: Assigned, count: IntArray) -> tuple[Held, ...]:
        held = []
        for number, policy in enumerate(assigned):
            key = (count.tobytes(), number, policy)
            if key not in self._held:
                self._held[key] = hold(self.question, count, self.candidates[policy], number)
            held.append(self._held[key])
        return tuple(held)
