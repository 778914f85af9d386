"""Formats of traces: what is read from small files, and how a wrong line is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cascade_tools.errors import UsageError
from cascade_tools.planning.traces.counts import Counts
from cascade_tools.planning.traces.formats import recognise
from cascade_tools.stages import trace_file
from cascade_tools.stages.trace_file import read_arrivals, read_trace

MINUTES = ",".join(str(minute) for minute in range(1, 1441))
HEADING_2019 = f"HashOwner,HashApp,HashFunction,Trigger,{MINUTES}"


def function_2019(name: str, **calls: int) -> str:
    """One function's line; `m3=5` is five calls in minute 3."""
    counts = [calls.get(f"m{minute}", 0) for minute in range(1, 1441)]
    return f"owner,app,{name},http," + ",".join(map(str, counts))


@pytest.fixture
def written(tmp_path: Path):
    def write(*lines: str) -> Path:
        path = tmp_path / "trace.txt"
        path.write_text("\n".join(lines) + "\n")
        return path

    return write


def test_azure_2019_is_summed_per_minute_and_spread_inside_it(written) -> None:
    path = written(HEADING_2019, function_2019("f", m1=2, m3=5), function_2019("g", m3=1))
    trace = read_trace(path)
    assert isinstance(trace, Counts)
    assert trace.window_s == 60
    assert trace.count[:4].tolist() == [2, 0, 6, 0]
    arrival = read_arrivals(path, seed=3)
    assert np.bincount((arrival // 60).astype(int)).tolist() == [2, 0, 6]
    assert len(np.unique(arrival)) == 8
    np.testing.assert_array_equal(arrival, read_arrivals(path, seed=3))
    assert not np.array_equal(arrival, read_arrivals(path, seed=4))


@pytest.mark.parametrize("unit", ["milliseconds", "microseconds"])
@pytest.mark.parametrize(
    "lines", [["{t}", "{t}"], ["timestamp", "{t}"], ['{{"time": {t}}}'], ["second,count", "{t},5"]]
)
def test_parts_of_seconds_are_named(written, unit: str, lines: list[str]) -> None:
    moment = 1700000000000 if unit == "milliseconds" else 1700000000000000
    path = written(*(line.format(t=moment) for line in lines))
    with pytest.raises(UsageError, match=f"looks like {unit}: divide by"):
        read_arrivals(path)


def test_azure_2021_arrives_when_calls_began(written) -> None:
    path = written("app,func,end_timestamp,duration", "a,f,12.5,2.0", "a,g,11.0,1.0", "b,f,20.25,.25")
    # They began at 10.5, 10.0 and 20.0.
    assert read_arrivals(path).tolist() == [0.0, 0.5, 10.0]


@pytest.mark.parametrize(
    "lines",
    [
        ("3", "0", "2"),
        ("count", "3", "0", "2"),
        ("second,count", "10,3", "12,2"),
        ("time,tweets", "0,3", "2,2"),
    ],
)
def test_counts_per_second(written, lines: tuple[str, ...]) -> None:
    trace = read_trace(written(*lines))
    assert isinstance(trace, Counts)
    assert trace.window_s == 1
    assert trace.count.tolist() == [3, 0, 2]


@pytest.mark.parametrize(
    "lines",
    [
        ("0.5", "1.25", "3"),
        ("timestamp", "100.5", "103.0", "101.25"),
        ("id,arrival_s", "a,7.5", "b,10.0", "c,8.25"),
        ("2026-01-31T12:00:00Z", "2026-01-31T12:00:00.75Z", "2026-01-31T12:00:02.5Z"),
        ("time", "2026-01-31 23:59:59", "2026-01-31 23:59:59.75", "2026-02-01 00:00:01.5"),
        ("time", "2026-01-31T12:00:00+01:00", "2026-01-31T11:00:00.75Z", "2026-01-31T07:00:02.5-0400"),
        ('{"timestamp": 5}', '{"timestamp": 5.75, "user": 3}', '{"timestamp": 7.5}'),
        ('"2026-01-31T12:00:00"', '"2026-01-31T12:00:00.75"', '"2026-01-31T12:00:02.5"'),
    ],
)
def test_timestamps_count_from_the_first(written, lines: tuple[str, ...]) -> None:
    np.testing.assert_allclose(read_arrivals(written(*lines)), [0.0, 0.75, 2.5], atol=1e-6)


def test_bare_numbers_of_json_are_read_when_said_so(written) -> None:
    path = written("1", "2", "4")
    assert read_arrivals(path, "jsonl").tolist() == [0.0, 1.0, 3.0]
    # The same lines may be counts or times, so a reader has to be chosen.
    assert recognise(["1", "2", "4"]) is None
    with pytest.raises(UsageError, match="not clear") as caught:
        read_trace(path)
    assert "counts" in caught.value.hint
    assert len(read_arrivals(path, "counts")) == 7


@pytest.mark.parametrize(
    ("form", "lines", "words"),
    [
        ("azure2019", (HEADING_2019, "o,a,f,http,1,2,3"), ("line 2", "1440 whole numbers")),
        ("azure2019", (HEADING_2019, function_2019("f").replace(",0,", ",x,", 1)), ("line 2", "1440")),
        ("azure2019", (HEADING_2019, function_2019("f").replace(",0,", ",-1,", 1)), ("line 2", "1440")),
        ("azure2019", ("HashOwner,HashApp,HashFunction,Trigger,1,2", "o,a,f,t,1,1"), ("line 1", "heading")),
        ("azure2021", ("a,f,1.0",), ("line 1", "end_timestamp")),
        ("azure2021", ("a,f,1.0,.5", "", "a,f,2.0,-1"), ("line 3", "at least 0")),
        ("counts", ("1", "2", "many"), ("line 3", "whole number")),
        ("counts", ("1", "-2"), ("line 2", "whole number")),
        ("counts", ("5,1", "5,2"), ("line 2", "a second after 5")),
        ("counts", ("0,1", "99999999999,1"), ("line 2", "at most")),
        ("csv", ("name,value", "a,1"), ("line 1", "timestamp")),
        ("csv", ("time", "1.5", "noon"), ("line 3", "ISO 8601")),
        ("csv", ("time", "2026-13-01T00:00:00"), ("line 2", "ISO 8601")),
        ("csv", ("1769860800000", "1769860800250"), ("line 1", "seconds")),
        ("jsonl", ('{"timestamp": 1}', '{"timestamp": true}'), ("line 2", "timestamp")),
        ("csv", ("0.5", "10000000000", "0.7"), ("line 2", "of all others")),
        ("jsonl", ('{"ts": 0}', '{"ts": 1769860800}', '{"ts": 1769860801}'), ("line 1", "of all others")),
        ("jsonl", ("{",), ("line 1", "JSON")),
        ("jsonl", ('{"when": 1}',), ("line 1", "keys")),
        ("csv", ("time",), ("line 1", "time in seconds")),
    ],
)
def test_a_wrong_line_is_named_with_what_is_expected(
    written, form: str, lines: tuple[str, ...], words: tuple[str, ...]
) -> None:
    path = written(*lines)
    with pytest.raises(UsageError) as caught:
        read_trace(path, form)
    assert str(path) in caught.value.message
    assert all(word in caught.value.message for word in words), caught.value.message
    assert len(caught.value.message) < 400
    assert f"read as {form}" in caught.value.hint


def test_a_file_that_is_none_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = tmp_path / "none.csv"
    with pytest.raises(UsageError, match="cannot be read"):
        read_trace(missing)
    with pytest.raises(UsageError, match="cannot be read"):
        read_trace(tmp_path)
    binary = tmp_path / "trace.bin"
    binary.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(UsageError, match="no text"):
        read_trace(binary)
    empty = tmp_path / "empty.csv"
    empty.write_text("\n")
    with pytest.raises(UsageError, match="not clear"):
        read_trace(empty)
    monkeypatch.setattr(trace_file, "MOST_BYTES", 3)
    with pytest.raises(UsageError, match="MiB"):
        read_trace(binary)
