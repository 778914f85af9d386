"""The two published traces of Azure Functions.

2019    one file per day; a line per function: HashOwner,HashApp,HashFunction,Trigger,1,2,...,1440, where
        column m is how often it was called in minute m (Shahrad et al., "Serverless in the Wild", ATC 2020)
2021    two weeks; a line per call: app,func,end_timestamp,duration, in seconds (Zhang et al., "Faster and
        Cheaper Serverless Computing on Harvested Resources", SOSP 2021)
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable

import numpy as np

from cascade_tools.planning.traces.counts import Counts, FloatArray
from cascade_tools.planning.traces.lines import BadLine, numbered, to_number

MINUTES = 1440
MINUTE_S = 60.0
HEADING_2019 = ("HashOwner", "HashApp", "HashFunction", "Trigger")
HEADING_2021 = ("app", "func", "end_timestamp", "duration")
EXPECTED_HEADING_2019 = "the heading HashOwner,HashApp,HashFunction,Trigger,1,2,...,1440"
EXPECTED_2019 = "owner,app,function,trigger and 1440 whole numbers"
EXPECTED_2021 = "app,func,end_timestamp,duration with two numbers (seconds), the duration at least 0"


def is_2019(first_line: str) -> bool:
    """The line is the heading of a file of 2019."""
    return tuple(first_line.strip().split(",")[:5]) == (*HEADING_2019, "1")


def is_2021(first_line: str) -> bool:
    """The line is the heading of the file of 2021."""
    return tuple(first_line.strip().split(",")) == HEADING_2021


def parse_2019(lines: Iterable[str]) -> Counts:
    """Calls of all functions together, per minute of the day.

    Raises:
        BadLine: the heading or a function's line is another.
    """
    total = np.zeros(MINUTES, np.int64)
    found = False
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)  # numpy's word for text that is no number
        for position, (number, text) in enumerate(numbered(lines)):
            if position == 0:
                if not is_2019(text) or text.count(",") != len(HEADING_2019) + MINUTES - 1:
                    raise BadLine(number, text, EXPECTED_HEADING_2019)
                continue
            total += _minutes(number, text)
            found = True
    if not found:
        raise BadLine(1, "", EXPECTED_HEADING_2019)
    return Counts(MINUTE_S, total)


def _minutes(number: int, text: str) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    parts = text.split(",", len(HEADING_2019))
    try:
        count = np.fromstring(parts[-1], np.float64, sep=",")
    except (DeprecationWarning, ValueError):
        raise BadLine(number, text, EXPECTED_2019) from None
    if len(parts) != len(HEADING_2019) + 1 or len(count) != MINUTES:
        raise BadLine(number, text, EXPECTED_2019)
    if not (np.isfinite(count).all() and (count >= 0).all() and (count == np.floor(count)).all()):
        raise BadLine(number, text, EXPECTED_2019)
    return count.astype(np.int64)


def parse_2021(lines: Iterable[str]) -> FloatArray:
    """When each call began (its end less its duration), ascending; the first is at 0.

    Raises:
        BadLine: the heading or a call's line is another.
    """
    began: list[float] = []
    for position, (number, text) in enumerate(numbered(lines)):
        if position == 0 and is_2021(text):
            continue
        parts = text.split(",")
        end_s, lasted_s = (to_number(part) for part in parts[2:]) if len(parts) == 4 else (None, None)
        if end_s is None or lasted_s is None or lasted_s < 0:
            raise BadLine(number, text, EXPECTED_2021)
        began.append(end_s - lasted_s)
    if not began:
        raise BadLine(1, "", EXPECTED_2021)
    arrival: FloatArray = np.sort(np.asarray(began, np.float64))
    arrival -= arrival[0]
    return arrival
