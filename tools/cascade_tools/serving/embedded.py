"""Runs the embedded Triton over one repository, and leaves nothing behind.

The server has its own process group and its own prefix for shared memory. Whatever ends the block (an
exception, Ctrl-C, SIGTERM), the group is ended and the shared memory of that prefix is removed. If this
process is killed outright, the kernel sends the server SIGTERM; only a small temporary folder then stays.
"""

from __future__ import annotations

import ctypes
import errno
import ipaddress
import os
import secrets
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import tritonclient.http as triton_http

from cascade_tools.errors import CascadeError, EnvironmentLacks, UsageError
from cascade_tools.repository.manifest import has_process, models_of, refuse_other_target
from cascade_tools.runtime.counts import counts_path
from cascade_tools.runtime.shadow import SHADOW_VARIABLE
from cascade_tools.serving.keeper import Keeper
from cascade_tools.serving.stubs import model_of
from cascade_tools.serving.triton_wheel import find_triton

LOOPBACK, EVERYWHERE = "127.0.0.1", "0.0.0.0"
READY_TIMEOUT_S = 120.0
EXIT_TIMEOUT_S = 15
SHARED_MEMORY = Path("/dev/shm")
LOG_TAIL_LINES = 15
PR_SET_PDEATHSIG = 1
TERMINATED = 128 + signal.SIGTERM  # as a shell has it


# What nobody may do by gRPC where it listens beyond this machine.
RESTRICTED = "model-repository,shared-memory,trace,logging"


@dataclass(frozen=True)
class Ports:
    """HTTP, gRPC and metrics port on the loopback interface.

    Attributes:
        grpc_address: of the interface where gRPC listens, so that other hosts may ask.
    """

    http: int
    grpc: int
    metrics: int
    grpc_address: str = LOOPBACK


@dataclass(frozen=True)
class Adopted:
    """Models that are served as they are: those of `names` in a model repository, nothing else in it."""

    repository: Path
    names: tuple[str, ...]

    def arguments(self, also: Sequence[str] = ()) -> list[str]:
        """For tritonserver; once models are named, it loads no others. Their configs may be incomplete."""
        load = [f"--load-model={name}" for name in (*also, *self.names)]
        return [f"--model-repository={self.repository}", "--model-control-mode=explicit", *load]


class Server:
    """A running Triton."""

    def __init__(self, process: subprocess.Popen[bytes], ports: Ports, log: Path) -> None:
        self.process = process
        self.ports = ports
        self.log = log

    @property
    def http_url(self) -> str:
        """Address for tritonclient.http."""
        return f"{LOOPBACK}:{self.ports.http}"

    @property
    def grpc_url(self) -> str:
        """Address for tritonclient.grpc on this machine."""
        address = self.ports.grpc_address
        return f"{LOOPBACK if address == EVERYWHERE else address}:{self.ports.grpc}"

    @property
    def metrics_url(self) -> str:
        """Address of the Prometheus page."""
        return f"http://{LOOPBACK}:{self.ports.metrics}/metrics"

    def cpu_seconds(self) -> dict[str, float]:
        """CPU time that the processes of each model have used so far; '' is the server itself."""
        spent: dict[str, float] = {"": 0.0}
        parent = psutil.Process(self.process.pid)
        for process in [parent, *parent.children(recursive=True)]:
            try:
                times, command = process.cpu_times(), process.cmdline()
            except psutil.NoSuchProcess:
                continue
            model = model_of(command)
            spent[model] = spent.get(model, 0.0) + times.user + times.system
        return spent

    def memory_mib(self, model: str) -> float:
        """Resident memory of the processes that serve one model."""
        total = 0
        for process in psutil.Process(self.process.pid).children(recursive=True):
            try:
                if model_of(process.cmdline()) == model:
                    total += process.memory_info().rss
            except psutil.NoSuchProcess:
                continue
        return total / 2**20

    def wait(self) -> int:
        """Block until the server ends; return its exit code."""
        return self.process.wait()


