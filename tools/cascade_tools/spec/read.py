"""Reads one spec file; a mistake becomes one message that names the fields."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from cascade_tools.errors import UsageError
from cascade_tools.spec.base import describe

_T = TypeVar("_T", bound=BaseModel)


def read_spec(
    kind: type[_T], path: Path, hint: str = "`cascade-tools init NAME` writes a commented example"
) -> _T:
    """Read and check one spec file.

    Args:
        kind: what it must be.
        path: where it is.
        hint: what to do where it is missing or wrong.

    Raises:
        UsageError: missing, not YAML, or with wrong or unknown fields; all are named.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file", hint) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read: {error}") from None
    try:
        content: Any = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError(f"{path}: not valid YAML: {error}") from None
    if content is None:
        raise UsageError(f"{path}: is empty", hint)
    if not isinstance(content, dict):
        found = "a list" if isinstance(content, list) else f"only {str(content)[:40]!r}"
        raise UsageError(f"{path}: must be a mapping of fields (`name: value`), found {found}", hint)
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise UsageError(f"{path}: {describe(error)}", hint) from None
