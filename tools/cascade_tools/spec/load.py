"""Reads a cascade and its devices."""

from __future__ import annotations

from pathlib import Path

from cascade_tools.errors import UsageError
from cascade_tools.spec.cascade import Cascade
from cascade_tools.spec.devices import Devices
from cascade_tools.spec.read import read_spec

SPEC_FILE = "cascade.yaml"


def load_cascade(folder: Path) -> Cascade:
    """Read and check `<folder>/cascade.yaml`.

    Raises:
        UsageError: the file is missing, is not YAML, or has wrong or unknown fields; all are named.
    """
    try:
        path = folder / SPEC_FILE if folder.is_dir() else folder
    except OSError as error:
        raise UsageError(f"{folder}: cannot be read: {error.strerror}") from None
    return read_spec(Cascade, path).in_folder(path.parent.resolve())


def load_devices(cascade: Cascade, path: Path | None = None) -> Devices:
    """Read the device file of a cascade, or another one.

    Raises:
        UsageError: as for `load_cascade`.
    """
    return read_spec(Devices, path or cascade.folder / cascade.devices)
