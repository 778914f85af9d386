"""The gear plan as the router reads it: the one parser of `gear_plan.json`.

A plan that breaks a rule is refused with the path of the field; the router then keeps the one it has.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from .adopted import Adopted, parse_adopted
from .bet import FALSE_ALARM_RATE
from .policy import ANSWER, Bands, Policy

FORMAT = 1
LARGEST_CUT = float(np.finfo(np.float32).max)
# Smallest legal values.
LIMITS = {
    "rows_in_flight": 1,
    "max_batch_size": 1,
    "inline_entry_ms": 0,
    "escalation_threads": 1,
    "shadow_share": 0,
}
HYSTERESIS = {"alpha": 0, "window_ms": 1}
BATCH_TRIGGER = {"min_queue": 1, "max_wait_ms": 0}


class PlanError(ValueError):
    """A gear plan breaks a rule; the message begins with the path of the field."""


@dataclass(frozen=True)
class TierInfo:
    """A tier of the full ladder.

    Attributes:
        model: its Triton model, and the digest of the graph that it runs.
        p50_ms: planned time of one row, without the call.
        p99_ms: planned 99th percentile of one row, with the call.
        further_row_ms: what each further row of a batch adds to it.
        tolerated: share of its answers that the last tier need not have given; None for no plan.
        adopted: how a model without a head of its own is asked; None for an exported one.
    """

    tier: str
    model: str
    sha256: str
    p50_ms: float
    p99_ms: float
    further_row_ms: float
    tolerated: float | None
    adopted: Adopted | None = None

    def slow_ms(self, rows: int) -> float:
        """Planned 99th percentile for a batch of `rows`."""
        return self.p99_ms + max(0, rows - 1) * self.further_row_ms


@dataclass(frozen=True)
class GearInfo:
    """A policy, and the arrival rate (rows per second) up to which it is used.

    Attributes:
        min_queue: rows for which the first tier waits; 1 for none.
        max_wait_ms: how long it waits for them at most.
    """

    up_to_rps: float
    policy: Policy
    min_queue: int
    max_wait_ms: float


@dataclass(frozen=True)
class Fallback:
    """The gears that serve while the tiers of `without` are broken."""

    without: frozenset[str]
    gears: tuple[GearInfo, ...]


@dataclass(frozen=True)
class Limits:
    """Bounds of the router; see `RouterLimits` in the planning types."""

    rows_in_flight: int
    max_batch_size: int
    inline_entry_ms: float
    escalation_threads: int
    shadow_share: float


@dataclass(frozen=True)
class Plan:
    """A whole plan; `digest` names it in logs and metrics, `tokens` is labels per row, None for one."""

    cascade: str
    inputs: tuple[str, ...]
    tokens: int | None
    probabilities: bool
    ladder: tuple[TierInfo, ...]
    gears: tuple[GearInfo, ...]
    fallbacks: tuple[Fallback, ...]
    alpha: float
    window_ms: float
    limits: Limits
    digest: str

    @property
    def models(self) -> tuple[object, ...]:
        """What a running server cannot change: a plan for other models needs a restart."""
        ladder = tuple((info.tier, info.model, info.sha256) for info in self.ladder)
        return (self.cascade, self.inputs, self.tokens, self.probabilities, ladder)

    @cached_property
    def alarm_at(self) -> float:
        """The wealth of a tier's bet that is a drift; all tiers share the rate of false alarms."""
        doubted = sum(info.tolerated is not None for info in self.ladder)
        return 2.0 * doubted / FALSE_ALARM_RATE

    def fallback(self, broken: frozenset[str]) -> Fallback | None:
        """The routes that do without the broken tiers, and without as few others as possible.

        None where no gear needs a broken one, or where nothing is planned for their loss.
        """
        needed = broken & self._used
        able = [fallback for fallback in self.fallbacks if needed <= fallback.without]
        return min(able, key=lambda fallback: len(fallback.without), default=None) if needed else None

    @cached_property
    def _used(self) -> frozenset[str]:
        return frozenset(tier for gear in self.gears for tier in gear.policy.tiers)

    def ladder_index(self, tier: str) -> int:
        """Position of a tier in the full ladder."""
        return self._positions[tier]

    @cached_property
    def _positions(self) -> dict[str, int]:
        return {info.tier: number for number, info in enumerate(self.ladder)}


