"""The embedded server leaves nothing behind, however it ends, and says why it does not start."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from tritonclient.utils import InferenceServerException

from cascade_tools.errors import ArtifactError, CascadeError, UsageError
from cascade_tools.models.usercode import Rows
from cascade_tools.repository.manifest import MANIFEST
from cascade_tools.serving.embedded import Server, embedded_triton, free_ports
from cascade_tools.stages.build_repo import build_repo
from cascade_tools.stages.progress import Reporter
from cascade_tools.store import Workspace

from .helpers import (
    INPUT,
    PATIENCE_S,
    Client,
    default_signals,
    group_members,
    shared_memory_of,
    wait_until,
)

pytestmark = pytest.mark.usefixtures("triton")


class Stop(Exception):
    """What a test raises inside the block."""


@pytest.fixture
def own_memory() -> Callable[[], set[str]]:
    """Shared memory of servers that this test has started in this process."""
    before = shared_memory_of(os.getpid())
    return lambda: shared_memory_of(os.getpid()) - before


# A block that ends


def test_after_an_exception_nothing_is_left_and_the_log_stays_where_asked(
    repository: Path, tmp_path: Path, own_memory: Callable[[], set[str]]
) -> None:
    log = tmp_path / "triton.log"
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(Stop), embedded_triton(repository, log=log) as server:
        raise Stop
    assert group_members(server.process.pid) == []
    assert own_memory() == set()
    assert "Started GRPCInferenceService" in log.read_text()
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_a_block_that_ends_under_load_leaves_nothing_and_no_client_hangs(
    repository: Path, rows: Rows, own_memory: Callable[[], set[str]]
) -> None:
    def keep_asking(server: Server) -> None:
        with Client(server, "grpc") as client:
            try:
                while True:
                    client.ask(rows.inputs[INPUT][:8])
                    answered.set()
            except InferenceServerException:
                pass  # the server has gone

    answered = threading.Event()
    with embedded_triton(repository) as server:
        clients = [threading.Thread(target=keep_asking, args=(server,)) for _ in range(4)]
        for client in clients:
            client.start()
        assert answered.wait(PATIENCE_S)
        assert len(group_members(server.process.pid)) > 4, "the server, the router and three tiers"
        assert own_memory()
    for client in clients:
        client.join(PATIENCE_S)
    assert not any(client.is_alive() for client in clients)
    assert group_members(server.process.pid) == []
    assert own_memory() == set()
    assert not server.log.exists(), "a log that nobody asked for goes with the server"


# A command that is ended from outside


@pytest.fixture
def serving(small: Workspace, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """`cascade-tools serve` in a session of its own, ready, and the server's process."""
    command = [
        *(sys.executable, "-m", "cascade_tools.cli.app", "serve", str(small.cascade.folder)),
        *("--build-dir", str(small.build.parent), "--json"),
        *("--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"),
    ]
    with (tmp_path / "stderr").open("wb") as stderr:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            start_new_session=True,
            preexec_fn=default_signals,
        )
    with process:
        try:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(3)]
            assert lines[2].startswith("{"), lines
            yield process, json.loads(lines[2])["server_pid"]
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("signals", "code"),
    [
        ([signal.SIGINT], 130),
        ([signal.SIGTERM], 143),
        ([signal.SIGINT, signal.SIGINT, signal.SIGTERM], 130),
    ],
    ids=["Ctrl-C", "SIGTERM", "impatient"],
)
def test_serve_ends_on_a_signal_and_leaves_nothing(
    serving: tuple[subprocess.Popen[str], int], tmp_path: Path, signals: list[signal.Signals], code: int
) -> None:
    process, server = serving
    assert group_members(server)
    assert shared_memory_of(process.pid)
    for number in signals:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)  # a terminal signals the whole group
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.2)
    assert process.wait(PATIENCE_S) == code
    assert group_members(server) == []
    assert shared_memory_of(process.pid) == set()
    assert "Traceback" not in (tmp_path / "stderr").read_text()


