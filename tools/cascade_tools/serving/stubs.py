"""The processes behind the models of Triton's Python backend: one stub per model instance."""

from __future__ import annotations

import re
from pathlib import Path

import psutil

from cascade_tools.serving.triton_wheel import STUB

INSTANCE = re.compile(r"(.+)_\d+_\d+")  # <model>_<group>_<number>


def model_of(command: list[str]) -> str:
    """The model that a stub process serves; '' for any other process.

    The last argument but one names the instance. The path of the model does not do: models that were loaded
    by the control API with files of their own lie in a temporary folder.
    """
    if len(command) < 3 or Path(command[0]).name != STUB:
        return ""
    instance = INSTANCE.fullmatch(command[-2])
    return instance.group(1) if instance else ""


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


def is_live(stub: int, model: str) -> bool:
    """The process serves the model; a dead stub stays a zombie as long as its server."""
    try:
        return model_of(psutil.Process(stub).cmdline()) == model
    except psutil.NoSuchProcess:  # of zombies, too
        return False
