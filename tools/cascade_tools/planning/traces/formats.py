"""The formats of traces by name, and how one is told from its first lines."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

from cascade_tools.planning.traces.azure import is_2019, is_2021, parse_2019, parse_2021
from cascade_tools.planning.traces.counts import COUNT_NAMES, Counts, FloatArray, parse_second_counts
from cascade_tools.planning.traces.lines import LATEST_S, to_number
from cascade_tools.planning.traces.timestamps import TIME_NAMES, parse_csv, parse_jsonl, to_seconds

FORMATS: dict[str, Callable[[Iterable[str]], Counts | FloatArray]] = {
    "azure2019": parse_2019,
    "azure2021": parse_2021,
    "counts": parse_second_counts,
    "csv": parse_csv,
    "jsonl": parse_jsonl,
}
HEAD_LINES = 50  # enough to tell formats apart


def recognise(head: Sequence[str]) -> str | None:
    """The format of a file that begins with these lines; None where it is none, or may be several.

    Numbers without a heading are arrival times if some have a fraction or a second column does not make
    them counts, and counts per second if they ever fall; else they may be either.
    """
    lines = [line.strip() for line in head[:HEAD_LINES] if line.strip()]
    if not lines:
        return None
    if is_2019(lines[0]):
        return "azure2019"
    if is_2021(lines[0]):
        return "azure2021"
    if lines[0][0] in '{"':
        return "jsonl"
    names = [name.strip().lower() for name in lines[0].split(",")]
    if names[-1] in COUNT_NAMES:
        return "counts"
    if set(names) & set(TIME_NAMES):
        return "csv"
    return _of_bare_values([line.split(",")[0] for line in lines], len(names))


def _of_bare_values(first: list[str], columns: int) -> str | None:
    values = [to_number(text) for text in first]
    if columns <= 2 and values[0] is not None and abs(values[0]) > LATEST_S:
        return "csv"  # which says that these are no seconds
    if columns > 2 or to_seconds(first[0]) is None:
        return None
    if None in values:
        return "csv"  # times in ISO 8601
    numbers = [value for value in values if value is not None]
    if any(value != int(value) for value in numbers):
        return "csv"
    if columns == 1 and any(later < earlier for earlier, later in pairwise(numbers)):
        return "counts"
    return None
