"""The processes behind the models of Triton's Python backend: one stub per model instance."""

from __future__ import annotations

from pathlib import Path

import psutil

from cascade_tools.serving.triton_wheel import STUB


def model_of(command: list[str]) -> str:
    """The model that a stub process serves: the folder above the version in its first argument; else ''."""
    if len(command) > 1 and Path(command[0]).name == STUB:
        return Path(command[1]).parent.parent.name
    return ""


def live_stubs(server: int) -> dict[int, str]:
    """Stub process -> its model, of the server with this process id; dead ones are left out."""
    found = {}
    try:
        children = psutil.Process(server).children(recursive=True)
    except psutil.NoSuchProcess:
        return {}
    for child in children:
        try:
            if child.status() != psutil.STATUS_ZOMBIE and (model := model_of(child.cmdline())):
                found[child.pid] = model
        except psutil.NoSuchProcess:
            continue
    return found


def is_live(stub: int) -> bool:
    """The process is there and has not ended; a dead stub stays a zombie as long as its server."""
    try:
        return psutil.Process(stub).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
