"""Writes a commented cascade that runs as it is."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from pydantic import TypeAdapter, ValidationError

from cascade_tools import resources
from cascade_tools.errors import UsageError
from cascade_tools.spec import Name, describe
from cascade_tools.store import readable_disk_errors, write_atomically

STARTER = Path(__file__).resolve().parents[1] / "starter"


def write_starter(parent: Path, name: str) -> list[Path]:
    """Write `<parent>/<name>/` with a spec, a device file of this machine, two models and data.

    Raises:
        UsageError: the name is not a legal one, or the folder exists.
    """
    try:
        TypeAdapter(Name).validate_python(name)
    except ValidationError as error:
        raise UsageError(f"name {name!r}: {describe(error)}") from None
    folder = parent / name
    try:
        exists = folder.exists()
    except OSError as error:
        raise UsageError(f"--parent {parent}: {error.strerror}") from None
    if exists:
        raise UsageError(f"{folder}: exists already", "choose another name")
    memory_mib = psutil.virtual_memory().total // 2**20
    templates = Environment(
        loader=FileSystemLoader(resources.templates()),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,
    )
    files = {
        "cascade.yaml": templates.get_template("init/cascade.yaml.j2").render(name=name, folder=folder),
        "devices/this-machine.yaml": templates.get_template("init/devices.yaml.j2").render(
            cores=os.cpu_count() or 1,
            memory_mib=memory_mib,
            reserved_mib=memory_mib // 4,
        ),
        "models.py": (STARTER / "models.py").read_text(),
        "data.py": (STARTER / "data.py").read_text(),
    }
    with readable_disk_errors(folder):
        for path, text in files.items():
            write_atomically(folder / path, text.encode())
    return [folder / path for path in files]