def free_ports() -> Ports:
    """Three free ports on the loopback interface."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(3)]
        for held in sockets:
            held.bind((LOOPBACK, 0))
        return Ports(*[held.getsockname()[1] for held in sockets])


def check_ports(ports: Ports) -> None:
    """See that nobody else listens on them.

    Raises:
        UsageError: names the port that is in use, or the address that is none of this machine.
    """
    if len({ports.http, ports.grpc, ports.metrics}) < 3:
        raise UsageError("--http-port, --grpc-port and --metrics-port: must differ")
    check_interface(ports.grpc_address)
    for name, address, port in (
        ("http", LOOPBACK, ports.http),
        ("grpc", ports.grpc_address, ports.grpc),
        ("metrics", LOOPBACK, ports.metrics),
    ):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
            except OSError as error:
                if error.errno == errno.EADDRNOTAVAIL:
                    raise UsageError(
                        f"--{name}-address {address}: no interface of this machine has it",
                        "name one that `ip address` shows, or 0.0.0.0 for all",
                    ) from None
                said = "in use by another process" if error.errno == errno.EADDRINUSE else error.strerror
                raise UsageError(
                    f"--{name}-port {port}: {said}",
                    f"choose another with --{name}-port, or 0 for any free one",
                ) from None


def check_interface(address: str) -> None:
    """See that it is the IPv4 address of an interface.

    Raises:
        UsageError: it is something else.
    """
    try:
        ipaddress.IPv4Address(address)
    except ValueError:
        raise UsageError(
            f"--grpc-address {address!r}: must be an IPv4 address, such as 10.0.0.2",
            "name the address of the interface that other hosts reach, or 0.0.0.0 for all",
        ) from None


@contextmanager
def embedded_triton(
    repository: Path,
    ports: Ports | None = None,
    log: Path | None = None,
    shadow: Path | None = None,
    adopted: Adopted | None = None,
    keep: bool = False,
    load: Sequence[str] | None = None,
) -> Iterator[Server]:
    """Serve a repository on the loopback interface until the block ends.

    Args:
        repository: with a manifest for the embedded server.
        ports: None for any that are free.
        log: where the server's log goes; None for a file that goes with the server.
        shadow: where the router writes its shadow log; None for none.
        adopted: models that the repository's router asks and that are not in it.
        keep: revive the repository's models whose processes die, see `keeper`.
        load: the models that are loaded at the start; None for all of the repository.

    Raises:
        EnvironmentLacks: the wheel does not run here.
        ArtifactError: the repository is for another server.
        UsageError: a port is in use.
        CascadeError: the server did not become ready; the end of its log is shown.
    """
    find_triton()
    manifest = refuse_other_target(repository, "embedded")
    own = models_of(repository, manifest) if load is None else list(load)
    models = [f"--model-repository={repository}"]
    if adopted is None:
        # Explicit, so that a single model can be loaded again.
        load = [f"--load-model={name}" for name in own]
        models += ["--disable-auto-complete-config", "--model-control-mode=explicit", *load]
    else:
        models += adopted.arguments(also=own)
    keeper: Keeper | None = None
    try:
        with _running(models, ports, log, shadow) as server:
            if keep:
                kept = [name for name in own if has_process(manifest, name)]
                keeper = Keeper(server.process.pid, server.http_url, repository, manifest, kept)
                keeper.start()
            try:
                yield server
            finally:
                if keeper is not None:
                    keeper.announce_stop()
    finally:
        if keeper is not None:
            keeper.join()


@contextmanager
def adopted_triton(adopted: Adopted) -> Iterator[Server]:
    """Serve models of somebody's own repository on the loopback interface until the block ends.

    Raises:
        EnvironmentLacks: the wheel does not run here.
        CascadeError: the server did not become ready; the end of its log is shown.
    """
    with _running(adopted.arguments(), None, None, None) as server:
        yield server


@contextmanager
def _running(
    models: list[str], ports: Ports | None, log: Path | None, shadow: Path | None
) -> Iterator[Server]:
    wheel = find_triton()
    ports = ports or free_ports()
    check_ports(ports)
    _check_shared_memory()
    prefix = f"cascade_{os.getpid()}_{secrets.token_hex(4)}"
    with tempfile.TemporaryDirectory(prefix="cascade-triton-") as folder, _sigterm_raises():
        log = log or Path(folder) / "triton.log"
        command = [
            str(wheel.binary),
            *models,
            f"--backend-directory={wheel.backend_directory(Path(folder))}",
            f"--backend-config=python,shm-region-prefix-name={prefix}",
            f"--http-address={LOOPBACK}",
            f"--grpc-address={ports.grpc_address}",
            f"--metrics-address={LOOPBACK}",
            f"--http-port={ports.http}",
            f"--grpc-port={ports.grpc}",
            f"--metrics-port={ports.metrics}",
            f"--exit-timeout-secs={EXIT_TIMEOUT_S}",
        ]
        if ports.grpc_address != LOOPBACK:
            # Under a key that nobody has; HTTP, by which models are revived, stays on the loopback interface.
            command.append(f"--grpc-restricted-protocol={RESTRICTED}:key={secrets.token_hex(16)}")
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=wheel.environment() | ({SHADOW_VARIABLE: str(shadow.resolve())} if shadow else {}),
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
        server = Server(process, ports, log)
        try:
            _wait_until_ready(server)
            yield server
        finally:
            _stop(process, prefix)


def _check_shared_memory() -> None:
    if not os.access(SHARED_MEMORY, os.W_OK):
        raise EnvironmentLacks(f"{SHARED_MEMORY}: Triton's Python backend needs to write there")


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    """Let SIGTERM unwind like Ctrl-C, so that the server is stopped on the way out."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def unwind(number: int, frame: object) -> None:
        raise SystemExit(TERMINATED)  # click makes 130 of a KeyboardInterrupt, which is Ctrl-C's

    before = signal.signal(signal.SIGTERM, unwind)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _wait_until_ready(server: Server) -> None:
    deadline = time.monotonic() + READY_TIMEOUT_S
    client = triton_http.InferenceServerClient(server.http_url)
    try:
        while time.monotonic() < deadline:
            if server.process.poll() is not None:
                raise CascadeError(
                    f"Triton ended with code {server.process.returncode} before it was ready:\n"
                    + log_tail(server.log)
                )
            try:
                if client.is_server_ready():
                    return
            except OSError:
                pass
            time.sleep(0.1)
    finally:
        client.close()
    raise CascadeError(f"Triton was not ready after {READY_TIMEOUT_S:.0f} s:\n{log_tail(server.log)}")


def log_tail(log: Path) -> str:
    """The last lines of a server's log, errors first if there are any."""
    lines = log.read_text(errors="replace").splitlines()
    errors = [line for line in lines if line.startswith("E") or "error" in line.lower()]
    return "\n".join((errors or lines)[-LOG_TAIL_LINES:])


def _stop(process: subprocess.Popen[bytes], prefix: str) -> None:
    """SIGTERM, a bounded wait, then SIGKILL for the whole group; a second Ctrl-C does not stop this."""
    if threading.current_thread() is threading.main_thread():
        before = {s: signal.signal(s, signal.SIG_IGN) for s in (signal.SIGINT, signal.SIGTERM)}
    else:
        before = {}
    try:
        if process.poll() is None:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(EXIT_TIMEOUT_S + 5)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for pattern in (f"{prefix}*", counts_path(process.pid, "*").name):
            for region in SHARED_MEMORY.glob(pattern):
                region.unlink(missing_ok=True)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
