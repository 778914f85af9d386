"""Load on a served cascade with the user's own rows: rate, latency, and what each tier did meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cascade_tools.artifacts import GearPlan
from cascade_tools.errors import CascadeError, EnvironmentLacks, UsageError
from cascade_tools.machine.meters import EnergyWatch, NoMeter, Spent, measure_idle_watts
from cascade_tools.models.usercode import Rows, load_rows
from cascade_tools.serving.load import run_load
from cascade_tools.serving.perf_analyzer import WINDOWS, PerfResult, find_perf_analyzer, run_perf_analyzer
from cascade_tools.serving.triton_energy import look_for_triton_meter
from cascade_tools.serving.watch import answers_by_tier, model_counts
from cascade_tools.stages.gears import GEARS_FILE
from cascade_tools.stages.kept_rows import load_test_rows
from cascade_tools.store import Workspace

METRICS_SETTLE_S = 0.6  # the router writes its counts out every 250 ms
PROBE_CLIENTS = 8
WARM_UP_ROWS = 500
SEED = 0

Say = Callable[[str], None]


@dataclass(frozen=True)
class TierLoad:
    """One tier during a measurement; times are means per request, None where it was not called."""

    tier: str
    answered_share: float
    queue_ms: float | None
    compute_ms: float | None


@dataclass(frozen=True)
class BenchRow:
    """One number of clients.

    Attributes:
        energy_j: of the server's GPUs per answered row, without their idle power; None where the server
            counts none.
        idle_share: share of what the GPUs took that is idle power.
    """

    clients: int
    throughput_rps: float
    p50_ms: float
    p99_ms: float
    tiers: tuple[TierLoad, ...]
    energy_j: float | None
    idle_share: float | None


@dataclass(frozen=True)
class BenchReport:
    """What was sent, with what, and what came of it.

    Attributes:
        rows_from: `data.test` or `data.validation`.
        hard_share: share of rows that the first tier did not answer; None for the data's own mix.
        generator: `perf_analyzer`, or `built-in`, the client that the score is taken with.
        no_energy: why there is no energy; None where there is.
    """

    rows: int
    rows_from: str
    hard_share: float | None
    generator: str
    no_energy: str | None
    table: tuple[BenchRow, ...]


def bench(
    work: Workspace,
    url: str,
    metrics_url: str,
    clients: Sequence[int],
    seconds: float,
    hard_share: float | None,
    say: Say,
) -> BenchReport:
    """Measure a cascade that is being served.

    Args:
        work: the cascade; its rows are sent, one per request.
        url: gRPC address of the server.
        metrics_url: its metrics page.
        clients: numbers of requests that are under way at any time.
        seconds: how long each is measured by perf_analyzer; the built-in client sends every row once.
        hard_share: share of rows that the first tier does not accept; None for the data's own.
        say: takes a line of progress.

    Raises:
        UsageError: the rows cannot give that share.
        CascadeError: no server there, it serves another cascade, or a request failed.
    """
    plan = work.load(GEARS_FILE, GearPlan, "run")
    field = "validation" if work.cascade.data.test is None else "test"
    rows = load_rows(work.cascade, field) if field == "validation" else load_test_rows(work)
    # Clients take every n-th row; no pattern of the file may meet that.
    rows = rows.take(np.random.default_rng(SEED).permutation(len(rows)))
    models = {info.tier: info.model for info in plan.ladder}
    if hard_share is None:
        _ask(plan, url, rows.take(slice(0, WARM_UP_ROWS)))
    else:
        rows = _with_hard_share(plan, rows, _ask(plan, url, rows), hard_share)
    # perf_analyzer refuses to watch a model that has not been asked yet.
    asked = [model for model, counts in model_counts(url, [*models.values()]).items() if counts.requests]
    try:
        program: Path | None = find_perf_analyzer()
    except EnvironmentLacks as error:
        program = None
        say(f"{error.message}; the built-in client sends every row once ({error.hint})")
    meter = look_for_triton_meter(metrics_url)
    watch = None if isinstance(meter, NoMeter) else EnergyWatch(meter, measure_idle_watts(meter))
    table = []
    for count in clients:
        say(f"{count} client{'s' if count > 1 else ''}, {len(rows)} rows of data.{field}")
        before, answered_before = model_counts(url, [*models.values()]), _answers(metrics_url, plan.cascade)
        if watch is not None:
            watch.start()
        load = _send(program, plan, url, rows, count, seconds, asked)
        spent = None if watch is None else watch.stop()
        after, answered = model_counts(url, [*models.values()]), _answers(metrics_url, plan.cascade)
        new = {tier: answered.get(tier, 0.0) - answered_before.get(tier, 0.0) for tier in models}
        whole = sum(new.values())
        if whole <= 0:
            raise CascadeError(
                f"{metrics_url}: counts no answers of {plan.cascade}", "is it the page of the same server?"
            )
        tiers = [
            TierLoad(tier, new[tier] / whole, *(after[model].since(before[model]) or (None, None)))
            for tier, model in models.items()
        ]
        table.append(_row(count, load, tiers, spent, whole))
    return BenchReport(
        rows=len(rows),
        rows_from=f"data.{field}",
        hard_share=hard_share,
        generator="built-in" if program is None else "perf_analyzer",
        no_energy=meter.why if isinstance(meter, NoMeter) else None,
        table=tuple(table),
    )


def _row(
    clients: int, load: PerfResult, tiers: Sequence[TierLoad], spent: Spent | None, answered: float
) -> BenchRow:
    return BenchRow(
        clients=clients,
        throughput_rps=load.throughput_rps,
        p50_ms=load.p50_ms,
        p99_ms=load.p99_ms,
        tiers=tuple(tiers),
        energy_j=None if spent is None else spent.dynamic_j / answered,
        idle_share=None if spent is None else spent.idle_share,
    )


def _send(
    program: Path | None,
    plan: GearPlan,
    url: str,
    rows: Rows,
    clients: int,
    seconds: float,
    asked: Sequence[str],
) -> PerfResult:
    if program is not None:
        window_s = seconds / WINDOWS
        return run_perf_analyzer(program, url, plan.cascade, rows.inputs, clients, window_s, asked)
    load = run_load(url, plan.cascade, rows.inputs, _datatypes(plan), clients, ("LABEL",))
    p50, p90, p95, p99 = np.percentile(load.latency_ms, (50, 90, 95, 99)).tolist()
    return PerfResult(clients, load.throughput_rps, p50, p90, p95, p99)


def _ask(plan: GearPlan, url: str, rows: Rows) -> npt.NDArray[np.int32]:
    """Which tier answers every row: index in the ladder."""
    tiers: npt.NDArray[np.int32] = run_load(
        url, plan.cascade, rows.inputs, _datatypes(plan), PROBE_CLIENTS, ("TIER",)
    ).outputs["TIER"]
    return tiers


def _with_hard_share(plan: GearPlan, rows: Rows, tier: npt.NDArray[np.int32], share: float) -> Rows:
    """As many rows, drawn so that the first tier does not answer this share of them."""
    names = [info.tier for info in plan.ladder]
    first = min(names.index(gear.policy.tiers[0]) for gear in plan.gears)
    hard = tier > first
    wanted = round(share * len(rows))
    rng = np.random.default_rng(SEED)
    picked = []
    for where, count, what in ((hard, wanted, "hard"), (~hard, len(rows) - wanted, "easy")):
        known = np.flatnonzero(where)
        if count and not len(known):
            other = f"tier {names[first]} answers {'all' if what == 'hard' else 'none'} of the rows"
            raise UsageError(f"--hard-share {share:g}: {other}", "leave it out, or give other rows")
        picked.append(rng.choice(known, count) if count else known[:0])
    return rows.take(rng.permutation(np.concatenate(picked)))


def _datatypes(plan: GearPlan) -> dict[str, str]:
    return {spec.name: spec.datatype for spec in plan.inputs}


def _answers(metrics_url: str, model: str) -> dict[str, float]:
    time.sleep(METRICS_SETTLE_S)
    return answers_by_tier(metrics_url, model)
