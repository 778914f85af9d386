"""What is saved, what may be given up, and how the rate decides."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from cascade_tools.spec.base import Spec
from cascade_tools.spec.rates import Rates, Slo

FOUND_WITH_SLO = ("count", "reserve", "batch_trigger")  # what the plan finds by itself then


class Objective(Spec):
    """What the search may give up and what it saves.

    Attributes:
        max_accuracy_drop: points of accuracy below the last tier that may be given up; 0.5 is .005.
        minimise: `device_time` (ms per row), `energy` (J per row), `latency` (ms of the routed path) or
            `money` (per million rows, from `price_per_hour` of the device).
        confidence: the drop holds on new data with this probability (a paired bound on rows that the
            search never sees).
        guarantee: false takes the allowance on the rows at hand as enough and promises nothing.
        max_cost: bound of the mean cost, in the unit of `minimise`.
        max_latency_ms: bounds of the routed path by quantile: `p50`, `p95`, `p99` (modelled, no queues).
    """

    max_accuracy_drop: float = Field(default=1.0, ge=0.0, le=100.0)
    minimise: Literal["device_time", "energy", "latency", "money"] = "device_time"
    confidence: float = Field(default=0.95, gt=0.5, lt=1.0)
    guarantee: bool = True
    max_cost: float | None = Field(default=None, gt=0.0)
    max_latency_ms: dict[Literal["p50", "p95", "p99"], float] = Field(default_factory=dict)


class BatchTrigger(Spec):
    """Rows of several requests wait for each other before the first tier, for larger batches.

    Attributes:
        min_queue: rows that are waited for; 1 for none.
        max_wait_ms: how long at most.
    """

    min_queue: int = Field(default=1, ge=1, le=4096)
    max_wait_ms: float = Field(default=0.0, ge=0.0, le=1000.0)

    @model_validator(mode="after")
    def _waits_for_a_time(self) -> BatchTrigger:
        if self.min_queue > 1 and not self.max_wait_ms:
            raise ValueError("'max_wait_ms' must be above 0 where 'min_queue' is above 1")
        return self


class Gears(Spec):
    """Policies for low and high arrival rates.

    Without `slo` all gears keep the accuracy allowance and differ by a reserve of it. With `slo` they are
    planned for `rates`: see `docs/gears.md`.

    Attributes:
        count: how many; policies that coincide are merged.
        reserve: share of the points that the last gear loses, which the first does not.
        target_busy_share: how busy the devices may be before the next gear takes over.
        batch_trigger: of the last gear, which serves the highest rates; the others do not wait.
        slo: what is kept at the planned rates.
        rates: the planned rates, which `watch` compares with what arrives.
        within_allowance: with `slo`: no gear loses more accuracy than the objective allows; false takes
            any policy of the frontier, and nothing is promised of its accuracy.
    """

    count: int = Field(default=2, ge=1, le=16)
    reserve: float = Field(default=0.1, ge=0.0, le=1.0)
    target_busy_share: float = Field(default=0.8, gt=0.0, le=1.0)
    batch_trigger: BatchTrigger = BatchTrigger()
    slo: Slo | None = None
    rates: Rates | None = None
    within_allowance: bool = True

    @model_validator(mode="after")
    def _slo_and_rates_go_together(self) -> Gears:
        if self.slo is None:
            if not self.within_allowance:
                raise ValueError("within_allowance: is for gears with 'slo'; the others keep the allowance")
            return self
        if self.rates is None:
            raise ValueError("rates: needed with 'slo', such as `rates: {max_rps: 500}`")
        given = [name for name in FOUND_WITH_SLO if name in self.model_fields_set]
        if given:
            raise ValueError(f"{given[0]}: with 'slo' the plan finds it; remove it")
        return self
