"""What all readers of trace lines share: the lines with their numbers, and what is wrong with one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

MOST_SHOWN = 60  # characters of a bad line in a message
LATEST_S = 1e11  # the year 5138; larger numbers are parts of seconds
PARTS_OF_SECONDS = (
    (1e14, "milliseconds", "1e3"),
    (1e17, "microseconds", "1e6"),
    (1e20, "nanoseconds", "1e9"),
)


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


def in_seconds(expected: str, text: str) -> str:
    """What was expected where a time should stand; where that counts parts of seconds since 1970, says so."""
    value = to_number(text)
    if value is None or abs(value) <= LATEST_S:
        return expected
    for below, unit, factor in PARTS_OF_SECONDS:
        if abs(value) < below:
            return f"{expected} (this looks like {unit}: divide by {factor})"
    return expected
