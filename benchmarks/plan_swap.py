"""Another plan for a router that serves."""

from __future__ import annotations

import time
from pathlib import Path

from cascade_tools.errors import CascadeError
from cascade_tools.serving.embedded import Server
from cascade_tools.store import digest_bytes, write_atomically

TAKE_OVER_S = 30.0  # the router looks every 250 ms
LOOK_S = 0.1


def swap_plan(server: Server, path: Path, content: bytes) -> None:
    """Put a plan in the place of a running router's, and wait until the router says that it has it.

    Args:
        server: whose log says so.
        path: of the router's plan.
        content: the plan as JSON; nothing happens where it stands there already.

    Raises:
        CascadeError: the router does not take it.
    """
    if path.read_bytes() == content:
        return
    said = f"took over gear plan {digest_bytes(content)[:12]}"
    before = _times(server, said)
    write_atomically(path, content)
    deadline_s = time.monotonic() + TAKE_OVER_S
    while _times(server, said) == before:
        if time.monotonic() > deadline_s:
            raise CascadeError("the router did not take over a plan", f"see {server.log}")
        time.sleep(LOOK_S)


def _times(server: Server, said: str) -> int:
    return server.log.read_text(errors="replace").count(said)
