"""Triton's own load generator: where it is, one run of it, and what it reports.

perf_analyzer is no plain dependency: its wheels need glibc 2.38, and what pip installs on older systems under
that name (perf-analyzer 0.1.0) is a placeholder without a program. `scripts/perf-analyzer` fetches one.
"""

from __future__ import annotations

import base64
import csv
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tritonclient.utils import serialize_byte_tensor

from cascade_tools.errors import CascadeError, EnvironmentLacks, UsageError
from cascade_tools.repository.render import VERSION
from cascade_tools.store import DEFAULT_BUILD

VARIABLE = "PERF_ANALYZER"
PROGRAM = "perf_analyzer"
FETCHED = DEFAULT_BUILD / "tools" / PROGRAM
HINT = "run `scripts/perf-analyzer` of the project, which puts it into build/tools"
PLACEHOLDER = "0.1.0"
COMMAND_TIMEOUT_S = 10.0
START_TIMEOUT_S = 60.0
# Three windows are reported once they agree within this percentage. So wide that the first three do: on a
# shared machine a narrower one ends with no figures at all.
WINDOWS = 3
STABILITY_PERCENT = 100_000
MICROSECONDS = 1000.0
# What it says when no request ended within a window, or the server's counts did not move within one; the
# window is then doubled, so many times at most.
TOO_SHORT, LONGER_WINDOWS = ("larger time window", "failed to find the requested model version"), 3


@dataclass(frozen=True)
class PerfResult:
    """What perf_analyzer measured at one number of clients; it ends at the first request that fails."""

    clients: int
    throughput_rps: float
    p50_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float


def find_perf_analyzer() -> Path:
    """The program: $PERF_ANALYZER, then `build/tools/`, then the PATH.

    Raises:
        UsageError: $PERF_ANALYZER names something that does not run.
        EnvironmentLacks: there is none; a placeholder is named as one.
    """
    wanted = os.environ.get(VARIABLE)
    if wanted:
        if not _runs(wanted):
            raise UsageError(f"${VARIABLE}: {wanted} does not run", "give the path of the program")
        return Path(wanted)
    found = [str(FETCHED.resolve()), shutil.which(PROGRAM)]
    for path in found:
        if path is not None and _runs(path):
            return Path(path)
    if _placeholder_is_installed():
        raise EnvironmentLacks(
            f"perf_analyzer: the installed perf-analyzer {PLACEHOLDER} is a placeholder without a program",
            HINT,
        )
    raise EnvironmentLacks("perf_analyzer: not found", HINT)


def run_perf_analyzer(
    program: Path,
    url: str,
    model: str,
    inputs: dict[str, npt.NDArray[Any]],
    clients: int,
    window_s: float,
    composing: Sequence[str] = (),
    batch: int = 1,
    repeat: int = 1,
) -> PerfResult:
    """Send rows over gRPC in a closed loop; three windows are measured.

    Args:
        program: what `find_perf_analyzer` gave.
        url: host:port of the server's gRPC.
        model: the model to ask.
        inputs: name -> [rows, ...]; sent in turns, from the first again after the last.
        clients: requests that are under way at any time.
        window_s: length of one window; longer ones are taken where no request ends within it.
        composing: the models that `model` itself calls; each must have been asked before.
        batch: rows of one request.
        repeat: parameter of every request, for models that know it; 1 for none.

    Raises:
        CascadeError: a request failed, or nothing was measured; perf_analyzer's own words are shown.
    """
    with tempfile.TemporaryDirectory(prefix="cascade-perf-") as folder:
        rows = Path(folder) / "rows.json"
        rows.write_text(json.dumps({"data": input_data(inputs)}))
        report = Path(folder) / "report.csv"
        command = [
            *(str(program), "-m", model, "-u", url, "-i", "grpc", "--input-data", str(rows)),
            *("--concurrency-range", str(clients), "-f", str(report), "-b", str(batch)),
            *("--measurement-mode", "time_windows", "-s", str(STABILITY_PERCENT), "-r", str(WINDOWS)),
            *(["--async", "--max-threads", "4"] if clients > 1 else ["--sync"]),
        ]
        for name, values in inputs.items():
            command += ["--shape", f"{name}:{','.join(map(str, values.shape[1:]))}"]
        if repeat > 1:
            command += ["--request-parameter", f"repeat:{repeat}:int"]
        if composing:
            # Without a version it fails as soon as one of them is not called within a window.
            named = ",".join(f"{composed}:{VERSION}" for composed in composing)
            command += ["--bls-composing-models", named]
        for _ in range(LONGER_WINDOWS + 1):
            done = _run(command, model, window_s)
            if done.returncode == 0 and report.is_file():
                return parse_report(report.read_text())
            if not any(words in done.stdout + done.stderr for words in TOO_SHORT):
                break
            window_s *= 2.0
        raise CascadeError(f"perf_analyzer on {model} failed: {_last_words(done)}")


def _run(command: list[str], model: str, window_s: float) -> subprocess.CompletedProcess[str]:
    """One start of the program."""
    timeout_s = START_TIMEOUT_S + 4 * WINDOWS * window_s
    window = ["-p", str(max(1, round(1000 * window_s)))]
    try:
        return subprocess.run([*command, *window], capture_output=True, text=True, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        raise CascadeError(f"perf_analyzer on {model}: did not end within {timeout_s:.0f} s") from None


def input_data(inputs: dict[str, npt.NDArray[Any]]) -> list[dict[str, dict[str, str]]]:
    """The rows as `--input-data` wants them: one object per row, raw bytes in base64."""
    count = len(next(iter(inputs.values())))
    plain = {name: np.ascontiguousarray(values) for name, values in inputs.items()}
    return [
        {name: {"b64": base64.b64encode(_raw(values[row])).decode()} for name, values in plain.items()}
        for row in range(count)
    ]


def _raw(values: npt.NDArray[Any]) -> bytes:
    """A tensor as it is sent; of texts each has its length before it."""
    if values.dtype.kind != "O":
        return values.tobytes()
    return bytes(serialize_byte_tensor(values).item())


def parse_report(text: str) -> PerfResult:
    """Read the CSV of `-f`, which has one row; its times are in microseconds.

    Raises:
        CascadeError: no row, or a column is missing.
    """
    rows = list(csv.DictReader(text.splitlines()))
    if not rows:
        raise CascadeError("perf_analyzer: its report has no row; no request ended within a window")
    try:
        row = rows[0]
        p50_ms, p90_ms, p95_ms, p99_ms = (
            float(row[f"p{percent} latency"]) / MICROSECONDS for percent in (50, 90, 95, 99)
        )
        return PerfResult(
            int(row["Concurrency"]), float(row["Inferences/Second"]), p50_ms, p90_ms, p95_ms, p99_ms
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CascadeError(f"perf_analyzer: its report cannot be read: {error}") from None


def _last_words(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line.strip() for line in (done.stdout + "\n" + done.stderr).splitlines() if line.strip()]
    told = [line for line in lines if "rror" in line or "ailed" in line]
    return (told or lines or ["no message"])[-1]


def _runs(path: str) -> bool:
    try:
        done = subprocess.run([path, "--version"], capture_output=True, timeout=COMMAND_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def _placeholder_is_installed() -> bool:
    try:
        return version("perf-analyzer") == PLACEHOLDER
    except PackageNotFoundError:
        return False