def parse_policy(table: Mapping[str, Any], where: str) -> Policy:
    """Check one policy table and turn it into arrays.

    Raises:
        PlanError: a rule of the table is broken; the message names the field below `where`.
    """
    tiers = tuple(table["tiers"])
    routes = table["routes"]
    if not tiers or len(set(tiers)) != len(tiers):
        raise PlanError(f"{where}.tiers: needs at least one tier, and none twice")
    if len(routes) != len(tiers):
        raise PlanError(f"{where}.routes: {len(routes)} routes for {len(tiers)} tiers")
    bands = tuple(
        _parse_bands(entry, own, len(tiers), f"{where}.routes[{own}]") for own, entry in enumerate(routes)
    )
    return Policy(tiers, bands)


def _parse_bands(entry: Mapping[str, Any], own: int, tiers: int, where: str) -> Bands:
    cuts, to = list(entry["cuts"]), list(entry["to"])
    if len(to) != len(cuts) + 1:
        raise PlanError(f"{where}: {len(cuts)} cuts need {len(cuts) + 1} destinations")
    if not all(isinstance(cut, (int, float)) and abs(cut) <= LARGEST_CUT for cut in cuts):
        raise PlanError(f"{where}.cuts: must be finite numbers")
    if any(low > high for low, high in pairwise(cuts)):
        raise PlanError(f"{where}.cuts: must not decrease")
    if any(low < high for low, high in pairwise(to)):
        raise PlanError(f"{where}.to: destinations must not grow with confidence")
    if any(type(goal) is not int or (goal != ANSWER and not own < goal < tiers) for goal in to):
        raise PlanError(f"{where}.to: must be -1 or the index of a larger tier in use")
    if own == tiers - 1 and to != [ANSWER]:
        raise PlanError(f"{where}: the last tier answers always: cuts [], to [-1]")
    return Bands(np.asarray(cuts, np.float32), np.asarray(to, np.int64))


