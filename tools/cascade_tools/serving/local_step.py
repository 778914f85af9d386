"""What one more tier costs that the router runs in its own process, beside the tier's own work.

A real router routes single rows through one tier that does nothing, and through two; the difference of the
medians is the routing, the bookkeeping and the metrics of one step. All of it is Python, so it is CPU time,
too.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from cascade_tools.runtime.batch import Batch, Ticket, TierAnswer
from cascade_tools.runtime.local import LocalTier
from cascade_tools.runtime.metrics import Metrics
from cascade_tools.runtime.plan import Plan, PlanFile, TierInfo
from cascade_tools.runtime.router import Router

ROWS = 1000
WARM_UP_ROWS = 200
INPUT = "ROW"
FEATURES = 256


def measure_local_step_ms() -> float:
    """Median milliseconds that a second tier adds to a row; both tiers do nothing."""
    with _router(1) as short, _router(2) as long:
        taken_s = [(_route_one(short), _route_one(long)) for _ in range(WARM_UP_ROWS + ROWS)][WARM_UP_ROWS:]
    short_s, long_s = np.median(np.array(taken_s), axis=0).tolist()
    return max(0.0, 1000.0 * float(long_s - short_s))


def _route_one(router: Router) -> float:
    row: dict[str, npt.NDArray[Any]] = {INPUT: np.zeros((1, FEATURES), np.float32)}
    router.admit(1)
    start = time.perf_counter()
    router.execute([Ticket(1, None, lambda: False, None)], row, 1)
    return time.perf_counter() - start


@contextmanager
def _router(tiers: int) -> Iterator[Router]:
    """A router whose tiers are all in its process; only the last one answers."""
    with tempfile.TemporaryDirectory(prefix="cascade-step-") as folder:
        file = Path(folder) / "plan.json"
        file.write_text(json.dumps(_plan([f"step{number}" for number in range(tiers)])))
        router = Router(
            PlanFile(file),
            _never_called,
            _never_sent,
            Metrics(lambda family: _Family(), {}),
            None,
            None,
            _local,
        )
        try:
            yield router
        finally:
            router.close()


def _plan(names: list[str]) -> dict[str, Any]:
    last = len(names) - 1
    on = [{"cuts": [0.5], "to": [level + 1, -1]} for level in range(last)]
    policy = {"tiers": names, "routes": [*on, {"cuts": [], "to": [-1]}]}
    entry = {"sha256": "", "p50_ms": 0.0, "p99_ms": 0.0, "further_row_ms": 0.0}
    return {
        "kind": "gear_plan",
        "format": 1,
        "cascade": "step",
        "inputs": [{"name": INPUT}],
        "probabilities": False,
        "ladder": [{"tier": name, "model": name, **entry} for name in names],
        "gears": [{"up_to_rps": None, "policy": policy, "min_queue": 1, "max_wait_ms": 0.0}],
        "hysteresis": {"alpha": 8.0, "window_ms": 100.0},
        "limits": {
            "rows_in_flight": 1000,
            "max_batch_size": 32,
            "inline_entry_ms": 2.0,
            "escalation_threads": 1,
            "shadow_share": 0.0,
        },
    }


def _local(plan: Plan) -> Mapping[str, LocalTier]:
    return {info.model: cast(LocalTier, _unsure) for info in plan.ladder}


def _unsure(inputs: Mapping[str, npt.NDArray[Any]], probabilities: bool) -> TierAnswer:
    rows = len(inputs[INPUT])
    return TierAnswer(np.zeros(rows, np.int64), np.zeros(rows, np.float32), None)


def _never_called(info: TierInfo, inputs: Any, probabilities: bool) -> TierAnswer:
    raise AssertionError("every tier is in this process")


def _never_sent(batch: Batch, ticket: Ticket) -> None:
    raise AssertionError("every row is answered at once")


class _Family:
    """Metrics that nobody reads; the router's thread writes them out between rows."""

    def Metric(self, labels: Mapping[str, str]) -> _Family:
        return self

    def increment(self, value: float) -> None:
        """Nothing."""

    def set(self, value: float) -> None:
        """Nothing."""