def test_when_serve_is_killed_outright_its_server_ends_too(
    serving: tuple[subprocess.Popen[str], int],
) -> None:
    process, server = serving
    process.kill()
    process.wait(PATIENCE_S)
    wait_until(lambda: group_members(server) == [], "the server ends by itself")
    assert shared_memory_of(process.pid) == set()


def test_serve_ends_when_its_server_ends(serving: tuple[subprocess.Popen[str], int]) -> None:
    process, server = serving
    psutil.Process(server).kill()
    assert process.wait(PATIENCE_S) == 1
    assert group_members(server) == []
    assert shared_memory_of(process.pid) == set()


# What does not start


@pytest.mark.parametrize("option", ["http", "grpc", "metrics"])
def test_a_port_in_use_is_named_with_its_option(repository: Path, option: str) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        ports = replace(free_ports(), **{option: port})
        with (
            pytest.raises(UsageError, match=f"--{option}-port {port}: in use"),
            embedded_triton(repository, ports),
        ):
            pytest.fail("the server started on a port in use")


def refuse(repository: Path) -> ArtifactError:
    with pytest.raises(ArtifactError) as caught, embedded_triton(repository):
        pytest.fail("the server started on a repository that is not for it")
    return caught.value


@pytest.mark.parametrize(
    ("field", "value"),
    [("target", "ngc"), ("server", "nvcr.io/nvidia/tritonserver:26.07-py3")],
)
def test_a_repository_for_another_server_is_refused(repository: Path, field: str, value: str) -> None:
    manifest = repository / MANIFEST
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), field: value}))
    error = refuse(repository)
    assert value in error.message and str(repository) in error.message
    assert "--target embedded" in error.hint


def test_a_repository_that_was_built_for_the_container_is_refused(
    copied: Workspace, report: Reporter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # that target writes to the current folder
    build_repo(copied, "ngc", check=False, report=report)
    error = refuse(tmp_path / "model_repository" / "current")
    assert "made for target 'ngc'" in error.message


def test_a_repository_without_manifest_is_refused(repository: Path) -> None:
    (repository / MANIFEST).unlink()
    error = refuse(repository)
    assert str(repository / MANIFEST) in error.message
    assert "build-repo" in error.hint


@pytest.mark.parametrize("content", ["", "[]", "{}", "{"])
def test_a_manifest_that_is_none_is_refused(repository: Path, content: str) -> None:
    (repository / MANIFEST).write_text(content)
    assert str(repository / MANIFEST) in refuse(repository).message


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert str(tmp_path / "nothing") in refuse(tmp_path / "nothing").message


def test_what_keeps_models_from_loading_is_named_with_the_reason(
    repository: Path, own_memory: Callable[[], set[str]]
) -> None:
    (repository / "small_linear" / "1" / "model.onnx").write_bytes(b"not a graph")
    plan = repository / "small" / "plan" / "gear_plan.json"
    plan.write_text(json.dumps({**json.loads(plan.read_text()), "gears": []}))
    with pytest.raises(CascadeError) as caught, embedded_triton(repository):
        pytest.fail("the server started on a broken repository")
    for reason in ("small_linear", "model.onnx", "Protobuf parsing failed", "gears: needs at least one"):
        assert reason in caught.value.message
    assert own_memory() == set()


# What a running server tells


def test_cpu_time_is_told_apart_by_model(server: Server, rows: Rows) -> None:
    before = server.cpu_seconds()
    assert set(before) == {"", "small", "small_near", "small_linear", "small_kernel"}
    with Client(server, "grpc") as client:
        for _ in range(60):
            client.ask(rows.inputs[INPUT][:8])
    after = server.cpu_seconds()
    spent = np.array([after[name] - before[name] for name in before])
    assert (spent >= 0).all()
    assert after["small"] > before["small"]
    assert after[""] > before[""]


def test_the_server_listens_on_the_loopback_interface_only(server: Server) -> None:
    listening = {
        connection.laddr.ip.removeprefix("::ffff:")
        for connection in psutil.Process(server.process.pid).net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}
