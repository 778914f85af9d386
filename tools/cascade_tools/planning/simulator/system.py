"""What is simulated: tiers on devices behind the router, as Triton serves them.

arrivals --> Triton joins up to max_batch_size waiting requests --> router's execute: gear, admission,
first tier (local: a step in the router's process; else a call) --> accepted rows answered at once,
the rest by a pool of threads --> queue of the next tier --> first idle instance takes what waits --> ...
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cascade_tools.runtime.policy import Policy

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ServiceTime:
    """One instance's work on one type of device, by batch size: position b - 1 holds a batch of b rows.

    Attributes:
        time_ms: float64 [max_batch], without contention.
        utilization: float64 [max_batch], share of the device that it keeps busy meanwhile.
        energy_j: float64 [max_batch], dynamic energy of the batch; None where it is not known.
    """

    time_ms: FloatArray
    utilization: FloatArray
    energy_j: FloatArray | None = None


@dataclass(frozen=True)
class SimDevice:
    """One device; work on it slows down in proportion once its utilization exceeds 1.

    Attributes:
        host: devices of one host are lost together with it.
        idle_w: drawn all the time; None where it is not known.
    """

    type: str
    host: int = 0
    idle_w: float | None = None


@dataclass(frozen=True)
class SimTier:
    """One tier of the full ladder.

    Attributes:
        service: of one instance of the whole tier, by device type.
        instances: per stage, the device of every instance; one stage where the tier is whole.
        stage_shares: per stage, its part of the time and energy of `service`; empty for equal parts.
        ask_ms: latency of a call, without the router's part and the tier's work; of a local one, of the step.
        ask_cpu_ms: CPU time of the server for one call.
        local: it runs in the router's process, where the rows of one call are one batch.
        preferred: batch sizes that Triton sends at once; empty for whatever waits.
        queue_delay_ms: how long Triton lets rows wait for a preferred batch (without preferred sizes, for a
            full one).
        planned_ms: of one row in the gear plan, by which the router decides where a tier is asked; None for
            `service` at a batch of one.
        further_row_ms: that each further row adds to it there.
        weight: of its work beside all other on a device that is full; Linux: 1.25 to the power of -nice.
    """

    name: str
    service: dict[str, ServiceTime]
    instances: tuple[tuple[int, ...], ...]
    ask_ms: float = 0.0
    ask_cpu_ms: float = 0.0
    local: bool = False
    preferred: tuple[int, ...] = ()
    queue_delay_ms: float = 0.0
    stage_shares: tuple[float, ...] = ()
    planned_ms: float | None = None
    further_row_ms: float = 0.0
    weight: float = 1.0


@dataclass(frozen=True)
class SimGear:
    """One gear; the last has no upper rate."""

    up_to_rps: float | None
    policy: Policy
    min_queue: int = 1
    max_wait_ms: float = 0.0


@dataclass(frozen=True)
class Work:
    """CPU time of one party beside the tiers' own work.

    Attributes:
        batch_ms: for each batch of the router; the client: for each group of answers.
        request_ms: for each request.
        call_ms: for each call of a tier that the router does not run itself.
        late_ms: for each answer that is sent after such a call.
    """

    batch_ms: float = 0.0
    request_ms: float = 0.0
    call_ms: float = 0.0
    late_ms: float = 0.0


NOTHING = Work()


@dataclass(frozen=True)
class SimRouter:
    """The router, and what every request costs beside the tiers.

    Attributes:
        escalation_threads: of each instance.
        device: of its CPU time; None where that is counted nowhere.
        cores: of that device.
        own: of the router's process, whose threads take turns (Python's lock).
        server: of Triton; what it does for the answers comes after the router's part.
        client: likewise; it shares the device only where it is `client_here`.
        rest_ms: what a request takes besides, by quantile, ascending; drawn for every request.
        instances: processes that route, each with its threads.
    """

    max_batch_size: int
    rows_in_flight: int
    escalation_threads: int = 16
    inline_entry_ms: float = 2.0
    device: int | None = None
    cores: int = 1
    own: Work = NOTHING
    server: Work = NOTHING
    client: Work = NOTHING
    client_here: bool = False
    rest_ms: tuple[float, ...] = (0.0,)
    instances: int = 1

    @property
    def core(self) -> float:
        """Share of its device that one core is; 0 where CPU time is counted nowhere."""
        return 0.0 if self.device is None else 1.0 / self.cores


@dataclass(frozen=True)
class Loss:
    """A device that is gone from `at_s` on."""

    at_s: float
    device: int


@dataclass(frozen=True)
class System:
    """All of it; `fallbacks` by the tiers that are broken, as in the gear plan."""

    tiers: tuple[SimTier, ...]
    devices: tuple[SimDevice, ...]
    router: SimRouter
    gears: tuple[SimGear, ...]
    fallbacks: tuple[tuple[frozenset[str], tuple[SimGear, ...]], ...] = ()
    alpha: float = 8.0
    window_ms: float = 100.0
    losses: tuple[Loss, ...] = ()


@dataclass(frozen=True)
class Recorded:
    """What the tiers said of recorded rows, to be drawn from: rows in order, tiers of the full ladder.

    Attributes:
        confidence: float32 [rows, tiers].
        correct: bool [rows, tiers].
    """

    confidence: npt.NDArray[np.float32]
    correct: npt.NDArray[np.bool_]
