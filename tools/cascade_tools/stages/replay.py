"""Replays a trace on a served cascade with the user's own rows, and says what became of the requests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cascade_tools.artifacts import GearPlan, Origin
from cascade_tools.errors import UsageError
from cascade_tools.models.usercode import Rows, load_rows
from cascade_tools.planning.outcomes import FloatArray, IntArray
from cascade_tools.planning.traces.course import Moment, course, window_for
from cascade_tools.planning.traces.lateness import Lateness
from cascade_tools.planning.traces.shape import peak_rps
from cascade_tools.serving.embedded import Server
from cascade_tools.serving.replay import Replayed, replay
from cascade_tools.stages.gears import GEARS_FILE
from cascade_tools.stages.kept_rows import load_test_rows
from cascade_tools.stages.planned_slo import slo_of
from cascade_tools.stages.spent import Cost, CostWatch
from cascade_tools.store import Workspace

MOST_ROW_BYTES = 256 * 2**20  # of different rows; requests are built before the first is sent
MOST_SECONDS = 86_400.0

Say = Callable[[str], None]


@dataclass(frozen=True)
class ReplayReport:
    """What was sent and what came of it.

    Attributes:
        rows_from: `data.test` or `data.validation`.
        seconds: from the beginning of the trace to its last arrival.
        peak_rps: most arrivals in one second.
        slo_from: where the SLO comes from, in words.
        goodput: share of all requests that was answered within the SLO.
        shares: of the answers, by tier.
        refused: requests that admission refused; `failed` are all others without an answer.
        energy_j: of the server per answer, without idle power; None where nothing counts it.
        server_cpu_ms: per request; None where the server was not started here.
        generator_cpu_ms: per request.
        lateness: of the generator.
        valid: it kept to its times.
        window_s: of `over_time`.
    """

    cascade: str
    requests: int
    rows_from: str
    seed: int
    seconds: float
    mean_rps: float
    peak_rps: float
    slo_ms: float
    slo_from: str
    goodput: float
    throughput_rps: float
    accuracy: float | None
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    shares: dict[str, float]
    refused: int
    failed: int
    errors: tuple[str, ...]
    energy_j: float | None
    energy_origin: Origin | None
    no_meter: str | None
    server_cpu_ms: float | None
    generator_cpu_ms: float
    lateness: Lateness
    valid: bool
    window_s: float
    over_time: list[Moment]


def replay_trace(
    work: Workspace,
    url: str,
    metrics_url: str,
    server: Server | None,
    arrival_s: FloatArray,
    slo_ms: float | None,
    seed: int,
    say: Say,
) -> ReplayReport:
    """Send the rows of a cascade at the times of a trace.

    Args:
        work: the cascade; its test rows are drawn from, or where there are none its validation rows.
        url: gRPC address of the server.
        metrics_url: its metrics page.
        server: where it was started here.
        arrival_s: float64 [requests], ascending, at least one.
        slo_ms: None for three times what the plan gives the last tier.
        seed: of the rows' order.
        say: takes a line of progress.

    Raises:
        UsageError: the trace is too long.
        CascadeError: no server there, or it serves another cascade.
    """
    plan = work.load(GEARS_FILE, GearPlan, "run")
    if arrival_s[-1] > MOST_SECONDS:
        raise UsageError(
            f"the trace lasts {arrival_s[-1]:.0f} s, at most {MOST_SECONDS:.0f} s are replayed",
            "cut a part of it out with --window FROM:TO",
        )
    field = "validation" if work.cascade.data.test is None else "test"
    rows = load_rows(work.cascade, field) if field == "validation" else load_test_rows(work)
    picked = draw_rows(rows, len(arrival_s), seed)
    say(f"{len(arrival_s)} requests over {arrival_s[-1]:.1f} s, rows of data.{field}")
    watch = CostWatch(work, server, metrics_url)
    watch.start()
    found = replay(
        url,
        plan.cascade,
        rows.inputs,
        {spec.name: spec.datatype for spec in plan.inputs},
        picked,
        arrival_s,
        target=rows.target,
        metrics_url=metrics_url,
    )
    cost = watch.stop()
    return _report(plan, found, cost, slo_of(plan, slo_ms), field, seed)


def draw_rows(rows: Rows, count: int, seed: int) -> IntArray:
    """Which row each request is, int64 [count]: drawn evenly, from as many rows as fit into memory twice."""
    rng = np.random.default_rng(seed)
    row_bytes = max(1, sum(values[:1].nbytes for values in rows.inputs.values()))
    most = max(1, min(len(rows), MOST_ROW_BYTES // row_bytes))
    pool = rng.permutation(len(rows))[:most]
    picked: IntArray = pool[rng.integers(0, most, count)].astype(np.int64)
    return picked


def _report(
    plan: GearPlan, found: Replayed, cost: Cost, slo: tuple[float, str], field: str, seed: int
) -> ReplayReport:
    outcomes, slo_ms = found.outcomes, slo[0]
    count = len(outcomes.arrival_s)
    answered = int(outcomes.answered.sum())
    seconds = float(outcomes.arrival_s[-1])
    window_s = window_for(seconds)
    shares = outcomes.shares(len(plan.ladder)).tolist()

    def quantile(share: float) -> float | None:
        return outcomes.latency_quantile_ms(share) if answered else None

    return ReplayReport(
        cascade=plan.cascade,
        requests=count,
        rows_from=f"data.{field}",
        seed=seed,
        seconds=seconds,
        mean_rps=count / max(seconds, 1.0),
        peak_rps=peak_rps(outcomes.arrival_s),
        slo_ms=slo_ms,
        slo_from=slo[1],
        goodput=outcomes.goodput(slo_ms),
        throughput_rps=outcomes.throughput_rps(),
        accuracy=outcomes.accuracy() if answered else None,
        p50_ms=quantile(0.5),
        p95_ms=quantile(0.95),
        p99_ms=quantile(0.99),
        shares={info.tier: share for info, share in zip(plan.ladder, shares, strict=True)},
        refused=int(found.refused.sum()),
        failed=int(found.failed.sum()),
        errors=found.errors,
        energy_j=None if cost.energy_j is None or not answered else cost.energy_j / answered,
        energy_origin=cost.origin,
        no_meter=cost.why_none,
        server_cpu_ms=None if cost.server_cpu_s is None else 1000.0 * cost.server_cpu_s / count,
        generator_cpu_ms=1000.0 * found.client_cpu_s / count,
        lateness=found.lateness,
        valid=found.lateness.valid,
        window_s=window_s,
        over_time=course(outcomes, slo_ms, window_s),
    )
