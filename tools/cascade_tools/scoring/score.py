"""Scores a served cascade against its last tier, on the test rows, through Triton."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cascade_tools.artifacts import (
    Exported,
    GearPlan,
    Origin,
    Profile,
    RoutingPolicy,
    Score,
    ServedScore,
    TierScore,
)
from cascade_tools.errors import UsageError
from cascade_tools.machine.facts import machine
from cascade_tools.machine.meters import EnergyMeter, find_meter
from cascade_tools.models.served import open_exported
from cascade_tools.models.usercode import Rows
from cascade_tools.planning.calibration import is_right
from cascade_tools.serving.embedded import Server
from cascade_tools.serving.load import WARM_UP_REQUESTS, LoadResult, compare_latency_ms, run_load
from cascade_tools.spec import load_devices
from cascade_tools.stages.export import EXPORTED_FILE
from cascade_tools.stages.gears import GEARS_FILE
from cascade_tools.stages.kept_rows import load_test_rows
from cascade_tools.stages.profile import PROFILE_FILE
from cascade_tools.stages.search import POLICY_FILE, planned_point
from cascade_tools.store import Workspace, digest_file, readable_disk_errors

SCORE_FILE = "score.json"
CLIENTS = 32
LATENCY_ROWS = 1000
SEED = 0
IDLE_SECONDS = 1.0

Say = Callable[[str], None]


@dataclass(frozen=True)
class _Pass:
    """One run of the load, and what the server's processes spent meanwhile; CPU seconds by model."""

    load: LoadResult
    cpu_s: dict[str, float]
    energy_j: float | None


@dataclass(frozen=True)
class _Bench:
    """Everything that a pass needs."""

    server: Server
    datatypes: dict[str, str]
    meter: EnergyMeter | None
    idle_watts: float

    def run(self, model: str, rows: Rows, outputs: tuple[str, ...]) -> _Pass:
        """One pass; what the server spends on warm-up requests is shared out over all requests."""
        before, start_j = self.server.cpu_seconds(), self.meter.read_j() if self.meter else 0.0
        start_s = time.perf_counter()
        load = run_load(self.server.grpc_url, model, rows.inputs, self.datatypes, CLIENTS, outputs)
        share = len(rows) / (len(rows) + min(WARM_UP_REQUESTS, len(rows)))
        energy_j = None
        if self.meter is not None:
            idle_j = self.idle_watts * (time.perf_counter() - start_s)
            energy_j = share * max(0.0, self.meter.read_j() - start_j - idle_j)
        after = self.server.cpu_seconds()
        spent = {name: share * (after[name] - before.get(name, 0.0)) for name in after}
        return _Pass(load, spent, energy_j)


def score(work: Workspace, server: Server, say: Say) -> Score:
    """Send the test rows to the last tier alone and to the cascade; write and return the score.

    Latency is taken at 1 client over a seeded sample of rows, both models in turns; everything else at
    32 clients over all rows.
    """
    cascade = work.cascade
    plan = work.load(GEARS_FILE, GearPlan, "gears")
    rows = load_test_rows(work)
    wanted = [] if plan.tokens is None else [plan.tokens]
    if list(rows.target.shape[1:]) != wanted:
        raise UsageError(
            f"data.test: target must be [rows{', ' if wanted else ''}{', '.join(map(str, wanted))}] as in "
            f"data.validation, found {list(rows.target.shape)}"
        )
    pick = np.random.default_rng(SEED).permutation(len(rows))[:LATENCY_ROWS]
    sample = rows.take(np.sort(pick))
    meter = find_meter()
    bench = _Bench(server, {spec.name: spec.datatype for spec in plan.inputs}, meter, _idle_watts(meter))
    giant_model = plan.ladder[-1].model
    say(f"  {len(sample)} rows at 1 client, to {giant_model} and {cascade.name} in turns")
    latency_ms = compare_latency_ms(
        server.grpc_url, (giant_model, cascade.name), sample.inputs, bench.datatypes
    )
    passes = {}
    for model, outputs in ((giant_model, ("LABEL",)), (cascade.name, ("LABEL", "TIER"))):
        say(f"  {len(rows)} rows at {CLIENTS} clients, to {model}")
        passes[model] = bench.run(model, rows, outputs)
    watts = next((g.busy_watts for g in load_devices(cascade).devices if g.kind == "cpu"), None)
    served = {
        model: _served(crowd, latency_ms[model], rows, plan, model, watts) for model, crowd in passes.items()
    }
    tiers = passes[cascade.name].load.outputs["TIER"]
    share = np.bincount(tiers, minlength=len(plan.ladder)) / len(rows)
    policy = work.load(POLICY_FILE, RoutingPolicy, "search")
    allowance = cascade.objective.max_accuracy_drop / 100.0
    giant, whole = served[giant_model], served[cascade.name]
    files = (GEARS_FILE, EXPORTED_FILE, PROFILE_FILE)
    result = Score(
        cascade=cascade.name,
        made_from={name: digest_file(work.path(name)) for name in files},
        tiers=_tiers(work, rows, share.tolist(), giant.accuracy),
        giant=giant,
        cascade_score=whole,
        allowance=allowance,
        accuracy_drop_bound=policy.chosen.accuracy_drop_bound / 100.0,
        certified=policy.certified,
        promise_held=whole.accuracy >= giant.accuracy - allowance,
        test_rows=len(rows),
        latency_rows=len(sample),
        clients=CLIENTS,
        environment=machine(),
    )
    with readable_disk_errors(work.build):
        work.save(SCORE_FILE, result)
    return result


