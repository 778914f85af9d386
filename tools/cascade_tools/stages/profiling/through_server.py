"""Measures exported tiers on the embedded Triton, each loaded alone.

    server       |- start, nothing loaded -|                                                      |- stop -|
    each tier, for each number of instances:
                                           |- load -|= batch size 1, 2, ... =|- memory -|- unload -|
    a batch size                                    |- warm-up -|= loads =|     see `serving.tier_load`

A tier's config is the one that a repository is rendered with, but for the number of instances under test, and
requests are not joined into larger batches, so that a batch has the size that is measured. Of the server's
statistics the compute time counts: reading the inputs, the model, writing the outputs. The wait in the queue
is apart. What is written down:

    latency_p50   the model's part of the median compute time (`model_ms` of `serving.tier_load`)
    overhead      the rest of it; the hop holds that, so it is not counted twice
    latency_p99   latency_p50 + (99th percentile - median) of the client's times; whatever is late for
                  client, network or queue is in it, so it is an upper estimate
    throughput    rows that the clients got, one request under way per instance
    CPU time      of the tier's processes per second of compute time, times latency_p50
    memory        private memory of the tier's processes over instances, after the largest batch
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from cascade_tools.machine.stolen import calmest
from cascade_tools.models.usercode import Rows
from cascade_tools.serving.tier_load import Target, load_tier
from cascade_tools.serving.tier_server import TierServer
from cascade_tools.serving.watch import model_counts
from cascade_tools.stages.profiling.batches import draw
from cascade_tools.stages.profiling.energy import Metering
from cascade_tools.stages.profiling.runs import Memory, Runs

Advance = Callable[[], None]


@dataclass(frozen=True)
class Sweep:
    """What every tier is measured with.

    Attributes:
        program: perf_analyzer; None for the built-in client.
    """

    server: TierServer
    rows: Rows
    batches: tuple[int, ...]
    instances: tuple[int, ...]
    program: Path | None
    metering: Metering


def measure_tier(sweep: Sweep, model: str, advance: Advance) -> list[tuple[Runs, Memory]]:
    """All points of one tier; its memory is that of an instance after the largest batch.

    Raises:
        CascadeError: it does not load, or does not answer.
    """
    found = []
    for instances in sweep.instances:
        with sweep.server.loaded(model, instances):
            runs = []
            for batch in sweep.batches:
                runs.append(measure_batch(sweep, model, batch, instances))
                advance()
            memory = Memory(sweep.server.private_mib(model) / instances)
        found += [(run, memory) for run in runs]
    return found


def measure_batch(sweep: Sweep, model: str, batch: int, instances: int) -> Runs:
    """One batch size of a loaded model; again where the host took cores away meanwhile.

    Raises:
        CascadeError: it does not answer.
    """
    made = calmest(lambda: _measure_once(sweep, model, batch, instances))
    return replace(made.found, stretch=made.stretch)


def _measure_once(sweep: Sweep, model: str, batch: int, instances: int) -> Runs:
    server = sweep.server
    target = Target(server.url, model, instances, sweep.program)
    cpu_before_s, before = server.cpu_s(model), model_counts(server.url, [model])[model]
    with sweep.metering.spent() as spent:
        load = load_tier(target, draw(sweep.rows, batch))
    cpu_s, after = server.cpu_s(model) - cpu_before_s, model_counts(server.url, [model])[model]
    computed_ms = after.compute_ms - before.compute_ms
    busy_share = min(1.0, 1000.0 * cpu_s / computed_ms)
    once = load.once
    # Energy is counted over all runs, repeated ones included, and goes by compute time.
    joules_per_ms = spent.per(computed_ms)
    return Runs(
        batch=batch,
        p50_ms=load.model_ms,
        p99_ms=load.model_ms + once.client_p99_ms - once.client_p50_ms,
        spread=load.spread,
        cpu_ms=busy_share * load.model_ms,
        throughput_rps=once.rate * batch,
        energy_j=None if joules_per_ms is None else joules_per_ms * load.model_ms / batch,
        timed_by=once.timed_by,
        instances=instances,
        overhead_ms=load.overhead_ms,
        client_p50_ms=once.client_p50_ms,
        queue_ms=once.queue_ms,
    )
