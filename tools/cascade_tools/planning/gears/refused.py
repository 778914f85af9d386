"""Which policy is refused to which bin of rates, and why: the errors of a descent.

What a bin is refused, every bin of a higher rate is, too: more rows on the same instances are not easier.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cascade_tools.errors import Infeasible
from cascade_tools.planning.gears.batching import Held
from cascade_tools.planning.gears.front import Candidate
from cascade_tools.planning.gears.question import GearQuestion
from cascade_tools.planning.gears.scenarios import Common
from cascade_tools.planning.gears.worth import Worth

TIGHT = 1.01
BETTER = 1e-9
AT_ONCE = 8  # of so many bins that are refused a policy, one; with many bins the rounds stay few

Assigned = tuple[int, ...]
Refusals = dict[tuple[int, int], Infeasible]


@dataclass
class Refused:
    """The refusals of one descent.

    Attributes:
        causes: by bin and policy; grows.
        forced: policy by bin that is not given up as long as another bin can give up something.
    """

    question: GearQuestion
    candidates: Sequence[Candidate]
    worth: Worth
    causes: Refusals
    forced: Mapping[int, int]

    def allowed(self) -> npt.NDArray[np.bool_]:
        """What was not refused, [bins, policies]."""
        allowed = np.ones((len(self.question.rates.shares), len(self.candidates)), bool)
        for pair in self.causes:
            allowed[pair] = False
        return allowed

    def left_out(self) -> int:
        """Bins to which every policy was refused."""
        return int((~self.allowed()).all(axis=1).sum())

    def misfit(self, assigned: Assigned, error: Infeasible) -> None:
        """No placement holds the tiers of all these policies."""
        number = self._cheapest_loss(range(len(assigned)), assigned)
        self._refuse(number, assigned, {b: error for b in range(number, len(assigned))})

    def load(self, assigned: Assigned, placed: Common, fixed: bool) -> None:
        """Refuse a policy to the bins whose rate it does not sustain on this placement.

        On a fixed placement that is so for every policy that falls short. Else it is the one, of those whose
        margin is the least, that loses the least by its next policy: no placement that sustains the others
        at their rates does more for it. Of a lower bin with another policy that says nothing.
        """
        share, top = self.question.target_busy_share, self.question.rates.top_rps.tolist()
        short_of = [b for b in range(len(assigned)) if placed.margins[b] * share < 1.0 - BETTER]
        if fixed:
            short_of = [b for b in short_of if b not in self.forced] or short_of
        else:
            limit = float(placed.margins.min()) * TIGHT
            tight = [b for b in short_of if placed.margins[b] <= limit]
            short_of = [self._cheapest_loss(tight, assigned)]
        for number in short_of:
            sustained = share * float(placed.margins[number]) * top[number]
            tiers = " > ".join(self.candidates[assigned[number]].policy.table.tiers)
            causes = {
                b: short(
                    f"at {rate:.0f} rows/s: a placement that serves all gears sustains {sustained:.0f} there "
                    f"with {tiers}",
                    "rate",
                )
                for b, rate in enumerate(top)
                if b == number
                or (
                    sustained < rate * (1.0 - BETTER)
                    and (fixed or b > number or assigned[b] == assigned[number])
                )
            }
            self._refuse(number, assigned, causes)

    def latency(self, assigned: Assigned, held: Sequence[Held], fixed: bool) -> None:
        """Refuse a policy to the bins in which it does not hold, and to those above.

        On a fixed placement that is so for every policy that does not. Else another placement may hold it in
        some of them: it is refused to the highest of those with its policy; of many, to some.
        """
        wrong = [b for b, one in enumerate(held) if one.wrong]
        wrong = [b for b in wrong if b not in self.forced] or wrong
        if not fixed:
            alike = [b for b in wrong if assigned[b] == assigned[wrong[-1]]]
            wrong = alike[-max(1, len(alike) // AT_ONCE) :]
        for number in wrong:
            error = short(held[number].wrong, self.question.slo.name)
            above = {b: error for b in range(wrong[-1], len(assigned))} if number == wrong[-1] else {}
            self._refuse(number, assigned, {**above, number: error})

    def _cheapest_loss(self, bins: Iterable[int], assigned: Assigned) -> int:
        """The bin that loses the least by its next policy; of equals the highest."""
        gain, allowed = self.worth.gain(), self.allowed()

        def loss(number: int) -> tuple[float, int]:
            policy = assigned[number]
            left = gain[number, policy + 1 :][allowed[number, policy + 1 :]]
            return (float(gain[number, policy] - left.max()) if left.size else np.inf, -number)

        bins = list(bins)
        return min([b for b in bins if b not in self.forced] or bins, key=loss)

    def _refuse(self, named: int, assigned: Assigned, causes: Mapping[int, Infeasible]) -> None:
        """Refuse the policy of the named bin to it, and to others that are not forced to have it."""
        policy = assigned[named]
        for number, error in causes.items():
            if number == named or self.forced.get(number) != policy:
                self.causes.setdefault((number, policy), error)


def short(what: str, constraint: str) -> Infeasible:
    """A cause; what would help is said where it is told."""
    return Infeasible(what, constraint=constraint)
