"""What several integration tests share: predictions in process, clients, plans, and leftovers."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnxruntime
import psutil
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http

from cascade_tools.artifacts import FallbackGears, GearPlan, PolicyTable, Route
from cascade_tools.models.usercode import Rows
from cascade_tools.runtime.plan import parse_policy
from cascade_tools.runtime.policy import ANSWER, route
from cascade_tools.serving.embedded import SHARED_MEMORY, Server
from cascade_tools.store import Workspace, write_atomically

Protocol = Literal["grpc", "http"]
Arrays = dict[str, npt.NDArray[Any]]

MODEL = "small"
INPUT = "PIXELS"
OUTPUTS = ("LABEL", "CONFIDENCE", "TIER", "FLAGS", "PROBS")
LIBRARY: dict[str, Any] = {"grpc": triton_grpc, "http": triton_http}
PATIENCE_S = 30.0
HOUSEKEEPING_S = 0.6  # the router writes metrics and polls its plan every 250 ms


def wait_until(condition: Callable[[], bool], what: str, every_s: float = 0.05) -> None:
    """Poll until something has happened; fail the test if it does not."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"still waiting after {PATIENCE_S:g} s: {what}"
        time.sleep(every_s)


@dataclass(frozen=True)
class Predicted:
    """What every tier says of every row, and what a policy makes of it; all by row."""

    tier_label: npt.NDArray[np.int64]
    tier: npt.NDArray[np.int64]
    clear: npt.NDArray[np.bool_]
    label: npt.NDArray[np.int64]
    confidence: npt.NDArray[np.float32]
    probabilities: npt.NDArray[np.float32]


