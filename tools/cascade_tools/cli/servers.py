"""The server that a verb puts load on: one that runs already, or one started for it."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cascade_tools.cli.output import show_warning
from cascade_tools.errors import ArtifactError, UsageError

if TYPE_CHECKING:
    from cascade_tools.serving.embedded import Server
    from cascade_tools.store import Workspace

METRICS_PORT = 8002


@dataclass(frozen=True)
class Served:
    """Addresses of gRPC and of the metrics page; `server` where it was started here."""

    grpc_url: str
    metrics_url: str
    server: Server | None


def served(stack: ExitStack, work: Workspace, url: str | None, metrics_url: str | None) -> Served:
    """The server at an address; without one the embedded Triton, until the stack ends.

    Raises:
        UsageError: an address is none, the metrics page of no server is named, or the repository is for
            several hosts.
        ArtifactError: no repository is built.
    """
    from cascade_tools.repository.manifest import entry_shares_of
    from cascade_tools.serving.adopted import adopted_to_serve
    from cascade_tools.serving.embedded import embedded_triton
    from cascade_tools.serving.infer import check_address
    from cascade_tools.serving.metrics_page import page_address
    from cascade_tools.stages.build_repo import repository_root
    from cascade_tools.stages.pipeline import status
    from cascade_tools.stages.progress import stderr_reporter

    if url is not None:
        check_address(url)
        return Served(url, page_address(metrics_url or f"{url.rpartition(':')[0]}:{METRICS_PORT}"), None)
    if metrics_url is not None:
        raise UsageError("--metrics-url: belongs to --url, the address of a running server")
    repository = repository_root(work, "embedded") / "current"
    if not repository.is_dir():
        raise ArtifactError(f"{repository}: no repository is built there", f"run `{work.command('run')}`")
    if entry_shares_of(repository):
        raise UsageError(
            f"{repository}: is for several hosts",
            f"start each with `{work.command('serve')} --host N`, and name the router's with --url",
        )
    if status(work, "embedded", stderr_reporter())["build-repo"] == "stale":
        show_warning(f"the repository is behind what it was made from; run `{work.command('run')}`")
    server = stack.enter_context(embedded_triton(repository, adopted=adopted_to_serve(work.cascade)))
    return Served(server.grpc_url, server.metrics_url, server)
