"""One ladder on its running server: what is sent to it, and what of it is checked and counted."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
import tritonclient.grpc as triton_grpc

from benchmarks.clients import Step, cascade_in_client, open_loop
from benchmarks.ladders import Arrays, Ladder
from cascade_tools.errors import CheckFailed
from cascade_tools.repository import place
from cascade_tools.repository.manifest import make_manifest
from cascade_tools.serving.embedded import Server, embedded_triton
from cascade_tools.serving.perf_analyzer import PerfResult, run_perf_analyzer
from cascade_tools.serving.watch import model_counts

ROUTERS = ("cascade", "sequential", "sequential8", "mask_ensemble", "client_side", "giant")
BOUND_CLIENTS = 32
HARD_SHARES = (0.05, 0.20, 0.40)
LOAD_SHARE = 0.4  # of the capacity at the largest hard share
CHECKED_ROWS, CHECKED_LAST_ROWS = 300, 50
CHECK_TIMEOUT_S = 30.0
NO_MODEL_OF_THEIR_OWN = ("client_side", "giant")  # they are the tiers, which are checked in any case
SEED = 0
CORES = psutil.cpu_count() or 1
REPOSITORIES = Path("build/benchmarks/router")


@dataclass(frozen=True)
class Effort:
    """How long things take: seconds of a window, passes over all routers, alternations, open loop."""

    window_s: float
    passes: int
    turns: int
    open_s: float


FULL = Effort(window_s=0.7, passes=3, turns=5, open_s=8.0)
QUICK = Effort(window_s=0.5, passes=1, turns=3, open_s=4.0)


class Bench:
    """One ladder on its running server."""

    def __init__(self, ladder: Ladder, server: Server, program: Path, effort: Effort) -> None:
        self.ladder, self.server, self.program, self.effort = ladder, server, program, effort
        names = {"cascade": ladder.cascade, "giant": ladder.models[-1]}
        self.model = {router: names.get(router, router) for router in ROUTERS}
        order = np.random.default_rng(SEED).permutation(len(ladder.label))
        self.order = order  # clients take every n-th row: no pattern of the file may meet that

    def measure(self, router: str, clients: int) -> PerfResult:
        """One run of one router with the natural mix of rows."""
        rows = self.ladder.take(self.order)
        if router == "client_side":
            return self._client_side(rows, clients)
        return self.perf(self.model[router], rows, clients)

    def perf(self, model: str, rows: Arrays, clients: int, window_s: float | None = None) -> PerfResult:
        """One run of perf_analyzer."""
        seconds = window_s or self.effort.window_s
        return run_perf_analyzer(self.program, self.server.grpc_url, model, rows, clients, seconds)

    def _client_side(self, rows: Arrays, clients: int) -> PerfResult:
        ladder = self.ladder
        steps = [
            Step(model, entry.cuts, entry.to)
            for model, entry in zip(ladder.models, ladder.policy.routes, strict=True)
        ]
        seconds = 3.0 * self.effort.window_s
        found = cascade_in_client(self.server.grpc_url, steps, rows, ladder.datatypes, clients, seconds)
        p50, p90, p95, p99 = np.percentile(found.latency_ms, (50, 90, 95, 99)).tolist()
        return PerfResult(clients, found.throughput_rps, p50, p90, p95, p99)

    def check(self, routers: Sequence[str]) -> None:
        """See that every router, and every tier, gives the answers of the policy.

        Raises:
            CheckFailed: one answers differently; nothing is measured then.
        """
        ladder = self.ladder
        last = np.flatnonzero(ladder.answered == len(ladder.models) - 1)
        picked = np.union1d(self.order[:CHECKED_ROWS], last[:CHECKED_LAST_ROWS])
        checks = [(self.model[router], picked) for router in routers if router not in NO_MODEL_OF_THEIR_OWN]
        checks += [(m, picked[ladder.answered[picked] == level]) for level, m in enumerate(ladder.models)]
        for model, mine in checks:
            expected = [ladder.label[mine], np.asarray(ladder.tiers)[ladder.answered[mine]]]
            outputs = ("LABEL",) if model in ladder.models else ("LABEL", "TIER")
            found = ask_all(self.server.grpc_url, model, ladder, mine, outputs)
            wrong = (found != np.stack(expected[: len(outputs)], axis=1)).any(axis=1)
            if wrong.any():
                count = f"{int(wrong.sum())} of {len(mine)} answers"
                raise CheckFailed(f"{ladder.name}: {count} of {model} are not the policy's")

    def tier_rate_rps(self, level: int) -> PerfResult:
        """One run of a tier called directly with the rows that reach it, at 32 clients."""
        mine = self.order[self.ladder.reached[self.order, level]]
        return self.perf(self.ladder.models[level], self.ladder.take(mine), BOUND_CLIENTS)

    def bound_rps(self, costs: Sequence[float]) -> float:
        """Rows per second if nothing but the direct calls cost anything."""
        reach: list[float] = self.ladder.reached.mean(axis=0).tolist()
        return CORES / sum(share * cost for share, cost in zip(reach, costs, strict=True))

    def extra_ms(self, routers: Sequence[str]) -> dict[str, float]:
        """Median of easy rows at one client: the first tier called directly and through routers, in turns."""
        rows = self.ladder.take(self.order[self.ladder.easy[self.order]])
        models = {"direct": self.ladder.models[0], **{router: self.model[router] for router in routers}}
        medians: dict[str, list[float]] = {name: [] for name in models}
        for turn in range(self.effort.turns):
            names = list(models) if turn % 2 == 0 else list(models)[::-1]
            for name in names:
                medians[name].append(self.perf(models[name], rows, 1, 0.3).p50_ms)
        return {name: statistics.median(values) for name, values in medians.items()}

    def hard_shares(self) -> list[dict[str, float]]:
        """Latency of the easy rows at one rate, while the share of the hard rows grows.

        Beside it the same rows at the same times without any router, the easy ones sent to the first tier in
        use and the others to the last: what the shared cores do to the easy ones by themselves.
        """
        model = self.model["cascade"]
        capacity = self.perf(model, self.ladder.take(self._mix(HARD_SHARES[-1], 4000)), BOUND_CLIENTS)
        rate_rps = LOAD_SHARE * capacity.throughput_rps
        count = max(200, round(rate_rps * self.effort.open_s))
        at_s = np.cumsum(np.random.default_rng(SEED).exponential(1.0 / rate_rps, count)).tolist()
        ways = {"cascade": [model], "direct": [self.ladder.models[0], self.ladder.models[-1]]}
        latency: dict[tuple[float, str], list[Any]] = {way: [] for way in product(HARD_SHARES, ways)}
        for number in range(self.effort.passes):
            for share, way in list(latency)[:: 1 if number % 2 == 0 else -1]:
                index = self._mix(share, count)
                easy = self.ladder.easy[index]
                asked = np.zeros(count, np.int64) if way == "cascade" else np.where(easy, 0, 1)
                sent, url = self.ladder.take(index), self.server.grpc_url
                found = open_loop(url, ways[way], asked, sent, self.ladder.datatypes, at_s)
                latency[share, way].append(found[easy])
        return [
            {"hard_share": share, "rate_rps": rate_rps}
            | {
                f"{way}_p{percent}_ms": statistics.median(
                    float(np.percentile(part, percent)) for part in latency[share, way]
                )
                for way in ways
                for percent in (50, 99)
            }
            for share in HARD_SHARES
        ]

    def _mix(self, share: float, count: int) -> Any:
        """Row numbers of which a share is not answered by the first tier, in random order."""
        rng = np.random.default_rng(SEED)
        hard = round(share * count)
        picked = [
            rng.choice(np.flatnonzero(where), size, replace=True)
            for where, size in ((~self.ladder.easy, hard), (self.ladder.easy, count - hard))
        ]
        return rng.permutation(np.concatenate(picked))


def ask_all(
    url: str, model: str, ladder: Ladder, index: Any, outputs: Sequence[str]
) -> npt.NDArray[np.int64]:
    """One request per row, eight at a time: [rows, outputs]."""
    wanted = [triton_grpc.InferRequestedOutput(name) for name in outputs]
    rows = ladder.take(index)

    def ask(row: int) -> list[int]:
        tensors = []
        for name, values in rows.items():
            tensor = triton_grpc.InferInput(name, [1, *values.shape[1:]], ladder.datatypes[name])
            tensor.set_data_from_numpy(values[row : row + 1])
            tensors.append(tensor)
        answer = client.infer(model, tensors, outputs=wanted, client_timeout=CHECK_TIMEOUT_S)
        return [int(answer.as_numpy(name)[0, 0]) for name in outputs]

    with triton_grpc.InferenceServerClient(url) as client, ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(len(index))))
    return np.asarray(answers, np.int64).reshape(len(index), len(outputs))


@contextmanager
def served(ladder: Ladder) -> Iterator[Server]:
    """The ladder's repository on the embedded Triton."""
    manifest = make_manifest(ladder.name, "embedded", ladder.files)
    repository = place.put(REPOSITORIES / ladder.name, ladder.files, manifest)
    with embedded_triton(repository, log=REPOSITORIES / f"{ladder.name}.log") as server:
        yield server


