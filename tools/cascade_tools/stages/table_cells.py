"""Tables that people and other tools write, as cells that know where they stand."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from cascade_tools.errors import UsageError

LARGEST_FILE = 64 * 2**20
NOTHING = ("", "None", "none", "null", "~", "N/A", "nan", "NaN")


@dataclass(frozen=True)
class Cell:
    """One value as it was written, and its place."""

    text: str
    path: Path
    line: int
    column: str

    def refusal(self, what: str, hint: str = "") -> UsageError:
        """The error that names the place."""
        return UsageError(f"{self.path}, line {self.line}, column {self.column!r}: {what}", hint)


@dataclass(frozen=True)
class Row:
    """One line of a table, by column; empty cells are left out."""

    path: Path
    line: int
    cells: dict[str, Cell]

    def cell(self, *columns: str) -> Cell:
        """The first of these columns that has a value.

        Raises:
            UsageError: none has.
        """
        found = self.maybe(*columns)
        if found is None:
            raise UsageError(f"{self.path}, line {self.line}, column {columns[0]!r}: missing")
        return found

    def maybe(self, *columns: str) -> Cell | None:
        """As `cell`; None where none has a value."""
        return next((self.cells[name] for name in columns if name in self.cells), None)

    def positive(self, *columns: str, most: float = math.inf) -> float:
        """A number above 0 and at most `most`.

        Raises:
            UsageError: missing, no number, or out of range.
        """
        return _number(self.cell(*columns), above=True, most=most)

    def maybe_positive(self, *columns: str) -> float | None:
        """As `positive`; None where the table does not say."""
        cell = self.maybe(*columns)
        return None if cell is None else _number(cell, above=True)

    def amount(self, *columns: str) -> float:
        """A number of at least 0; raises as `positive`."""
        return _number(self.cell(*columns), above=False)

    def maybe_amount(self, *columns: str) -> float | None:
        """As `amount`; None where the table does not say."""
        cell = self.maybe(*columns)
        return None if cell is None else _number(cell, above=False)

    def count(self, *columns: str, default: int | None = None) -> int:
        """A whole number of at least 1.

        Raises:
            UsageError: missing without a default, or none.
        """
        if default is not None and self.maybe(*columns) is None:
            return default
        cell = self.cell(*columns)
        if not cell.text.isdecimal() or len(cell.text) > 9 or int(cell.text) < 1:
            raise cell.refusal(f"{cell.text!r} is no whole number of at least 1")
        return int(cell.text)


def _number(cell: Cell, *, above: bool, most: float = math.inf) -> float:
    try:
        value = float(cell.text)
    except ValueError:
        raise cell.refusal(f"{cell.text!r} is no number") from None
    if not math.isfinite(value) or value < 0.0 or (above and value == 0.0) or value > most:
        bounds = ("above 0" if above else "at least 0") + (
            f" and at most {most:g}" if most < math.inf else ""
        )
        raise cell.refusal(f"{cell.text} must be {bounds}")
    return value


def read_text(path: Path) -> str:
    """The text of a file, without a byte order mark.

    Raises:
        UsageError: missing, too large, or no text.
    """
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise UsageError(f"{path}: larger than {LARGEST_FILE >> 20} MiB; this is no profile")
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read: {error}") from None


def read_csv(path: Path) -> tuple[tuple[str, ...], list[Row]]:
    """Header and rows of a CSV file; empty lines and lines that begin with # are passed over.

    Raises:
        UsageError: unreadable, without a header, or a line with more cells than it; names the line.
    """
    # A comment keeps its place as an empty line, so that the lines are counted as an editor does.
    lines = ["" if line.startswith("#") else line for line in read_text(path).splitlines()]
    reader = csv.reader(lines, strict=True)
    header: tuple[str, ...] = ()
    rows: list[Row] = []
    try:
        for values in reader:
            plain = [value.strip() for value in values]
            if not any(plain):
                continue
            if not header:
                header = _header(path, reader.line_num, plain)
                continue
            rows.append(_csv_row(path, reader.line_num, header, plain))
    except csv.Error as error:
        raise UsageError(f"{path}, line {reader.line_num}: not CSV: {error}") from None
    if not header:
        raise UsageError(f"{path}: empty; the first line names the columns")
    return header, rows


def _header(path: Path, line: int, names: list[str]) -> tuple[str, ...]:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"{path}, line {line}: the column {twice!r} is named twice")
    return tuple(names)


def _csv_row(path: Path, line: int, header: tuple[str, ...], values: list[str]) -> Row:
    if len(values) > len(header):
        raise UsageError(
            f"{path}, line {line}, column {len(header) + 1}: {len(values)} values under {len(header)} columns"
        )
    pairs = zip(header, values, strict=False)
    return Row(path, line, {c: Cell(v, path, line, c) for c, v in pairs if v not in NOTHING})


@dataclass(frozen=True)
class Sheet:
    """A table in YAML: `points` are its rows, every other key is one cell or a row of cells."""

    points: list[Row]
    single: dict[str, Cell]
    rows: dict[str, Row]


def read_yaml(path: Path, known: tuple[str, ...]) -> Sheet:
    """A YAML mapping of `points`, a list of flat mappings, and other keys.

    Args:
        path: the file.
        known: the keys that it may have.

    Raises:
        UsageError: unreadable, or of another form; names the line.
    """
    try:
        node = yaml.compose(read_text(path), Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise UsageError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(node, yaml.MappingNode):
        raise UsageError(f"{path}: must be a mapping with 'points'")
    single: dict[str, Cell] = {}
    rows: dict[str, Row] = {}
    points: list[Row] = []
    for name, value in _items(path, node):
        if name not in known:
            raise UsageError(
                f"{path}, line {_line(value)}: unknown key {name!r}; known are {', '.join(known)}"
            )
        if name == "points":
            points = [_yaml_row(path, entry) for entry in _entries(path, value)]
        elif isinstance(value, yaml.MappingNode):
            rows[name] = _yaml_row(path, value)
        else:
            single[name] = Cell(_plain(path, name, value), path, _line(value), name)
    if not points:
        raise UsageError(f"{path}: 'points' is missing or empty")
    return Sheet(points, single, rows)


def _items(path: Path, node: yaml.MappingNode) -> Iterator[tuple[str, yaml.Node]]:
    seen: set[str] = set()
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise UsageError(f"{path}, line {_line(key)}: a key must be a name")
        if key.value in seen:
            raise UsageError(f"{path}, line {_line(key)}, column {key.value!r}: given twice")
        seen.add(key.value)
        yield str(key.value), value


def _entries(path: Path, node: yaml.Node) -> list[yaml.Node]:
    if not isinstance(node, yaml.SequenceNode):
        raise UsageError(f"{path}, line {_line(node)}, column 'points': must be a list")
    return list(node.value)


def _yaml_row(path: Path, node: yaml.Node) -> Row:
    if not isinstance(node, yaml.MappingNode):
        raise UsageError(f"{path}, line {_line(node)}: must be a mapping of columns to values")
    cells = {}
    for name, value in _items(path, node):
        text = _plain(path, name, value)
        if text not in NOTHING:
            cells[name] = Cell(text, path, _line(value), name)
    return Row(path, _line(node), cells)


def _plain(path: Path, name: str, node: yaml.Node) -> str:
    """A scalar, or the scalars of a list with spaces between."""
    if isinstance(node, yaml.ScalarNode):
        return str(node.value).strip()
    parts = node.value if isinstance(node, yaml.SequenceNode) else [node]
    if any(not isinstance(part, yaml.ScalarNode) for part in parts):
        raise UsageError(
            f"{path}, line {_line(node)}, column {name!r}: must be one value or a list of values"
        )
    return " ".join(str(part.value) for part in parts)


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1
