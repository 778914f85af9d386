"""Placement problems for tests: small random ones, and the published vision transformers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations_with_replacement, groupby, product

import numpy as np

from cascade_tools.planning.placement.problem import (
    Device,
    Goal,
    IntArray,
    Problem,
    TierLoad,
    Variant,
)
from cascade_tools.planning.placement.recount import highest_rate

KINDS = ("old", "new")
VIT = (  # reach, ms of a batch of 4, kernel utilization at batch 4, weights and activations in MiB
    ("tiny", 1.0, 3.06, 0.153, 48),
    ("small", 0.403767, 4.28, 0.279, 118),
    ("base", 0.354133, 6.2, 0.589, 382),
    ("large", 0.1727, 12.5, 0.906, 1192),
)


def whole(ms: float, utilization: float, memory_mib: int, kind: str = "gpu", joule: float = 0.0) -> Variant:
    """A model in one piece, at batch 1."""
    energy = {kind: joule} if joule else {}
    return Variant(1, 1, {kind: ms / 1000.0}, {kind: utilization}, memory_mib, memory_mib, energy)


def vit(devices: int, memory_mib: int = 24_000) -> Problem:
    """The published ladder of vision transformers, by its sustained batch of 4."""
    tiers = tuple(
        TierLoad(name, reach, (whole(ms / 4.0, share, memory_mib),))
        for name, reach, ms, share, memory_mib in VIT
    )
    return Problem(tiers, tuple(Device("gpu", memory_mib) for _ in range(devices)))


def random_problem(seed: int, tiers: int, devices: int, split: bool = False, per_host: int = 8) -> Problem:
    """Devices of one or two types on which some, not all, of the tiers fit together; half of them strict."""
    rng = np.random.default_rng(seed)
    loads = []
    for number in range(tiers):
        seconds = {kind: float(rng.uniform(0.002, 0.01)) for kind in KINDS}
        share = {kind: float(rng.uniform(0.3, 1.0)) for kind in KINDS}
        joule = {kind: float(rng.uniform(0.1, 2.0)) for kind in KINDS}
        memory = int(rng.integers(100, 400))
        further = memory if seed % 3 else memory // 2
        variants = [Variant(1, 1, seconds, share, memory, further, joule)]
        if split and number == tiers - 1:
            variants.append(_cut(variants[0]))
        reach = 1.0 if number == 0 else float(rng.uniform(0.1, 0.9))
        loads.append(TierLoad(f"tier{number}", reach, tuple(variants)))
    kinds = sorted(str(rng.choice(KINDS)) for _ in range(devices))
    room = {kind: int(rng.integers(400, 900)) for kind in KINDS}
    placed = tuple(
        Device(kind, room[kind], g // per_host, 20.0 + 10.0 * (kind == "new")) for g, kind in enumerate(kinds)
    )
    return Problem(tuple(loads), placed, "strict" if seed % 2 else "loose")


def _cut(model: Variant) -> Variant:
    """A model in two stages, each with a little more than half of it."""
    half = {kind: 0.52 * seconds for kind, seconds in model.seconds_per_row.items()}
    joule = {kind: 0.52 * j for kind, j in model.energy_j.items()}
    memory = model.memory_mib // 2 + 10
    return Variant(2, 1, half, model.utilization, memory, memory, joule)


def at_rate(problem: Problem, rate_rps: float, minimise: str) -> Problem:
    """The same problem with a goal."""
    return replace(problem, goal=Goal(rate_rps, "energy" if minimise == "energy" else "gpus"))


def held_mib(problem: Problem, column: tuple[int, ...]) -> int:
    return sum(problem.variant(u).held_mib(n) for u, n in zip(problem.units, column, strict=True))


def full_columns(problem: Problem, device: Device) -> list[tuple[int, ...]]:
    """What one device may hold if nothing can be added; more instances than can be busy help nobody."""
    shares = [problem.variant(unit).utilization[device.type] for unit in problem.units]
    ranges = [range(int(np.ceil(1.0 / share - 1e-9)) + 1) for share in shares]

    def allowed(column: tuple[int, ...]) -> bool:
        strict = problem.rule == "loose" or np.dot(shares, column) <= 1.0 + 1e-9
        return bool(strict) and held_mib(problem, column) <= device.memory_mib

    found = [column for column in product(*ranges) if allowed(column)]
    return [
        column
        for column in found
        if not any(other != column and all(np.array(other) >= column) for other in found)
    ]


def all_placements(problem: Problem, may_be_empty: bool = False) -> Iterator[IntArray]:
    """Every placement [units, devices] of full columns; devices that can be exchanged are not told apart."""
    choices = []
    for device, alike in groupby(problem.devices):
        columns = full_columns(problem, device)
        if may_be_empty:
            columns.append((0,) * len(problem.units))
        choices.append(list(combinations_with_replacement(columns, len(list(alike)))))
    for chosen in product(*choices):
        yield np.array([column for part in chosen for column in part], np.int64).T


def best_rate(problem: Problem) -> float:
    """The highest rate of all placements, rows/s, by trying them all."""
    return max(highest_rate(problem, count, 100.0) for count in all_placements(problem))
