"""One descent: from the best policy everywhere down to gears that hold, driven by errors.

    SP2 assign     which policy serves which bin of rates     no assignment is left: the descent ends
    SP3 scenarios  one placement for all bins                 an error: SP2 refuses a policy to the named bin
    SP4 batching   the batch trigger of every bin             an error: SP3 places anew, then SP2 refuses

A refusal is for good, so there are at most bins x policies of them. What a bin is refused, every bin of a
higher rate is, too: more rows on the same instances are not easier.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cascade_tools.errors import Infeasible
from cascade_tools.planning.gears.assign import assign
from cascade_tools.planning.gears.batching import Held, hold
from cascade_tools.planning.gears.front import front
from cascade_tools.planning.gears.outcome import no_assignment
from cascade_tools.planning.gears.question import GearQuestion
from cascade_tools.planning.gears.scenarios import Common, Scenario, common_placement, margins
from cascade_tools.planning.gears.worth import Worth
from cascade_tools.planning.placement.problem import IntArray

TIGHT = 1.01
BETTER = 1e-9
AT_ONCE = 8  # of so many bins that are refused a policy, one; with many bins the rounds stay few

Assigned = tuple[int, ...]
Refusals = dict[tuple[int, int], Infeasible]


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
        refused: Refusals = dict(self.hopeless)
        best: Plan | None = None
        cause: Infeasible | None = None
        seen: set[tuple[Assigned, bytes]] = set()
        count, last = fixed, None
        for _ in range(self._most_rounds()):
            self.rounds += 1
            try:
                assigned = assign(self.worth.gain(), self._allowed(refused), self.worth.side(), forced)
            except Infeasible as error:
                cause = error
                break
            if assigned is None:
                break
            plan = self._step(assigned, count, fixed is not None, refused, forced)
            if plan is None:
                continue
            last = count = plan.placed.count
            value, kept = self.worth.of(assigned)
            if kept and (best is None or value > best.value):
                best = plan._replace(value=value)
            if not self.worth.on_a_mean or (assigned, count.tobytes()) in seen:
                break
            seen.add((assigned, count.tobytes()))
        if best is None and cause is None:
            cause = no_assignment(self.question, self.candidates, self.worth, refused)
        return Descent(
            best,
            None if best else cause,
            refused,
            self._left_out(refused),
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
        refused: Refusals,
        forced: Mapping[int, int],
    ) -> Plan | None:
        """Once through SP3 and SP4; an error is added to what is refused."""
        scenarios, is_new = self._scenarios(assigned), fixed
        placed: Common | Infeasible | None = self._keep(count, scenarios)
        if not fixed and not self._sustains(placed):
            placed, is_new = self._place(scenarios), True
        if not isinstance(placed, Common):
            assert placed is not None
            self._refuse_misfit(assigned, placed, refused, forced)
            return None
        if not self._sustains(placed):
            self._refuse_load(assigned, placed, fixed, refused, forced)
            return None
        held = self._hold(assigned, placed.count)
        if any(one.wrong for one in held) and not is_new:
            again = self._place(scenarios)
            if isinstance(again, Common) and self._sustains(again):
                placed, held = again, self._hold(assigned, again.count)
        if any(one.wrong for one in held):
            self._refuse_latency(assigned, held, fixed, refused, forced)
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
                    refused[number, policy] = _short(
                        f"at {rate:.0f} rows/s: {' > '.join(one.policy.table.tiers)} sustains at most "
                        f"{one.capacity_rps * share:.0f} at a busy share of {share:g}",
                        "rate",
                    )
        return refused

    def _allowed(self, refused: Refusals) -> npt.NDArray[np.bool_]:
        allowed = np.ones((len(self.question.rates.shares), len(self.candidates)), bool)
        for pair in refused:
            allowed[pair] = False
        return allowed

    def _left_out(self, refused: Refusals) -> int:
        """Bins to which every policy was refused."""
        return int((~self._allowed(refused)).all(axis=1).sum())

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

    def _refuse_misfit(
        self, assigned: Assigned, error: Infeasible, refused: Refusals, forced: Mapping[int, int]
    ) -> None:
        """No placement holds the tiers of all these policies."""
        number = self._cheapest_loss(range(len(assigned)), assigned, refused, forced)
        self._refuse(refused, forced, number, assigned, {b: error for b in range(number, len(assigned))})

    def _refuse_load(
        self, assigned: Assigned, placed: Common, fixed: bool, refused: Refusals, forced: Mapping[int, int]
    ) -> None:
        """Refuse a policy to the bins whose rate it does not sustain on this placement.

        On a fixed placement that is so for every policy that falls short. Else it is the one, of those whose
        margin is the least, that loses the least by its next policy: no placement that sustains the others
        at their rates does more for it.
        """
        share, top = self.question.target_busy_share, self.question.rates.top_rps.tolist()
        short = [b for b in range(len(assigned)) if placed.margins[b] * share < 1.0 - BETTER]
        if fixed:
            short = [b for b in short if b not in forced] or short
        else:
            limit = float(placed.margins.min()) * TIGHT
            tight = [b for b in short if placed.margins[b] <= limit]
            short = [self._cheapest_loss(tight, assigned, refused, forced)]
        for number in short:
            sustained = share * float(placed.margins[number]) * top[number]
            tiers = " > ".join(self.candidates[assigned[number]].policy.table.tiers)
            causes = {
                b: _short(
                    f"at {rate:.0f} rows/s: a placement that serves all gears sustains {sustained:.0f} there "
                    f"with {tiers}",
                    "rate",
                )
                for b, rate in enumerate(top)
                if b == number or sustained < rate * (1.0 - BETTER)
            }
            self._refuse(refused, forced, number, assigned, causes)

    def _refuse_latency(
        self,
        assigned: Assigned,
        held: Sequence[Held],
        fixed: bool,
        refused: Refusals,
        forced: Mapping[int, int],
    ) -> None:
        """Refuse a policy to the bins in which it does not hold, and to those above.

        On a fixed placement that is so for every policy that does not. Else another placement may hold it in
        some of them: it is refused to the highest of those with its policy; of many, to some.
        """
        wrong = [b for b, one in enumerate(held) if one.wrong]
        wrong = [b for b in wrong if b not in forced] or wrong
        if not fixed:
            alike = [b for b in wrong if assigned[b] == assigned[wrong[-1]]]
            wrong = alike[-max(1, len(alike) // AT_ONCE) :]
        for number in wrong:
            error = _short(held[number].wrong, self.question.slo.name)
            above = {b: error for b in range(wrong[-1], len(assigned))} if number == wrong[-1] else {}
            self._refuse(refused, forced, number, assigned, {**above, number: error})

    def _cheapest_loss(
        self, bins: Iterable[int], assigned: Assigned, refused: Refusals, forced: Mapping[int, int]
    ) -> int:
        """The bin that loses the least by its next policy; of equals the highest."""
        gain, allowed = self.worth.gain(), self._allowed(refused)

        def loss(number: int) -> tuple[float, int]:
            policy = assigned[number]
            left = gain[number, policy + 1 :][allowed[number, policy + 1 :]]
            return (float(gain[number, policy] - left.max()) if left.size else np.inf, -number)

        bins = list(bins)
        return min([b for b in bins if b not in forced] or bins, key=loss)

    @staticmethod
    def _refuse(
        refused: Refusals,
        forced: Mapping[int, int],
        named: int,
        assigned: Assigned,
        causes: Mapping[int, Infeasible],
    ) -> None:
        """Refuse the policy of the named bin to it, and to others that are not forced to have it."""
        policy = assigned[named]
        for number, error in causes.items():
            if number == named or forced.get(number) != policy:
                refused.setdefault((number, policy), error)


def _short(what: str, constraint: str) -> Infeasible:
    return Infeasible(what, constraint=constraint)