@dataclass(frozen=True)
class Run:
    """One measurement, the CPU time of the server meanwhile, and what the host kept from the cores."""

    perf: PerfResult
    server_cpu_ms_per_row: float
    stolen_share: float


def run_once(bench: Bench, name: str, count: int, tiers: dict[str, int]) -> Run:
    """One router, or one tier called directly."""
    first, server = bench.ladder.models[0], bench.server
    if name in tiers:
        model = bench.ladder.models[tiers[name]]
    else:
        model = first if name == "client_side" else bench.model[name]
    times, spent_s = psutil.cpu_times(), sum(server.cpu_seconds().values())
    requests = model_counts(server.grpc_url, [model])[model].requests
    perf = bench.tier_rate_rps(tiers[name]) if name in tiers else bench.measure(name, count)
    requests = model_counts(server.grpc_url, [model])[model].requests - requests
    spent_s = sum(server.cpu_seconds().values()) - spent_s
    return Run(perf, 1000.0 * spent_s / max(1, requests), stolen_share(times))


def stolen_share(before: Any) -> float:
    """Share of the cores' time that the host of a virtual machine kept for itself since then."""
    now = psutil.cpu_times()
    whole = sum(now) - sum(before)
    return float((getattr(now, "steal", 0.0) - getattr(before, "steal", 0.0)) / whole) if whole else 0.0
