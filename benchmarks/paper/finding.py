"""What an experiment says of itself, and what a run of it found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from benchmarks.paper.setting import Setting

Origin = Literal["measured", "simulated", "modelled", "given"]
Cell = str | float | int | None


@dataclass(frozen=True)
class Column:
    """One column: its heading, and how its numbers are written (a format such as `.3f`)."""

    name: str
    form: str = ""

    def told(self, value: Cell) -> str:
        """A cell as text; nothing where there is no value."""
        if value is None:
            return ""
        return value if isinstance(value, str) else format(value, self.form)


@dataclass(frozen=True)
class Table:
    """Figures of one origin; rows hold values, not texts."""

    title: str
    origin: Origin
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def content(self) -> dict[str, Any]:
        """For the JSON file."""
        return asdict(self)

    @staticmethod
    def of(content: dict[str, Any]) -> Table:
        """Back from the JSON file."""
        return Table(
            title=content["title"],
            origin=content["origin"],
            columns=tuple(Column(**column) for column in content["columns"]),
            rows=tuple(tuple(row) for row in content["rows"]),
        )


@dataclass(frozen=True)
class Finding:
    """What one run found.

    Attributes:
        said: sentences with this run's figures, beside the claim.
        tables: all figures.
        pictures: SVG by name.
    """

    said: tuple[str, ...]
    tables: tuple[Table, ...]
    pictures: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Experiment:
    """One experiment of a paper.

    Attributes:
        number: as in the list of `make paper`.
        paper: whose it is.
        claim: what the paper says, in our words.
        how: how it is tried here.
        run: tries it.
    """

    number: int
    title: str
    paper: Literal["HybridServe", "CascadeServe"]
    claim: str
    how: str
    run: Callable[[Setting], Finding]
