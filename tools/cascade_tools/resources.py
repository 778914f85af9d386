"""Finds the folders that stand outside the package in a checkout and inside it in a wheel."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
_CHECKOUT = _PACKAGE.parents[1]


def templates() -> Path:
    """The Jinja2 templates."""
    return _find("templates")


def shipped_cascade(name: str) -> Path:
    """A cascade that comes with the project, such as `digits`."""
    return _find("ensembles") / name


def _find(name: str) -> Path:
    inside = _PACKAGE / name
    return inside if inside.is_dir() else _CHECKOUT / name
