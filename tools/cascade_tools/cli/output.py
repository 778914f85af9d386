"""What goes to stdout: tables for people, then, with `--json`, one object on the last line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

WIDTH = 110


def show_table(
    title: str, header: Sequence[str], rows: Sequence[Sequence[str]], *, figures: bool = True
) -> None:
    """A table; the first column is text, the others are figures unless said otherwise."""
    table = Table(title=title, box=SIMPLE_HEAD, title_justify="left", title_style="bold")
    for number, name in enumerate(header):
        right = figures and number > 0
        table.add_column(name, justify="right" if right else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    _console().print(table)


def show_line(text: str) -> None:
    """One line for people."""
    _console().print(text, highlight=False, markup=False, soft_wrap=True)


def show_labels(labels: str, giant: str) -> None:
    """Say so where the last tier's answers stand for the truth."""
    if labels == "giant":
        show_line(f"  no labels: the answers of {giant} count as right; accuracy means agreement with it")


def show_warning(text: str) -> None:
    """One line on stderr."""
    Console(stderr=True, soft_wrap=True).print(f"warning: {text}", highlight=False, markup=False)


def figure(value: float | None, digits: int) -> str:
    """A number in a table; a dash where there is none."""
    return "-" if value is None else f"{value:.{digits}f}"


def show_json(content: Any) -> None:
    """The one object for machines, on one line."""
    print(json.dumps(content, allow_nan=False), flush=True)


def _console() -> Console:
    plain = Console()
    return plain if plain.is_terminal else Console(width=WIDTH)
