"""A served cascade that may be broken in every way, and the load that runs against it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http

from benchmarks.faults.judge import InForce
from benchmarks.faults.ladder import (
    CASCADE,
    INPUT,
    MAX_BATCH,
    NAMES,
    TIERS,
    gear_plan,
    graphs,
    put_repository,
)
from benchmarks.faults.load import Job, tensor
from benchmarks.faults.oracle import ORDINARY, Oracle, make_oracle
from cascade_tools.repository.manifest import PLAN_FILE
from cascade_tools.repository.render import VERSION
from cascade_tools.serving.embedded import Ports, Server, embedded_triton, free_ports
from cascade_tools.serving.stubs import live_stubs
from cascade_tools.store import digest_bytes, load_npz, write_atomically

PATIENCE_S = 60.0  # longer than a keeper leaves the processes of an old version
POLL_S = 0.02
BESIDE = ("onnx_session.py", "joined.py", "model.onnx")  # what a tier's model.py reads
SECOND_SEND = "an answer could not be sent"


class Load:
    """The client process, while it runs."""

    def __init__(self, job: Job, folder: Path) -> None:
        self.job = job
        self._finished = 0
        description = folder / "job.json"
        description.write_text(json.dumps(asdict(job)))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.faults.load", str(description)],
            stdout=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._finished = int(line)

    def wait_for(self, share: float) -> None:
        """Block until this share of the requests is over."""
        while self._finished < share * self.job.requests and self._process.poll() is None:
            time.sleep(POLL_S)

    @property
    def is_running(self) -> bool:
        """It has not sent everything yet."""
        return self._process.poll() is None

    def results(self) -> dict[str, npt.NDArray[Any]]:
        """Wait for the end; the records."""
        if self._process.wait() != 0:
            raise RuntimeError("the client process failed; see above")
        self._reader.join()
        return load_npz(Path(self.job.results))

    def stop(self) -> None:
        """End the process if it has not ended."""
        self._process.kill()
        self._process.wait()
        self._reader.join()


class Scene:
    """The server of one run, its plan, and what can be done to both.

    Args:
        folder: an empty one, for the repository and the logs.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.graphs = graphs()
        self.oracle: Oracle = make_oracle(self.graphs)
        np.savez(folder / "rows.npz", rows=self.oracle.rows)
        base = gear_plan(self.oracle.tables["base"], self.graphs)
        self.repository = put_repository(folder / "repository", base, self.graphs)
        self._plan_path = self.repository / CASCADE / PLAN_FILE
        self.router_kills_s: list[float] = []
        self._in_force = [InForce("base", 0.0, np.inf)]
        self._ports: Ports = free_ports()
        self._logs: list[Path] = []
        self._running: AbstractContextManager[Server] | None = None
        self.server: Server

    def __enter__(self) -> Scene:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    # The server

    def start(self) -> None:
        """Start the server, on the same ports as before."""
        self._logs.append(self.folder / f"triton-{len(self._logs)}.log")
        running = embedded_triton(
            self.repository, self._ports, self._logs[-1], self.folder / "shadow.jsonl", keep=True
        )
        self.server = running.__enter__()
        self._running = running

    def end(self) -> None:
        """End the server and what it leaves, if it runs."""
        running, self._running = self._running, None
        if running is not None:
            running.__exit__(None, None, None)

    def signal_server(self, number: signal.Signals) -> None:
        """Send a signal to the server alone, and wait for its end."""
        os.kill(self.server.process.pid, number)
        self.server.process.wait(PATIENCE_S)

    def logged(self, text: str) -> int:
        """How often something stands in the logs of all servers so far."""
        return sum(log.read_text(errors="replace").count(text) for log in self._logs)

    # The models

    def stubs(self, model: str) -> list[int]:
        """Processes of a model's instances."""
        return sorted(pid for pid, name in live_stubs(self.server.process.pid).items() if name == model)

    def kill(self, model: str) -> float:
        """Kill one instance of a model; the time at which it was done."""
        os.kill(self.stubs(model)[0], signal.SIGKILL)
        return time.time()

    @contextmanager
    def stopped(self, model: str) -> Iterator[None]:
        """The model's processes stand still for the length of a block."""
        victims = self.stubs(model)
        for victim in victims:
            os.kill(victim, signal.SIGSTOP)
        try:
            yield
        finally:
            for victim in victims:
                os.kill(victim, signal.SIGCONT)

    def unload(self, model: str) -> None:
        """Unload a model by the control API."""
        with self._control() as client:
            client.unload_model(model)

    def load(self, model: str) -> None:
        """Load a model by the control API."""
        with self._control() as client:
            client.load_model(model)

    def load_slow(self, tier: str) -> None:
        """Load a slow one in the place of a tier."""
        model = f"{CASCADE}_{tier}"
        folder = self.repository / model / VERSION
        files = {
            f"file:{VERSION}/model.py": (Path(__file__).parent / "slow_tier.py").read_bytes(),
            f"file:{VERSION}/tier.py": (folder / "model.py").read_bytes(),
            **{f"file:{VERSION}/{n}": (folder / n).read_bytes() for n in BESIDE},
        }
        with self._control() as client:
            config = client.get_model_config(model)
            # Without another config Triton takes the load for an update in place, and ignores the files.
            config["parameters"]["slow"] = {"string_value": "yes"}
            client.load_model(model, config=json.dumps(config), files=files)

    def _control(self) -> Any:
        return triton_http.InferenceServerClient(
            self.server.http_url, connection_timeout=PATIENCE_S, network_timeout=PATIENCE_S
        )

    def wait_until_whole(self) -> None:
        """Wait until every instance runs and every row gets the answer of the plan."""
        wanted = {CASCADE: 1} | {f"{CASCADE}_{name}": TIERS[name][1] for name in NAMES}

        def whole() -> bool:
            live = list(live_stubs(self.server.process.pid).values())
            return all(live.count(model) == count for model, count in wanted.items()) and self._is_right()

        wait_until(whole, "all models answer again")

    def _is_right(self) -> bool:
        try:
            with triton_grpc.InferenceServerClient(self.server.grpc_url) as client:
                for first in range(0, 4 * MAX_BATCH, MAX_BATCH):
                    rows = slice(first, first + MAX_BATCH)
                    found = client.infer(CASCADE, [tensor(INPUT, self.oracle.rows[rows])], client_timeout=5.0)
                    tiers, flags = found.as_numpy("TIER")[:, 0], found.as_numpy("FLAGS")[:, 0]
                    if flags.any() or (tiers != self.oracle.tier[self._in_force[-1].policy][rows]).any():
                        return False
        except triton_grpc.InferenceServerException:
            return False
        return True

    # The plan

    def put_plan(self, policy: str, **limits: float) -> None:
        """Give the router a plan, if it has another one, and wait until it has taken it over."""
        content = gear_plan(self.oracle.tables[policy], self.graphs, **limits).model_dump_json().encode()
        if content == self._plan_path.read_bytes():
            return
        begun_s = time.time()
        self._write_and_wait(content, f"took over gear plan {digest_bytes(content)[:12]}")
        before = self._in_force[-1]
        self._in_force[-1] = InForce(before.policy, before.from_s, time.time())
        self._in_force.append(InForce(policy, begun_s, np.inf))

    def put_corrupt_plan(self, content: bytes) -> None:
        """Put something in the plan's place that is none, and wait until it is refused."""
        self._write_and_wait(content, "refused a gear plan")

    def plan_bytes(self, policy: str) -> bytes:
        """A plan as the router reads it."""
        return gear_plan(self.oracle.tables[policy], self.graphs).model_dump_json().encode()

    def _write_and_wait(self, content: bytes, line: str) -> None:
        before = self.logged(line)
        write_atomically(self._plan_path, content)
        wait_until(lambda: self.logged(line) > before, f"the log says: {line}")

    def plans_since(self, begun_s: float) -> list[InForce]:
        """What the router may have gone by since then."""
        return [plan for plan in self._in_force if plan.until_s >= begun_s]

    # The load

    @contextmanager
    def load_of(
        self,
        *,
        requests: int,
        mix: dict[str, float],
        clients: int,
        rate_rps: float,
        seconds: float = 0.0,
        seed: int = 0,
    ) -> Iterator[Load]:
        """Clients that send while the block runs."""
        job = Job(
            url=self.server.grpc_url,
            model=CASCADE,
            input=INPUT,
            rows=str(self.folder / "rows.npz"),
            results=str(self.folder / "results.npz"),
            ordinary=ORDINARY,
            clients=clients,
            requests=requests,
            seconds=seconds,
            rate_rps=rate_rps,
            mix=mix,
            max_batch=MAX_BATCH,
            seed=seed,
        )
        load = Load(job, self.folder)
        try:
            yield load
        finally:
            load.stop()


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Poll until something has happened.

    Raises:
        TimeoutError: it has not after a minute.
    """
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"still waiting after {PATIENCE_S:.0f} s: {what}")
        time.sleep(POLL_S)
