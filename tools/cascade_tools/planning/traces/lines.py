"""What all readers of trace lines share: the lines with their numbers, and what is wrong with one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

MOST_SHOWN = 60  # characters of a bad line in a message


class BadLine(ValueError):
    """A line of a trace is not what its format has there.

    Args:
        line: its number, from 1.
        found: what stands there.
        expected: what should.
    """

    def __init__(self, line: int, found: str, expected: str) -> None:
        self.line = line
        self.found = found if len(found) <= MOST_SHOWN else found[: MOST_SHOWN - 3] + "..."
        self.expected = expected
        super().__init__(f"line {line}: expected {expected}, found {self.found!r}")


def numbered(lines: Iterable[str]) -> Iterator[tuple[int, str]]:
    """Lines that hold something, stripped, with their numbers from 1."""
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if text:
            yield number, text


def to_number(text: str) -> float | None:
    """A finite number, or None where the text is none."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
