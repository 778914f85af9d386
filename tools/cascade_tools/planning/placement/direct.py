"""Places instances of the tiers on devices so that the highest rate can be sustained.

The direct formulation: busy instances f[i, g] of tier i on device g, instances n[i, g] integer, rate L.

    max L   sum_g f[i, g] / tau[i, g] = reach_i * L          every tier keeps up
            0 <= f[i, g] <= n[i, g] <= upper bound          a busy instance exists
            sum_i u[i, g] * f[i, g] <= 1                    devices are busy at most all the time
            sum_i memory_i * n[i, g] <= memory_g            what is resident fits
            sum_g n[i, g] >= 1                              every tier has a home

tau is seconds per row of one instance, u the kernel utilization of one busy instance. A second solve at
that rate takes the fewest MiB. `verify` recomputes everything without the solver's model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.optimize import Bounds, LinearConstraint, OptimizeResult, linprog, milp

from cascade_tools.errors import Infeasible

STATUS = {0: "optimal", 1: "time limit", 2: "infeasible", 3: "unbounded", 4: "failed"}
KEEP_RATE = 0.999
TIME_LIMIT_S = 20.0

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class TierLoad:
    """One tier's needs.

    Attributes:
        reach: share of all rows that it sees, 0..1.
        seconds_per_row: of one instance at the planned batch, per device type.
        utilization: kernel utilization of one busy instance, (0, 1], per device type.
        memory_mib: of one instance.
        instances: no device may hold more, where somebody else has set them; None for any number.
    """

    name: str
    reach: float
    seconds_per_row: dict[str, float]
    utilization: dict[str, float]
    memory_mib: float
    instances: int | None = None


@dataclass(frozen=True)
class Device:
    """One device: its type, and the memory that instances may take."""

    type: str
    memory_mib: int


@dataclass(frozen=True)
class Solution:
    """Instances [tiers, devices], busy instances alike, and what the solver says.

    `bound_rps` is proven: no placement sustains more. `gap` is (bound - rate) / bound.
    """

    count: npt.NDArray[np.int64]
    busy: Array
    rate_rps: float
    bound_rps: float
    status: str

    @property
    def gap(self) -> float:
        """Distance to the proven bound, as a fraction of it."""
        return max(0.0, 1.0 - self.rate_rps / self.bound_rps) if self.bound_rps > 0.0 else 0.0


class _Numbers(NamedTuple):
    """A problem as arrays: tiers in rows, devices in columns.

    `scale` is a rate of the right size: all coefficients of the programs are of order one, as HiGHS wants.
    """

    reach: Array
    seconds_per_row: Array
    utilization: Array
    memory_mib: Array
    most: Array
    room_mib: Array
    scale: float


def place(
    tiers: tuple[TierLoad, ...],
    devices: tuple[Device, ...],
    at_least: npt.NDArray[np.int64] | None = None,
) -> Solution:
    """The placement with the highest sustainable rate, then with the least memory.

    Args:
        tiers: what is placed; every one gets at least one instance.
        devices: where.
        at_least: instances [tiers, devices] that are wanted anyhow, if they fit beside the others.

    Raises:
        Infeasible: a tier fits on no device, or all tiers together do not fit.
    """
    _check_memory(tiers, devices)
    numbers = _numbers(tiers, devices)
    cells = numbers.seconds_per_row.size
    fastest = _solve(numbers, np.append(np.zeros(2 * cells), -1.0), lowest_rate=0.0)
    if fastest.x is None and fastest.status == 1:
        raise Infeasible(
            f"no placement of {len(tiers)} tiers on {len(devices)} devices was found in {TIME_LIMIT_S:.0f} s",
            "plan for fewer devices, or for equal ones",
            constraint="time",
        )
    if fastest.x is None or fastest.x[-1] <= 0.0:
        raise Infeasible(
            f"the {len(tiers)} tiers do not fit together into {numbers.room_mib.sum():.0f} MiB "
            f"on {len(devices)} device(s)",
            "add memory or devices, or leave a tier out",
            constraint="memory",
        )
    weight = np.repeat(numbers.memory_mib, len(devices)) / max(numbers.memory_mib.sum(), 1.0)
    cost = np.concatenate([np.zeros(cells), weight, [0.0]])
    keep = KEEP_RATE * float(fastest.x[-1])
    smallest = _solve(numbers, cost, keep, at_least)
    if smallest.x is None:
        smallest = _solve(numbers, cost, keep)
    if smallest.x is None:  # out of time; the first answer holds too
        smallest = fastest
    count = np.round(smallest.x[cells : 2 * cells]).astype(np.int64)
    count = count.reshape(numbers.seconds_per_row.shape)
    rate, busy = sustainable_rate(tiers, devices, count)
    bound = -float(fastest.mip_dual_bound) * numbers.scale
    return Solution(count, busy, rate, max(bound, rate), STATUS[fastest.status])


def sustainable_rate(
    tiers: tuple[TierLoad, ...], devices: tuple[Device, ...], count: npt.NDArray[np.int64]
) -> tuple[float, Array]:
    """Highest rate (rows/s) of a given placement, and the busy instances [tiers, devices] at it.

    A linear program over the loads alone; independent of how the placement was found.
    """
    numbers = _numbers(tiers, devices)
    shape = numbers.seconds_per_row.shape
    keep_up, busy_share = _load_rows(numbers)
    result = linprog(
        c=np.append(np.zeros(count.size), -1.0),
        A_ub=busy_share,
        b_ub=np.ones(len(devices)),
        A_eq=keep_up,
        b_eq=np.zeros(len(tiers)),
        bounds=[(0.0, float(n)) for n in count.ravel()] + [(0.0, None)],
        method="highs",
    )
    if not result.success:
        return 0.0, np.zeros(shape)
    return float(-result.fun * numbers.scale), np.asarray(result.x[:-1]).reshape(shape)


def verify(tiers: tuple[TierLoad, ...], devices: tuple[Device, ...], solution: Solution) -> list[str]:
    """What is wrong with a solution, in words; empty if nothing is."""
    problems = []
    for g, device in enumerate(devices):
        used = sum(tier.memory_mib * int(n) for tier, n in zip(tiers, solution.count[:, g], strict=True))
        if used > device.memory_mib:
            problems.append(f"device {g}: {used:.0f} MiB placed on {device.memory_mib} MiB")
        busy = sum(
            tier.utilization[device.type] * float(f)
            for tier, f in zip(tiers, solution.busy[:, g], strict=True)
        )
        if busy > 1.0 + 1e-6:
            problems.append(f"device {g}: busy share {busy:.6f} is above 1")
    for i, tier in enumerate(tiers):
        if solution.count[i].sum() < 1:
            problems.append(f"tier {tier.name}: has no instance")
        if (solution.busy[i] > solution.count[i] + 1e-6).any():
            problems.append(f"tier {tier.name}: more busy instances than there are")
        served = sum(
            float(f) / tier.seconds_per_row[device.type]
            for f, device in zip(solution.busy[i], devices, strict=True)
        )
        if served < tier.reach * solution.rate_rps * (1.0 - 1e-6):
            problems.append(f"tier {tier.name}: serves {served:.3f} rows/s, too few")
    return problems


def _check_memory(tiers: tuple[TierLoad, ...], devices: tuple[Device, ...]) -> None:
    largest = max(device.memory_mib for device in devices)
    for tier in tiers:
        if tier.memory_mib > largest:
            raise Infeasible(
                f"tier {tier.name} needs {tier.memory_mib:.0f} MiB, the largest device has {largest}",
                f"{tier.memory_mib - largest:.0f} MiB are missing",
                constraint="memory",
            )
    need, have = sum(tier.memory_mib for tier in tiers), sum(d.memory_mib for d in devices)
    if need > have:
        raise Infeasible(
            f"one instance of every tier needs {need:.0f} MiB, all devices together have {have}",
            f"{need - have:.0f} MiB are missing",
            constraint="memory",
        )


def _numbers(tiers: tuple[TierLoad, ...], devices: tuple[Device, ...]) -> _Numbers:
    seconds = np.array([[tier.seconds_per_row[d.type] for d in devices] for tier in tiers])
    share = np.array([[tier.utilization[d.type] for d in devices] for tier in tiers])
    reach = np.array([tier.reach for tier in tiers])
    work = float(reach @ (seconds * share).min(axis=1))
    return _Numbers(
        reach=reach,
        seconds_per_row=seconds,
        utilization=share,
        memory_mib=np.array([tier.memory_mib for tier in tiers]),
        most=np.array([np.inf if tier.instances is None else float(tier.instances) for tier in tiers]),
        room_mib=np.array([float(device.memory_mib) for device in devices]),
        scale=len(devices) / work if work > 0.0 else 1.0,
    )


def _load_rows(numbers: _Numbers) -> tuple[Array, Array]:
    """Rows over [busy instances, rate]: every tier keeps up (= 0), no device is too busy (<= 1)."""
    tiers, devices = numbers.seconds_per_row.shape
    keep_up = np.zeros((tiers, tiers * devices + 1))
    busy_share = np.zeros((devices, tiers * devices + 1))
    for i in range(tiers):
        for g in range(devices):
            cell = i * devices + g
            keep_up[i, cell] = 1.0 / (numbers.seconds_per_row[i, g] * numbers.scale)
            busy_share[g, cell] = numbers.utilization[i, g]
    keep_up[:, -1] = -numbers.reach
    return keep_up, busy_share


def _solve(
    numbers: _Numbers,
    cost: Array,
    lowest_rate: float,
    at_least: npt.NDArray[np.int64] | None = None,
) -> OptimizeResult:
    """Minimise over [busy instances, instances, rate / scale]; cells run over tiers, then devices."""
    tiers, devices = numbers.seconds_per_row.shape
    cells = tiers * devices
    keep_up, busy_share = _load_rows(numbers)
    eye, nothing = np.eye(cells), np.zeros((cells, cells))
    home = np.kron(np.eye(tiers), np.ones(devices))
    fits = np.kron(numbers.memory_mib, np.eye(devices)) / np.maximum(numbers.room_mib, 1.0)[:, None]

    def over_all(busy: Array, count: Array, rate: Array | None = None) -> Array:
        column = np.zeros(len(busy)) if rate is None else rate
        return np.column_stack([busy, count, column])

    most = np.minimum(
        np.minimum(np.ceil(1.0 / numbers.utilization - 1e-9), numbers.most[:, None]),
        np.floor(np.maximum(numbers.room_mib, 0.0) / np.maximum(numbers.memory_mib[:, None], 1e-9) + 1e-9),
    ).ravel()
    fewest = np.zeros(cells) if at_least is None else at_least.ravel().astype(np.float64)
    return milp(
        c=cost,
        constraints=[
            LinearConstraint(over_all(keep_up[:, :-1], nothing[:tiers], keep_up[:, -1]), 0.0, 0.0),
            LinearConstraint(over_all(busy_share[:, :-1], nothing[:devices]), -np.inf, 1.0),
            LinearConstraint(over_all(nothing[:tiers], home), 1.0, np.inf),
            LinearConstraint(over_all(nothing[:devices], fits), -np.inf, 1.0),
            LinearConstraint(over_all(eye, -eye), -np.inf, 0.0),
        ],
        integrality=np.concatenate([np.zeros(cells), np.ones(cells), [0.0]]),
        bounds=Bounds(
            np.concatenate([np.zeros(cells), fewest, [lowest_rate]]),
            np.concatenate([most, np.maximum(most, fewest), [np.inf]]),
        ),
        options={"time_limit": TIME_LIMIT_S},
    )
