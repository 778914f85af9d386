"""Arrival timestamps, one request per line: CSV or JSONL; seconds, or ISO 8601."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable

import numpy as np

from cascade_tools.planning.traces.counts import LONGEST_S, FloatArray
from cascade_tools.planning.traces.lines import LATEST_S, BadLine, in_seconds, numbered, to_number

TIME_NAMES = ("arrival_s", "arrival", "timestamp", "time", "ts")
EXPECTED_TIME = "a time in seconds, or in ISO 8601 such as 2026-01-31T12:00:00.25Z"
EXPECTED_CSV = f"{EXPECTED_TIME}, first in the line or below a heading that is one of {', '.join(TIME_NAMES)}"
EXPECTED_JSON = f"{EXPECTED_TIME}, as a JSON value or below one of the keys {', '.join(TIME_NAMES)}"
ISO = re.compile(
    r"(?P<day>\d{4}-\d\d-\d\d)[T ](?P<clock>\d\d:\d\d(?::\d\d(?:\.\d{1,9})?)?)\s?"
    r"(?:Z|UTC|(?P<sign>[+-])(?P<hours>\d\d):?(?P<minutes>\d\d))?"
)


def to_seconds(text: str) -> float | None:
    """A time in seconds or in ISO 8601 (without an offset: UTC); None where the text is neither."""
    value = to_number(text)
    if value is not None:
        return value if abs(value) <= LATEST_S else None
    match = ISO.fullmatch(text.strip())
    if match is None:
        return None
    try:
        moment = np.datetime64(f"{match['day']}T{match['clock']}", "ns")
    except ValueError:
        return None
    offset_s = 60.0 * (60 * int(match["hours"]) + int(match["minutes"])) if match["sign"] else 0.0
    return float(moment.astype(np.int64)) / 1e9 - (-offset_s if match["sign"] == "-" else offset_s)


def parse_csv(lines: Iterable[str]) -> FloatArray:
    """Arrivals, ascending, the first at 0; the column is the named one, or the first.

    Raises:
        BadLine: there is no time where it should be.
    """
    found: list[tuple[float, int]] = []
    column = 0
    for position, (number, text) in enumerate(numbered(lines)):
        parts = next(csv.reader([text]))
        if position == 0 and to_seconds(parts[0]) is None:
            names = [part.strip().lower() for part in parts]
            known = [names.index(name) for name in TIME_NAMES if name in names]
            if not known:
                raise BadLine(number, text, in_seconds(EXPECTED_CSV, parts[0]))
            column = known[0]
            continue
        there = parts[column] if column < len(parts) else ""
        value = to_seconds(there)
        if value is None:
            raise BadLine(number, text, in_seconds(EXPECTED_CSV, there))
        found.append((value, number))
    return _from_first(found, EXPECTED_CSV)


def parse_jsonl(lines: Iterable[str]) -> FloatArray:
    """Arrivals, ascending, the first at 0; a value per line, or an object with one of the known keys.

    Raises:
        BadLine: there is no time where it should be.
    """
    found: list[tuple[float, int]] = []
    for number, text in numbered(lines):
        try:
            value = json.loads(text)
        except ValueError:
            raise BadLine(number, text, EXPECTED_JSON) from None
        if isinstance(value, dict):
            value = next((value[name] for name in TIME_NAMES if name in value), None)
        plain = isinstance(value, (int, float, str)) and not isinstance(value, bool)
        seconds = to_seconds(str(value)) if plain else None
        if seconds is None:
            raise BadLine(number, text, in_seconds(EXPECTED_JSON, str(value)))
        found.append((seconds, number))
    return _from_first(found, EXPECTED_JSON)


def _from_first(found: list[tuple[float, int]], expected: str) -> FloatArray:
    """Times with the numbers of their lines, from the first time on."""
    if not found:
        raise BadLine(1, "", expected)
    times = np.asarray([time_s for time_s, _ in found], np.float64)
    arrival: FloatArray = np.sort(times)
    arrival -= arrival[0]
    if arrival[-1] > LONGEST_S:
        farthest = int(np.argmax(np.abs(times - np.median(times))))
        time_s, line = found[farthest]
        raise BadLine(line, f"{time_s:.15g}", f"a time within {LONGEST_S} s of all others")
    return arrival
