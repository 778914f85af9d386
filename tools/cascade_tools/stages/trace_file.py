"""Reads a trace from a file; what is wrong with it is one message that names the file and the line."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from cascade_tools.errors import UsageError
from cascade_tools.planning.traces.counts import Counts, FloatArray
from cascade_tools.planning.traces.formats import FORMATS, HEAD_LINES, recognise
from cascade_tools.planning.traces.lines import MOST_SHOWN, BadLine
from cascade_tools.planning.traces.prepare import BadShape, arrivals_of
from cascade_tools.planning.traces.shape import PEAK_WINDOW_S

MOST_BYTES = 2**30
LONGEST_LINE = 2**20  # what is looked at of a line before its format is known


def read_arrivals(
    path: Path,
    form: str | None = None,
    window: tuple[float, float] | None = None,
    peak_rps: float | None = None,
    seed: int = 0,
    peak_window_s: float = PEAK_WINDOW_S,
) -> FloatArray:
    """Arrival times of a part of a trace file, as `arrivals_of`.

    Raises:
        UsageError: as `read_trace`; or nothing, or too much, arrives.
    """
    return shaped(read_trace(path, form), str(path), window, peak_rps, seed, peak_window_s)


def shaped(
    trace: Counts | FloatArray,
    where: str,
    window: tuple[float, float] | None,
    peak_rps: float | None,
    seed: int,
    peak_window_s: float = PEAK_WINDOW_S,
) -> FloatArray:
    """A part of a trace, as `arrivals_of`; `where` names it in messages.

    Raises:
        UsageError: nothing, or too much, arrives.
    """
    try:
        return arrivals_of(trace, window, peak_rps, seed, peak_window_s)
    except BadShape as error:
        raise UsageError(f"{where}: {error}", "choose another --window or --peak-rps") from None


def read_trace(path: Path, form: str | None = None) -> Counts | FloatArray:
    """What a trace file holds.

    Args:
        path: of the file.
        form: one of `FORMATS`; None to tell it from the first lines.

    Raises:
        UsageError: no such file, too large, not text, of an unknown format, or a line of it is wrong.
    """
    try:
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise UsageError(f"{path}: {size / 2**20:.0f} MiB, at most {MOST_BYTES / 2**20:.0f} MiB are read")
        with path.open(encoding="utf-8-sig", newline=None) as file:
            if form is None:
                form = _recognised(path, [line[:LONGEST_LINE] for line in islice(file, HEAD_LINES)])
                file.seek(0)
            return FORMATS[form](file)
    except BadLine as error:
        raise UsageError(
            f"{path}, line {error.line}: expected {error.expected}; found {error.found!r}",
            f"read as {form}; another format is chosen with --format",
        ) from None
    except UnicodeDecodeError:
        raise UsageError(f"{path}: is no text in UTF-8", f"formats: {', '.join(FORMATS)}") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror or error}") from None


def _recognised(path: Path, head: list[str]) -> str:
    form = recognise(head)
    if form is None:
        first = "".join(head[:1]).strip()[:MOST_SHOWN]
        raise UsageError(
            f"{path}, line 1: not clear which format of a trace this is; found {first!r}",
            f"say it with --format: {', '.join(FORMATS)}",
        )
    return form
