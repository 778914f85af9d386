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

import numpy as np
import numpy.typing as npt
from scipy.optimize import Bounds, LinearConstraint, linprog, milp

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
    """

    name: str
    reach: float
    seconds_per_row: dict[str, float]
    utilization: dict[str, float]
    memory_mib: float


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


def place(tiers: tuple[TierLoad, ...], devices: tuple[Device, ...]) -> Solution:
    """The placement with the highest sustainable rate, then with the least memory.

    Raises:
        Infeasible: a tier fits on no device, or all tiers together do not fit.
    """
    _check_memory(tiers, devices)
    tau, share = _matrices(tiers, devices)
    memory = np.array([tier.memory_mib for tier in tiers])
    room = np.array([float(device.memory_mib) for device in devices])
    upper = _most_instances(share, memory, room)
    scale = _rate_scale(tiers, tau, share)
    rate, _, bound, status = _solve_rate(tiers, tau, share, memory, room, upper, scale)
    if rate <= 0.0:
        raise Infeasible(
            f"the {len(tiers)} tiers do not fit together into {room.sum():.0f} MiB "
            f"on {len(devices)} device(s)",
            "add memory or devices, or leave a tier out",
            constraint="memory",
        )
    count = _solve_memory(tiers, tau, share, memory, room, upper, scale, KEEP_RATE * rate)
    sustained, busy = sustainable_rate(tiers, devices, count)
    return Solution(count, busy, sustained, max(bound, sustained), status)


def sustainable_rate(
    tiers: tuple[TierLoad, ...], devices: tuple[Device, ...], count: npt.NDArray[np.int64]
) -> tuple[float, Array]:
    """Highest rate (rows/s) of a given placement, and the busy instances [tiers, devices] at it.

    A linear program over the loads alone; independent of how the placement was found.
    """
    tau, share = _matrices(tiers, devices)
    scale = _rate_scale(tiers, tau, share)
    flows = tau.size
    balance = np.zeros((len(tiers), flows + 1))
    busy_share = np.zeros((len(devices), flows + 1))
    for i in range(len(tiers)):
        for g in range(len(devices)):
            column = i * len(devices) + g
            balance[i, column] = 1.0 / (tau[i, g] * scale)
            busy_share[g, column] = share[i, g]
        balance[i, flows] = -tiers[i].reach
    result = linprog(
        c=np.append(np.zeros(flows), -1.0),
        A_ub=busy_share,
        b_ub=np.ones(len(devices)),
        A_eq=balance,
        b_eq=np.zeros(len(tiers)),
        bounds=[(0.0, float(n)) for n in count.ravel()] + [(0.0, None)],
        method="highs",
    )
    if not result.success:
        return 0.0, np.zeros(tau.shape)
    return float(-result.fun * scale), np.asarray(result.x[:flows]).reshape(tau.shape)


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


def _matrices(tiers: tuple[TierLoad, ...], devices: tuple[Device, ...]) -> tuple[Array, Array]:
    tau = np.array([[tier.seconds_per_row[d.type] for d in devices] for tier in tiers])
    share = np.array([[tier.utilization[d.type] for d in devices] for tier in tiers])
    return tau, share


def _most_instances(share: Array, memory: Array, room: Array) -> Array:
    by_work = np.ceil(1.0 / share - 1e-9)
    with np.errstate(divide="ignore"):
        by_memory = np.floor(room[None, :] / memory[:, None] + 1e-9)
    return np.asarray(np.minimum(by_work, by_memory))


def _rate_scale(tiers: tuple[TierLoad, ...], tau: Array, share: Array) -> float:
    """A rate of the right size, so that all coefficients of the programs are of order one."""
    work = sum(tier.reach * float((tau[i] * share[i]).min()) for i, tier in enumerate(tiers))
    return tau.shape[1] / work if work > 0.0 else 1.0


def _program(
    tiers: tuple[TierLoad, ...], tau: Array, share: Array, memory: Array, room: Array, scale: float
) -> list[LinearConstraint]:
    """Constraints over the variables [busy (tiers x devices), count (tiers x devices), rate]."""
    count_tiers, count_devices = tau.shape
    cells = tau.size
    keep_up = np.zeros((count_tiers, 2 * cells + 1))
    home = np.zeros((count_tiers, 2 * cells + 1))
    busy_share = np.zeros((count_devices, 2 * cells + 1))
    fits = np.zeros((count_devices, 2 * cells + 1))
    exists = np.zeros((cells, 2 * cells + 1))
    for i in range(count_tiers):
        for g in range(count_devices):
            cell = i * count_devices + g
            keep_up[i, cell] = 1.0 / (tau[i, g] * scale)
            home[i, cells + cell] = 1.0
            busy_share[g, cell] = share[i, g]
            fits[g, cells + cell] = memory[i] / room[g]
            exists[cell, cell], exists[cell, cells + cell] = 1.0, -1.0
        keep_up[i, 2 * cells] = -tiers[i].reach
    return [
        LinearConstraint(keep_up, 0.0, 0.0),
        LinearConstraint(home, 1.0, np.inf),
        LinearConstraint(busy_share, -np.inf, 1.0),
        LinearConstraint(fits, -np.inf, 1.0),
        LinearConstraint(exists, -np.inf, 0.0),
    ]


def _solve_rate(
    tiers: tuple[TierLoad, ...],
    tau: Array,
    share: Array,
    memory: Array,
    room: Array,
    upper: Array,
    scale: float,
) -> tuple[float, Array, float, str]:
    cells = tau.size
    result = milp(
        c=np.append(np.zeros(2 * cells), -1.0),
        constraints=_program(tiers, tau, share, memory, room, scale),
        integrality=np.concatenate([np.zeros(cells), np.ones(cells), [0.0]]),
        bounds=Bounds(0.0, np.concatenate([upper.ravel(), upper.ravel(), [np.inf]])),
        options={"time_limit": TIME_LIMIT_S},
    )
    if result.x is None:
        return 0.0, np.zeros(tau.shape), 0.0, STATUS[result.status]
    count = np.round(result.x[cells : 2 * cells]).reshape(tau.shape)
    bound = -float(result.mip_dual_bound) * scale
    return float(result.x[-1]) * scale, count, bound, STATUS[result.status]


def _solve_memory(
    tiers: tuple[TierLoad, ...],
    tau: Array,
    share: Array,
    memory: Array,
    room: Array,
    upper: Array,
    scale: float,
    rate: float,
) -> npt.NDArray[np.int64]:
    """The fewest MiB that sustain `rate`; feasible, since the first solve sustained more."""
    cells = tau.size
    weight = np.repeat(memory, tau.shape[1]) / memory.sum()
    result = milp(
        c=np.concatenate([np.zeros(cells), weight, [0.0]]),
        constraints=_program(tiers, tau, share, memory, room, scale),
        integrality=np.concatenate([np.zeros(cells), np.ones(cells), [0.0]]),
        bounds=Bounds(
            np.append(np.zeros(2 * cells), rate / scale),
            np.concatenate([upper.ravel(), upper.ravel(), [np.inf]]),
        ),
        options={"time_limit": TIME_LIMIT_S},
    )
    found = result.x[cells : 2 * cells]
    return np.asarray(np.round(found), np.int64).reshape(tau.shape)