def parse_plan(content: Mapping[str, Any], digest: str = "") -> Plan:
    """Check a whole plan.

    Raises:
        PlanError: something is missing, of the wrong kind, or breaks a rule.
    """
    try:
        return _parse_plan(content, digest)
    except PlanError:
        raise
    except KeyError as error:
        raise PlanError(f"{error.args[0]}: missing") from None
    except (TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise PlanError(f"not a gear plan: {error}") from None


def _parse_plan(content: Mapping[str, Any], digest: str) -> Plan:
    if content["kind"] != "gear_plan" or content["format"] != FORMAT:
        raise PlanError(f"kind, format: expected gear_plan, {FORMAT}")
    ladder = tuple(
        TierInfo(
            str(t["tier"]),
            str(t["model"]),
            str(t["sha256"]),
            float(t["p50_ms"]),
            float(t["p99_ms"]),
            float(t["further_row_ms"]),
            None if t.get("tolerated_disagreement") is None else float(t["tolerated_disagreement"]),
            _parse_adopted(t, content, f"ladder[{number}]"),
        )
        for number, t in enumerate(content["ladder"])
    )
    if len({info.tier for info in ladder}) != len(ladder):
        raise PlanError("ladder: no tier twice")
    if not all(math.isfinite(t) and t >= 0 for i in ladder for t in (i.p50_ms, i.p99_ms, i.further_row_ms)):
        raise PlanError("ladder: times must be finite numbers of at least 0")
    if not all(info.tolerated is None or 0.0 < info.tolerated < 1.0 for info in ladder):
        raise PlanError("ladder: tolerated_disagreement must be above 0 and below 1, or null")
    if not content["inputs"]:
        raise PlanError("inputs: needs at least one")
    gears = _parse_gears(content["gears"], ladder, "gears")
    fallbacks = tuple(
        _parse_fallback(entry, ladder, f"fallbacks[{number}]")
        for number, entry in enumerate(content.get("fallbacks", ()))
    )
    tokens = content.get("tokens")
    if tokens is not None and int(tokens) < 1:
        raise PlanError("tokens: at least 1, or null for rows with one label")
    limits = {name: _bounded(content["limits"], "limits", name) for name in LIMITS}
    hysteresis = {name: _bounded(content["hysteresis"], "hysteresis", name) for name in HYSTERESIS}
    return Plan(
        cascade=str(content["cascade"]),
        inputs=tuple(str(entry["name"]) for entry in content["inputs"]),
        tokens=None if tokens is None else int(tokens),
        probabilities=bool(content["probabilities"]),
        ladder=ladder,
        gears=gears,
        fallbacks=fallbacks,
        alpha=float(hysteresis["alpha"]),
        window_ms=float(hysteresis["window_ms"]),
        limits=Limits(
            rows_in_flight=int(limits["rows_in_flight"]),
            max_batch_size=int(limits["max_batch_size"]),
            inline_entry_ms=float(limits["inline_entry_ms"]),
            escalation_threads=int(limits["escalation_threads"]),
            shadow_share=float(limits["shadow_share"]),
        ),
        digest=digest,
    )


def _parse_adopted(tier: Mapping[str, Any], content: Mapping[str, Any], where: str) -> Adopted | None:
    if tier.get("adopted") is None:
        return None
    tokens = content.get("tokens")
    try:
        found = parse_adopted(
            tier["adopted"], int(content["classes"]), None if tokens is None else int(tokens)
        )
    except (TypeError, ValueError, AttributeError) as error:
        raise PlanError(f"{where}.adopted.{error}") from None
    inputs = {entry["name"] for entry in content["inputs"]}
    unknown = sorted({*[one.name for one in found.inputs], *filter(None, [found.mask])} - inputs)
    if unknown:
        raise PlanError(f"{where}.adopted: {unknown[0]!r} is no input of the cascade")
    return found


def _bounded(section: Mapping[str, Any], where: str, name: str) -> float:
    """A number of a section, finite and not below its smallest legal value."""
    value, least = float(section[name]), {**LIMITS, **HYSTERESIS, **BATCH_TRIGGER}[name]
    if not math.isfinite(value) or value < least:
        raise PlanError(f"{where}.{name}: must be a number of at least {least:g}, found {value:g}")
    return value


def _parse_gears(
    entries: Sequence[Mapping[str, Any]], ladder: tuple[TierInfo, ...], where: str
) -> tuple[GearInfo, ...]:
    gears = tuple(_parse_gear(gear, ladder, f"{where}[{number}]") for number, gear in enumerate(entries))
    if not gears or gears[-1].up_to_rps != math.inf:
        raise PlanError(f"{where}: needs at least one, and up_to_rps of the last must be null")
    # Written so that a NaN is refused, too.
    if not all(low.up_to_rps < high.up_to_rps for low, high in pairwise(gears)):
        raise PlanError(f"{where}: up_to_rps must grow from gear to gear")
    return gears


def _parse_gear(gear: Mapping[str, Any], ladder: tuple[TierInfo, ...], where: str) -> GearInfo:
    policy = parse_policy(gear["policy"], f"{where}.policy")
    order = [info.tier for info in ladder]
    unknown = [tier for tier in policy.tiers if tier not in order]
    if unknown:
        raise PlanError(f"{where}.policy.tiers: {unknown[0]!r} is not in the ladder")
    if sorted(policy.tiers, key=order.index) != list(policy.tiers):
        raise PlanError(f"{where}.policy.tiers: must be in the order of the ladder")
    up_to = gear["up_to_rps"]
    if type(gear["min_queue"]) is not int:
        raise PlanError(f"{where}.min_queue: must be a whole number")
    return GearInfo(
        math.inf if up_to is None else float(up_to),
        policy,
        int(_bounded(gear, where, "min_queue")),
        _bounded(gear, where, "max_wait_ms"),
    )


def _parse_fallback(entry: Mapping[str, Any], ladder: tuple[TierInfo, ...], where: str) -> Fallback:
    without = frozenset(entry["without"])
    if not without or not without <= {info.tier for info in ladder}:
        raise PlanError(f"{where}.without: must be tiers of the ladder, and at least one")
    gears = _parse_gears(entry["gears"], ladder, f"{where}.gears")
    for number, gear in enumerate(gears):
        if without & set(gear.policy.tiers):
            raise PlanError(f"{where}.gears[{number}].policy.tiers: has a tier that it does without")
    return Fallback(without, gears)


class PlanFile:
    """The plan on disk, which may be replaced by rename at any time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = ""

    def poll(self) -> Plan | None:
        """The plan if the file's content changed since the last call, else None.

        Raises:
            PlanError: the new content is not a legal plan; it is not offered again.
        """
        try:
            raw = self._path.read_bytes()
        except OSError as error:
            if self._seen == str(error):
                return None
            self._seen = str(error)
            raise PlanError(f"{self._path}: cannot be read: {error}") from None
        digest = hashlib.sha256(raw).hexdigest()
        if digest == self._seen:
            return None
        self._seen = digest
        try:
            content = json.loads(raw)
        except ValueError as error:
            raise PlanError(f"{self._path}: not JSON: {error}") from None
        if not isinstance(content, dict):
            raise PlanError(f"{self._path}: not a gear plan")
        return parse_plan(content, digest)
