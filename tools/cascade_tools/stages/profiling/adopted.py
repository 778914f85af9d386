"""Measures adopted tiers through the Triton that has them: ours over their repository, or the user's.

    tier, batch   |- warm-up -|= repetition 1 =|= repetition 2 =| ... |= repetition n =|
                              |<- ask, read the statistics, ask, ... one at a time ->|

The time of a batch is the one that the server counts for it. Where the server is the user's, its CPU time and
memory are not known: one busy core while it answers, and no memory, count as `modelled`.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from cascade_tools.artifacts import AdoptedTier
from cascade_tools.models.usercode import Rows
from cascade_tools.planning.repetitions import COMPARED, spread, stable
from cascade_tools.runtime import adopted as runtime_adopted
from cascade_tools.serving.adopted import AdoptedModels
from cascade_tools.stages.profiling.batches import draw
from cascade_tools.stages.profiling.energy import Metering
from cascade_tools.stages.profiling.runs import Memory, Runs

WARM_UP_RUNS = 3
REPETITION_S = 0.12
REPETITION_RUNS = 4
MOST_REPETITIONS = 6
SHORTEST_MS = 1e-3

Advance = Callable[[], None]


def measure_adopted(
    models: AdoptedModels,
    tier: AdoptedTier,
    rows: Rows,
    batches: tuple[int, ...],
    metering: Metering,
    advance: Advance,
) -> list[tuple[Runs, Memory]]:
    """All points of one tier, with the instances that its owner gives it; memory after the largest batch."""
    runs = []
    for batch in batches:
        runs.append(_ask(models, tier, rows, batch, metering))
        advance()
    server = models.server
    own_mib = 0.0 if server is None else server.memory_mib(tier.model) / (tier.instances or 1)
    return [(run, Memory(own_mib)) for run in runs]


def _ask(models: AdoptedModels, tier: AdoptedTier, rows: Rows, batch: int, metering: Metering) -> Runs:
    wanted = tuple(runtime_adopted.AdoptedInput(**one.model_dump()) for one in tier.inputs)
    drawn = [runtime_adopted.model_inputs(dict(inputs), wanted) for inputs in draw(rows, batch)]
    for inputs in drawn[:WARM_UP_RUNS]:
        models.ask(tier.model, inputs, tier.output)
    taken_ms: list[list[float]] = []
    cpu_before_s = _model_cpu_s(models)
    with metering.spent() as spent:
        while len(taken_ms) < MOST_REPETITIONS and not stable([float(np.median(ms)) for ms in taken_ms]):
            repetition: list[float] = []
            end_s = time.perf_counter() + REPETITION_S
            while len(repetition) < REPETITION_RUNS or time.perf_counter() < end_s:
                inputs = drawn[len(repetition) % len(drawn)]
                seconds = models.time(tier.model, inputs, tier.output)
                repetition.append(max(SHORTEST_MS, 1000.0 * seconds))
            taken_ms.append(repetition)
    count = sum(len(ms) for ms in taken_ms)
    cpu_ms = 1000.0 * (_model_cpu_s(models) - cpu_before_s) / count
    p50, p99 = np.percentile(np.concatenate(taken_ms[-COMPARED:]), (50, 99)).tolist()
    ours = models.server is not None
    return Runs(
        batch=batch,
        p50_ms=p50,
        p99_ms=p99,
        spread=spread([float(np.median(ms)) for ms in taken_ms]),
        cpu_ms=cpu_ms if ours else p50,
        throughput_rps=1000.0 * batch / p50,
        energy_j=spent.per(batch * count) if ours else None,  # our meter does not see their machine
        timed_by="client",
        origin="measured" if ours else "modelled",
    )


def _model_cpu_s(models: AdoptedModels) -> float:
    """CPU time of everything that serves models; the server's own share of a call is in the hop."""
    if models.server is None:
        return 0.0
    return sum(seconds for model, seconds in models.server.cpu_seconds().items() if model)
