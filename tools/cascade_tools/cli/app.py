"""`cascade-tools`: the verbs, and the one place that turns errors into exit codes."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.console import Console

from cascade_tools import __version__
from cascade_tools.cli import (
    bench,
    drift,
    machine,
    place,
    plan,
    policy,
    profile,
    replay,
    serve,
    simulate,
    start,
    watch,
)
from cascade_tools.cli.output import show_json, show_line
from cascade_tools.errors import CascadeError, Infeasible

INTERRUPTED = 130

app = typer.Typer(
    name="cascade-tools",
    help="Cascades of models on NVIDIA Triton: most requests are answered by a small model.",
    epilog="Example: cascade-tools demo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        show_line(f"cascade-tools {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Cascades of models on NVIDIA Triton: most requests are answered by a small model."""


for module in (start, plan, place, profile, policy, drift, serve, watch, bench, replay, simulate, machine):
    module.register(app)


def main() -> None:
    """Run a verb; a user's mistake is one message, never a traceback."""
    try:
        app()
    except CascadeError as error:
        _show(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        Console(stderr=True).print("interrupted")
        sys.exit(INTERRUPTED)


def _show(error: CascadeError) -> None:
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    console.print(f"error: {error.message}", markup=False)
    if error.hint:
        console.print(f"  -> {error.hint}", markup=False)
    if "--json" in sys.argv:
        content: dict[str, object] = {"error": error.message, "hint": error.hint}
        if isinstance(error, Infeasible):
            content |= {"constraint": error.constraint, **error.details}
        show_json(content)


if __name__ == "__main__":
    main()
