"""Which gear serves: that of the arrival rate, among the routes that the working tiers allow."""

from __future__ import annotations

from typing import NamedTuple

from .gearbox import GearBox
from .plan import GearInfo, Plan


class Gear(NamedTuple):
    """A gear in use; `number` is its place in the plan's gears, or in the fallback's."""

    info: GearInfo
    number: int
    is_fallback: bool


class _Set(NamedTuple):
    gears: tuple[Gear, ...]
    box: GearBox


class Gears:
    """The gears of one plan, and those of its fallbacks."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._main = self._make_set(plan.gears, is_fallback=False)
        self._fallbacks: dict[frozenset[str], _Set] = {}

    def observe(self, now: float, arrivals: int, queue: int, broken: frozenset[str]) -> Gear:
        """Take in what arrived, as `GearBox.observe` does, and choose; `broken` tiers cannot be asked."""
        chosen = self._choose(broken) if broken else self._main
        return chosen.gears[chosen.box.observe(now, arrivals, queue)]

    def current(self, broken: frozenset[str]) -> Gear:
        """The gear of the last choice."""
        chosen = self._choose(broken)
        return chosen.gears[chosen.box.gear]

    def _choose(self, broken: frozenset[str]) -> _Set:
        fallback = self._plan.fallback(broken) if broken else None
        if fallback is None:
            return self._main
        known = self._fallbacks.get(fallback.without)
        if known is None:
            known = self._fallbacks[fallback.without] = self._make_set(fallback.gears, is_fallback=True)
        return known

    def _make_set(self, gears: tuple[GearInfo, ...], *, is_fallback: bool) -> _Set:
        box = GearBox([gear.up_to_rps for gear in gears], self._plan.alpha, self._plan.window_ms)
        return _Set(tuple(Gear(info, number, is_fallback) for number, info in enumerate(gears)), box)
