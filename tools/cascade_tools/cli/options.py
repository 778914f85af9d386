"""Arguments that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from cascade_tools.errors import UsageError
from cascade_tools.spec import load_cascade
from cascade_tools.store import DEFAULT_BUILD, Workspace

Folder = Annotated[
    Path, typer.Argument(help="Folder of the cascade (with cascade.yaml).", show_default=False)
]
BuildDir = Annotated[Path, typer.Option("--build-dir", help="Where derived files go.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line.")]
TargetName = Annotated[
    Literal["embedded", "ngc"],
    typer.Option("--target", help="Server: the embedded Triton, or NVIDIA's container."),
]

BUILD = DEFAULT_BUILD


def open_workspace(folder: Path, build_dir: Path) -> Workspace:
    """The cascade of a folder and its place below the build folder."""
    cascade = load_cascade(folder)
    return Workspace(cascade, build_dir / cascade.name)


def whole_numbers(option: str, text: str | None) -> tuple[int, ...] | None:
    """Numbers with commas between them; None where the option is not given.

    Raises:
        UsageError: it is something else.
    """
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and len(part) <= 6 for part in parts):
        raise UsageError(f"{option} {text}: must be whole numbers with commas between, such as 1,2,4")
    return tuple(int(part) for part in parts)
