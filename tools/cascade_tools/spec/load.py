"""Reads spec files; a mistake becomes one message that names the fields."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from cascade_tools.errors import UsageError
from cascade_tools.spec.base import describe
from cascade_tools.spec.cascade import Cascade
from cascade_tools.spec.devices import Devices

SPEC_FILE = "cascade.yaml"
_T = TypeVar("_T", bound=BaseModel)


def load_cascade(folder: Path) -> Cascade:
    """Read and check `<folder>/cascade.yaml`.

    Raises:
        UsageError: the file is missing, is not YAML, or has wrong or unknown fields; all are named.
    """
    try:
        path = folder / SPEC_FILE if folder.is_dir() else folder
    except OSError as error:
        raise UsageError(f"{folder}: cannot be read: {error.strerror}") from None
    return _checked(Cascade, path).in_folder(path.parent.resolve())


def load_devices(cascade: Cascade, path: Path | None = None) -> Devices:
    """Read the device file of a cascade, or another one.

    Raises:
        UsageError: as for `load_cascade`.
    """
    return _checked(Devices, path or cascade.folder / cascade.devices)


def _checked(kind: type[_T], path: Path) -> _T:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UsageError(
            f"{path}: no such file", "`cascade-tools init NAME` writes a commented example"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read: {error}") from None
    try:
        content: Any = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(content, dict):
        raise UsageError(f"{path}: must be a mapping of fields, found {type(content).__name__}")
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise UsageError(f"{path}: {describe(error)}") from None
