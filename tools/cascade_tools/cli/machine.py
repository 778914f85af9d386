"""The verb that says what this machine has."""

from __future__ import annotations

import typer

from cascade_tools.cli.options import AsJson
from cascade_tools.cli.output import show_json, show_table


def register(app: typer.Typer) -> None:
    """Add the verb of this file."""
    app.command(epilog="Example: cascade-tools env --json")(env)


def env(as_json: AsJson = False) -> None:
    """Print what this machine has: Triton, GPUs, Docker, perf_analyzer, energy meters."""
    from cascade_tools.serving.environment import describe_environment

    facts = describe_environment()
    show_table("This machine", ["what", "found"], [[f.name, f.found] for f in facts], figures=False)
    if as_json:
        show_json({fact.key: fact.value for fact in facts})
