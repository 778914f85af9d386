"""Traces that give counts per window of time: scaled as counts, then spread within their windows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cascade_tools.planning.traces.lines import BadLine, in_seconds, numbered, to_number

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

COUNT_NAMES = ("count", "counts", "requests", "tweets", "invocations")
SECOND_NAMES = ("second", "seconds", "time", "timestamp", "t")
EXPECTED = "a whole number of requests in one second, or `second,count`"
LARGEST_COUNT = 10**12
LONGEST_S = 366 * 86_400


@dataclass(frozen=True)
class Counts:
    """Requests per window.

    Attributes:
        window_s: length of every window.
        count: int64 [windows]; the first window begins at second 0.
    """

    window_s: float
    count: IntArray

    def around(self, from_s: float, to_s: float) -> tuple[Counts, float]:
        """The windows that [from_s, to_s) touches, and the second at which the first of them begins."""
        first = int(from_s // self.window_s)
        last = int(np.ceil(min(to_s / self.window_s, len(self.count))))
        return Counts(self.window_s, self.count[first : max(first, last)]), first * self.window_s

    def scaled(self, factor: float, seed: int) -> Counts:
        """Every count times a factor; what is left of a whole request is drawn by its share."""
        return Counts(self.window_s, scaled_counts(self.count, factor, np.random.default_rng(seed)))

    def arrivals(self, seed: int) -> FloatArray:
        """Arrival times, each uniform within its window (so a Poisson process of that window's rate)."""
        rng = np.random.default_rng(seed)
        window = np.repeat(np.arange(len(self.count)), self.count)
        return np.sort((window + rng.random(len(window))) * self.window_s)


def scaled_counts(count: IntArray, factor: float, rng: np.random.Generator) -> IntArray:
    """Counts times a factor, rounded down or up at random so that the mean is kept.

    None comes out larger than the largest count times the factor, rounded up.
    """
    exact = count * factor
    whole = np.floor(exact + 1e-9)
    up = rng.random(len(count)) < exact - whole
    found: IntArray = (whole + up).astype(np.int64)
    return found


def parse_second_counts(lines: Iterable[str]) -> Counts:
    """One count per second, as rates of tweets are published: `count`, or `second,count`, per line.

    Seconds may begin anywhere and may be left out where nothing came; a line of names may come first.

    Raises:
        BadLine: something else stands there.
    """
    seconds: list[int] = []
    counts: list[int] = []
    for position, (number, text) in enumerate(numbered(lines)):
        parts = [part.strip() for part in text.split(",")]
        if position == 0 and _is_heading(parts):
            continue
        values = [_whole(part) for part in parts]
        if len(values) not in (1, 2) or None in values:
            raise BadLine(number, text, in_seconds(EXPECTED, parts[0]))
        whole = [value for value in values if value is not None]
        second = whole[0] if len(whole) == 2 else (seconds[-1] + 1 if seconds else 0)
        if seconds and (second <= seconds[-1] or second - seconds[0] > LONGEST_S):
            raise BadLine(
                number, text, f"a second after {seconds[-1]}, at most {LONGEST_S} s after the first"
            )
        seconds.append(second)
        counts.append(whole[-1])
    if not seconds:
        raise BadLine(1, "", EXPECTED)
    count = np.zeros(seconds[-1] - seconds[0] + 1, np.int64)
    count[np.asarray(seconds) - seconds[0]] = counts
    return Counts(1.0, count)


def _whole(text: str) -> int | None:
    value = to_number(text)
    return int(value) if value is not None and value == int(value) and 0 <= value <= LARGEST_COUNT else None


def _is_heading(parts: list[str]) -> bool:
    names = [part.lower() for part in parts]
    return names[-1] in COUNT_NAMES and (len(names) == 1 or names[0] in SECOND_NAMES)
