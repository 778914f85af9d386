"""The embedded Triton with one tier at a time, loaded and unloaded by its model control API."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import tritonclient.grpc as triton_grpc
from tritonclient.utils import InferenceServerException

from cascade_tools.errors import CascadeError
from cascade_tools.repository import place
from cascade_tools.repository.manifest import Contents, make_manifest
from cascade_tools.repository.profiling import for_measuring
from cascade_tools.serving.embedded import Server, embedded_triton, log_tail
from cascade_tools.serving.stubs import live_stubs

LOAD_TIMEOUT_S = 120.0
UNLOAD_TIMEOUT_S = 30.0
POLL_S = 0.05


class TierServer:
    """A running server; no model is loaded but inside `loaded`."""

    def __init__(self, server: Server, client: triton_grpc.InferenceServerClient, files: Contents) -> None:
        self._client = client
        self._files = files
        self.server = server

    @property
    def url(self) -> str:
        """Address of its gRPC endpoint."""
        return self.server.grpc_url

    @contextmanager
    def loaded(self, model: str, instances: int) -> Iterator[None]:
        """Load one model with so many instances; unload it and wait until its processes are gone.

        Raises:
            CascadeError: it does not load, or does not go away.
        """
        rendered = self._files[f"{model}/config.pbtxt"]
        assert isinstance(rendered, bytes)
        config = for_measuring(rendered, instances)
        try:
            self._client.load_model(model, config=config, client_timeout=LOAD_TIMEOUT_S)
        except InferenceServerException as error:
            raise CascadeError(
                f"model {model} does not load: {error.message()}\n{log_tail(self.server.log)}"
            ) from None
        try:
            yield
        except BaseException:
            with suppress(CascadeError):  # a model that failed often does not unload either
                self._unload(model)
            raise
        self._unload(model)

    def _unload(self, model: str) -> None:
        try:
            self._client.unload_model(model, client_timeout=UNLOAD_TIMEOUT_S)
        except InferenceServerException as error:
            raise CascadeError(f"model {model} does not unload: {error.message()}") from None
        deadline = time.monotonic() + UNLOAD_TIMEOUT_S
        while model in live_stubs(self.server.process.pid).values():
            if time.monotonic() > deadline:
                raise CascadeError(f"model {model}: its processes are still there after it was unloaded")
            time.sleep(POLL_S)

    def cpu_s(self, model: str) -> float:
        """CPU time that the processes of a loaded model have used so far."""
        return self.server.cpu_seconds().get(model, 0.0)

    def private_mib(self, model: str) -> float:
        """Memory that the processes of a loaded model share with no other process, in MiB."""
        total = 0
        for stub, name in live_stubs(self.server.process.pid).items():
            if name == model:
                total += psutil.Process(stub).memory_full_info().uss
        return total / 2**20


@contextmanager
def tier_server(files: Contents) -> Iterator[TierServer]:
    """Start the embedded server over a repository of tiers, none of them loaded.

    Args:
        files: of `repository.profiling.profiling_files`.

    Raises:
        EnvironmentLacks: the embedded server does not run here.
        CascadeError: it does not become ready.
    """
    with tempfile.TemporaryDirectory(prefix="cascade-profile-") as folder:
        repository = place.put(Path(folder), files, make_manifest("profile", "embedded", files))
        with (
            embedded_triton(repository, load=()) as server,
            triton_grpc.InferenceServerClient(server.grpc_url) as client,
        ):
            yield TierServer(server, client, files)
