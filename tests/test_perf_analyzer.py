"""Finding perf_analyzer, telling it the rows, and reading what it reports."""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from cascade_tools.errors import CascadeError, EnvironmentLacks, UsageError
from cascade_tools.serving.perf_analyzer import (
    FETCHED,
    VARIABLE,
    PerfResult,
    find_perf_analyzer,
    input_data,
    parse_report,
    run_perf_analyzer,
)

PROJECT = Path(__file__).resolve().parents[1]
# Written by perf_analyzer of tritonclient 2.50.0 with `--concurrency-range 32 -f`.
RECORDED = """\
Concurrency,Inferences/Second,Client Send,Network+Server Send/Recv,Server Queue,Server Compute Input,\
Server Compute Infer,Server Compute Output,Client Recv,p50 latency,p90 latency,p95 latency,p99 latency
32,876.885,23,11824,7079,1296,8238,5837,6,25716,61353,85282,209369
"""


def program(path: Path, script: str = "exit 0") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder, and a machine, without any perf_analyzer."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return tmp_path


def install(monkeypatch: pytest.MonkeyPatch, folder: Path, version: str) -> None:
    """The metadata of an installed perf-analyzer, found before any other."""
    metadata = folder / "site" / f"perf_analyzer-{version}.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text(f"Metadata-Version: 2.1\nName: perf-analyzer\nVersion: {version}\n")
    monkeypatch.syspath_prepend(folder / "site")


# Where it is


def test_the_variable_comes_before_the_fetched_one_and_that_before_the_path(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_path = program(nowhere / "bin" / "perf_analyzer")
    assert find_perf_analyzer() == on_path
    fetched = program(nowhere / FETCHED)
    assert find_perf_analyzer() == fetched
    named = program(nowhere / "mine")
    monkeypatch.setenv(VARIABLE, str(named))
    assert find_perf_analyzer() == named


def test_a_variable_that_names_no_program_is_refused(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(nowhere / "nothing"))
    with pytest.raises(UsageError, match=r"PERF_ANALYZER: .*nothing does not run"):
        find_perf_analyzer()


def test_what_does_not_run_is_not_found(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(nowhere / "bin" / "perf_analyzer", "exit 127")
    install(monkeypatch, nowhere, "2.60.0")
    with pytest.raises(EnvironmentLacks, match="not found") as caught:
        find_perf_analyzer()
    assert "scripts/perf-analyzer" in caught.value.hint


def test_the_placeholder_of_older_systems_is_named(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, nowhere, "0.1.0")
    with pytest.raises(EnvironmentLacks, match=r"perf-analyzer 0\.1\.0 is a placeholder"):
        find_perf_analyzer()


# What it is told


def test_rows_are_written_as_raw_bytes_in_their_order() -> None:
    pixels = np.arange(12, dtype=np.float32).reshape(2, 3, 2)
    # Not contiguous: what is written must still be the row.
    ids = np.arange(8, dtype=np.int64).reshape(4, 2).T
    written = input_data({"PIXELS": pixels, "IDS": ids})
    assert len(written) == 2
    for row, entry in enumerate(written):
        for name, values in (("PIXELS", pixels), ("IDS", ids)):
            raw = np.frombuffer(base64.b64decode(entry[name]["b64"]), values.dtype)
            np.testing.assert_array_equal(raw, values[row].ravel())


# What it reports


def test_a_recorded_report_is_read_in_ms() -> None:
    assert parse_report(RECORDED) == PerfResult(32, 876.885, 25.716, 61.353, 85.282, 209.369)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no row"),
        (RECORDED.splitlines()[0], "no row"),
        (RECORDED.replace("p99 latency", "p98 latency"), "p99 latency"),
        (RECORDED.replace("876.885", "many"), "many"),
        ("\n".join([RECORDED.splitlines()[0], "32,876.885"]), "cannot be read"),
    ],
)
def test_a_report_that_cannot_be_read_is_one_message(text: str, words: str) -> None:
    with pytest.raises(CascadeError, match=words):
        parse_report(text)


def test_a_window_in_which_nothing_ended_is_doubled(tmp_path: Path) -> None:
    """The program refuses windows under 300 ms, in the real one's words."""
    slow = program(
        tmp_path / "slow",
        'for last; do :; done; [ "$last" -ge 300 ] || { echo "Please use a larger time window."; exit 1; }\n'
        f'while [ "$1" != -f ]; do shift; done\ncat > "$2" <<END\n{RECORDED}END',
    )
    rows = {"X": np.zeros((1, 2), np.float32)}
    assert run_perf_analyzer(slow, "127.0.0.1:1", "digits", rows, 32, 0.1).p50_ms == 25.716


def test_a_failed_run_shows_its_own_words(tmp_path: Path) -> None:
    failing = program(tmp_path / "failing", "echo ' Some output'; echo 'error: model is gone' >&2; exit 1")
    rows = {"X": np.zeros((1, 2), np.float32)}
    with pytest.raises(CascadeError, match="perf_analyzer on digits failed: error: model is gone"):
        run_perf_analyzer(failing, "127.0.0.1:1", "digits", rows, 1, 0.1)


# scripts/perf-analyzer


def fetch(root: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    script = root / "scripts" / "perf-analyzer"
    script.parent.mkdir()
    shutil.copy2(PROJECT / "scripts" / "perf-analyzer", script)
    return subprocess.run(
        [script], env={**os.environ, **environment}, capture_output=True, text=True, timeout=60
    )


def test_a_program_that_is_there_is_not_fetched_again(tmp_path: Path) -> None:
    there = program(tmp_path / FETCHED)
    before = there.stat().st_mtime_ns
    done = fetch(tmp_path, PYTHON="no-such-python")
    assert done.returncode == 0, done.stderr
    assert "is there" in done.stdout
    assert there.stat().st_mtime_ns == before


def test_on_another_processor_the_script_says_so_and_exits_with_4(tmp_path: Path) -> None:
    uname = program(tmp_path / "bin" / "uname", '[ "$1" = -m ] && echo aarch64 || echo Linux')
    done = fetch(tmp_path, PATH=f"{uname.parent}:{os.environ['PATH']}")
    assert done.returncode == 4
    assert done.stderr.strip() == "perf-analyzer: needs x86-64 Linux, this is Linux on aarch64"


def test_a_wheel_that_cannot_be_had_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    pip = program(
        tmp_path / "python", '[ "$3" = --version ] && exit 0\necho "ERROR: no index here" && exit 1'
    )
    done = fetch(tmp_path, PYTHON=str(pip))
    assert done.returncode == 4
    assert len(done.stderr.splitlines()) == 1
    assert "could not be downloaded: ERROR: no index here" in done.stderr
    assert list((tmp_path / "build" / "tools").iterdir()) == []