def run_tiers(work: Workspace, rows: Rows) -> tuple[Any, Any, Any]:
    """Label, confidence [rows, tiers] and probabilities [rows, tiers, classes], row by row."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    columns = []
    for name in work.cascade.tier_names:
        session = onnxruntime.InferenceSession(
            work.path(f"export/{name}.onnx"), options, providers=["CPUExecutionProvider"]
        )
        answers = [
            session.run(["LABEL", "CONFIDENCE", "PROBS"], {INPUT: rows.inputs[INPUT][i : i + 1]})
            for i in range(len(rows))
        ]
        columns.append([np.concatenate(parts) for parts in zip(*answers, strict=True)])
    label, confidence, probabilities = (
        np.stack([column[kind] for column in columns], axis=1) for kind in range(3)
    )
    return label[..., 0], confidence[..., 0], probabilities


def predict(tiers: tuple[Any, Any, Any], ladder: tuple[str, ...], table: PolicyTable) -> Predicted:
    """Send every row through a policy; `clear` rows are not so near a cut that rounding decides."""
    label, confidence, probabilities = tiers
    policy = parse_policy(table.model_dump(), "policy")
    tier = np.zeros(len(label), np.int64)
    clear = np.ones(len(label), bool)
    for i in range(len(label)):
        level = 0
        while True:
            tier[i] = ladder.index(policy.tiers[level])
            own = confidence[i, tier[i] : tier[i] + 1]
            clear[i] &= bool((np.abs(policy.bands[level].cuts - own) > 1e-4).all())
            goal = int(route(policy.bands[level], own)[0])
            if goal == ANSWER:
                break
            level = goal
    row = np.arange(len(tier))
    return Predicted(
        tier_label=label,
        tier=tier,
        clear=clear,
        label=label[row, tier],
        confidence=confidence[row, tier],
        probabilities=probabilities[row, tier],
    )


def policy_of_all_tiers(tiers: tuple[str, ...], confidence: npt.NDArray[Any]) -> PolicyTable:
    """Each of three tiers answers a good share; the least certain rows skip the second."""
    skip, accept = (float(np.quantile(confidence[:, 0], q)) for q in (0.25, 0.6))
    accept_next = float(np.quantile(confidence[:, 1], 0.6))
    return PolicyTable(
        tiers=tiers,
        routes=(
            Route(cuts=(skip, accept), to=(2, 1, ANSWER)),
            Route(cuts=(accept_next,), to=(2, ANSWER)),
            Route(cuts=(), to=(ANSWER,)),
        ),
    )


def alone(tier: str) -> PolicyTable:
    """One tier answers everything."""
    return PolicyTable(tiers=(tier,), routes=(Route(cuts=(), to=(ANSWER,)),))


def with_policies(plan: GearPlan, *policies: tuple[PolicyTable, float | None]) -> GearPlan:
    """The plan with other gears: policies and the rates up to which they serve."""
    gears = tuple(
        plan.gears[0].model_copy(update={"policy": policy, "up_to_rps": rate}) for policy, rate in policies
    )
    return plan.model_copy(update={"gears": gears})


def with_fallback(plan: GearPlan, tier: str, policy: PolicyTable) -> GearPlan:
    """The plan with one gear for the loss of a tier, and none for any other."""
    gear = plan.gears[0].model_copy(update={"policy": policy, "up_to_rps": None})
    return plan.model_copy(update={"fallbacks": (FallbackGears(without=(tier,), gears=(gear,)),)})


def with_trigger(plan: GearPlan, min_queue: int, max_wait_ms: float) -> GearPlan:
    """The plan with gears that hold their first tier back."""
    update = {"min_queue": min_queue, "max_wait_ms": max_wait_ms}
    return plan.model_copy(update={"gears": tuple(gear.model_copy(update=update) for gear in plan.gears)})


def with_limits(plan: GearPlan, **limits: float) -> GearPlan:
    """The plan with other limits of the router."""
    return plan.model_copy(update={"limits": plan.limits.model_copy(update=limits)})


def with_slow_tiers(plan: GearPlan, p99_ms: float) -> GearPlan:
    """The plan with tiers that are planned to take long."""
    ladder = tuple(info.model_copy(update={"p99_ms": p99_ms}) for info in plan.ladder)
    return plan.model_copy(update={"ladder": ladder})


def plan_path(repository: Path) -> Path:
    return repository / MODEL / "plan" / "gear_plan.json"


def put_plan(server: Server, repository: Path, content: bytes) -> None:
    """Rename a plan into its place and wait until the running router has taken it over."""
    before = took_over(server, content)
    write_atomically(plan_path(repository), content)
    wait_until(lambda: took_over(server, content) > before, "the router takes over the plan")


def took_over(server: Server, content: bytes) -> int:
    """How often the router has taken over a plan of this content."""
    line = f"took over gear plan {hashlib.sha256(content).hexdigest()[:12]}"
    return server.log.read_text(errors="replace").count(line)


def to_bytes(plan: GearPlan) -> bytes:
    return plan.model_dump_json().encode()


@contextmanager
def swapped_plan(server: Server, repository: Path, plan: GearPlan) -> Iterator[None]:
    """Serve another plan for the length of a block."""
    before = plan_path(repository).read_bytes()
    put_plan(server, repository, to_bytes(plan))
    try:
        yield
    finally:
        put_plan(server, repository, before)


class Client:
    """One plain tritonclient over either protocol."""

    def __init__(self, server: Server, protocol: Protocol) -> None:
        self.library = LIBRARY[protocol]
        url = server.grpc_url if protocol == "grpc" else server.http_url
        self._client = self.library.InferenceServerClient(url)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def ask(
        self,
        pixels: npt.NDArray[Any],
        *,
        model: str = MODEL,
        name: str = INPUT,
        datatype: str = "FP32",
        parameters: dict[str, Any] | None = None,
    ) -> Arrays:
        """Outputs by name, as [rows], PROBS as [rows, classes]."""
        tensor = self.library.InferInput(name, list(pixels.shape), datatype)
        tensor.set_data_from_numpy(pixels)
        found = self._client.infer(model, [tensor], parameters=parameters)
        return flat(found)


def flat(result: Any) -> Arrays:
    """The outputs of one response, without the dimension of size 1."""
    outputs = {name: result.as_numpy(name) for name in OUTPUTS}
    return {name: v if name == "PROBS" else v[:, 0] for name, v in outputs.items()}


def metric(server: Server, name: str, **labels: str) -> float:
    """Sum of all samples of one metric of the cascade whose labels match."""
    with urllib.request.urlopen(server.metrics_url, timeout=PATIENCE_S) as page:
        text = page.read().decode()
    total = 0.0
    for labelled, value in re.findall(rf"^{name}\{{(.*)\}} (\S+)$", text, re.MULTILINE):
        found = dict(re.findall(r'(\w+)="([^"]*)"', labelled))
        if found.get("model") == MODEL and labels.items() <= found.items():
            total += float(value)
    return total


def settled_metric(server: Server, name: str, **labels: str) -> float:
    """The same, after everything that has been answered so far was written out."""
    time.sleep(HOUSEKEEPING_S)
    return metric(server, name, **labels)


def stubs(server: Server, model: str) -> list[psutil.Process]:
    """The processes that serve one model."""
    found = []
    for child in psutil.Process(server.process.pid).children(recursive=True):
        try:
            if f"/{model}/" in " ".join(child.cmdline()):
                found.append(child)
        except psutil.NoSuchProcess:
            continue
    return found


def group_members(group: int) -> list[psutil.Process]:
    """Living processes of one process group."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found


def shared_memory_of(pid: int) -> set[str]:
    """Shared memory of the servers that one process has started."""
    return {path.name for path in SHARED_MEMORY.glob(f"cascade_{pid}_*")}


def default_signals() -> None:
    """What a terminal gives its programs, however the tests were started."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