def _idle_watts(meter: EnergyMeter | None) -> float:
    """Power of the machine while the server waits."""
    if meter is None:
        return 0.0
    start_j, start = meter.read_j(), time.perf_counter()
    time.sleep(IDLE_SECONDS)
    return (meter.read_j() - start_j) / (time.perf_counter() - start)


def _served(
    crowd: _Pass,
    latency_ms: npt.NDArray[np.float64],
    rows: Rows,
    plan: GearPlan,
    model: str,
    watts: float | None,
) -> ServedScore:
    count = len(rows)
    tier_s = sum(crowd.cpu_s.get(info.model, 0.0) for info in plan.ladder)
    router_s = crowd.cpu_s.get(plan.cascade, 0.0) if model == plan.cascade else None
    server_s = crowd.cpu_s.get("", 0.0)
    energy_j: float | None = None
    origin: Origin | None = None
    if crowd.energy_j is not None:
        energy_j, origin = crowd.energy_j / count, "measured"
    elif watts is not None:
        energy_j, origin = watts * (tier_s + (router_s or 0.0) + server_s) / count, "modelled"
    return ServedScore(
        accuracy=float(is_right(crowd.load.outputs["LABEL"].reshape(rows.target.shape), rows.target).mean()),
        latency_mean_ms=float(latency_ms.mean()),
        latency_p50_ms=float(np.median(latency_ms)),
        latency_p99_ms=float(np.percentile(latency_ms, 99)),
        throughput_rps=crowd.load.throughput_rps,
        # The router runs cheap tiers in its own process, so all that it uses is counted.
        cpu_ms_per_request=1000.0 * (tier_s + (router_s or 0.0)) / count,
        router_cpu_ms_per_request=None if router_s is None else 1000.0 * router_s / count,
        server_cpu_ms_per_request=1000.0 * server_s / count,
        client_cpu_ms_per_request=1000.0 * crowd.load.client_cpu_s / count,
        energy_j=energy_j,
        energy_origin=origin,
    )


def _tiers(work: Workspace, rows: Rows, share: list[float], giant_accuracy: float) -> tuple[TierScore, ...]:
    """Per tier; the last one's accuracy was just measured through Triton, the others run in process."""
    profile = work.load(PROFILE_FILE, Profile, "profile")
    exported = work.load(EXPORTED_FILE, Exported, "export")
    found = []
    for number, tier in enumerate(exported.tiers):
        accuracy = giant_accuracy
        if number < len(exported.tiers) - 1:
            session = open_exported(work.path(tier.file), tier.format)
            batch = work.cascade.serving.max_batch_size
            labels = [
                session.run(["LABEL"], rows.take(slice(s, s + batch)).inputs)[0]
                for s in range(0, len(rows), batch)
            ]
            label = np.concatenate(labels).reshape(rows.target.shape)
            accuracy = float(is_right(label, rows.target).mean())
        point = planned_point(profile, tier.tier)
        found.append(
            TierScore(
                name=tier.tier,
                parameters=tier.parameters,
                accuracy=accuracy,
                cpu_ms_per_row=point.cpu_ms_per_row or point.latency_p50_ms / point.batch,
                energy_j=point.energy_j,
                energy_origin=point.energy_origin,
                answer_share=share[number],
            )
        )
    return tuple(found)
