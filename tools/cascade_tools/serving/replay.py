"""Replays a trace on a served cascade, open loop, from a process of its own.

    second 0 of the trace                 planned            actual
    |------------------- arrival_s ----------|--- lateness ---|--- server ---> answer
                                             |---------- latency ----------->

Latency counts from the planned time, so a late generator makes it longer and never hides a queue; whether it
kept to its times is judged apart (`planning.traces.lateness`).
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cascade_tools.errors import CascadeError
from cascade_tools.planning.calibration import is_right
from cascade_tools.planning.outcomes import FloatArray, IntArray, Outcomes
from cascade_tools.planning.traces.lateness import Lateness, judge
from cascade_tools.serving.awake import awake_cores
from cascade_tools.serving.gear_samples import GearSamples, watch_gears
from cascade_tools.serving.open_loop import ANSWERED, FAILED, LABEL, REFUSED, REQUEST_TIMEOUT_S, TIER, Job
from cascade_tools.store import bytes_as_plain, load_npz

START_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Replayed:
    """What came of one replay.

    Attributes:
        outcomes: of all requests, in order of arrival.
        lateness_ms: actual less planned time of sending, [requests].
        lateness: its quantiles, and whether the run counts.
        refused: the router's admission, or a queue of Triton's, was full (UNAVAILABLE); [requests].
        failed: any other error, or no answer within 60 s; [requests].
        errors: a few of those, as the server or gRPC words them.
        begin_s: second 0 of the trace, by `time.perf_counter`.
        client_cpu_s: CPU time of the generator.
        gears: the gear over time; None where no metrics page was given.
    """

    outcomes: Outcomes
    lateness_ms: FloatArray
    lateness: Lateness
    refused: npt.NDArray[np.bool_]
    failed: npt.NDArray[np.bool_]
    errors: tuple[str, ...]
    begin_s: float
    client_cpu_s: float
    gears: GearSamples | None


def replay(
    url: str,
    model: str,
    inputs: dict[str, npt.NDArray[Any]],
    datatypes: dict[str, str],
    rows: IntArray,
    arrival_s: FloatArray,
    *,
    target: IntArray,
    tier: int | None = None,
    metrics_url: str | None = None,
    awake: bool = False,
) -> Replayed:
    """Send request i, which is row `rows[i]`, at second `arrival_s[i]`, and wait for all answers.

    Args:
        url: gRPC address of the server.
        model: of the cascade, which gives LABEL and TIER; or with `tier` any that gives LABEL.
        inputs: name -> [n, ...].
        datatypes: Triton's, by name.
        rows: int64 [requests], into the inputs.
        arrival_s: float64 [requests], ascending, at least one.
        target: the right label of each row, int64 [n] or [n, tokens].
        tier: of which `model` is the own model, as a position in the full ladder: it does not say so itself.
        metrics_url: of the server, for the gear over time.
        awake: keep this machine's cores from sleeping meanwhile (`awake`), as profiles are measured.

    Raises:
        CascadeError: no server there, or it does not serve the model.
    """
    used, mine = np.unique(rows, return_inverse=True)
    with tempfile.TemporaryDirectory(prefix="cascade-replay-") as folder, ExitStack() as stack:
        content, results = Path(folder) / "rows.npz", Path(folder) / "results.npz"
        taken = {f"input:{name}": bytes_as_plain(values[used]) for name, values in inputs.items()}
        np.savez(content, rows=mine, arrival_s=arrival_s, **taken)
        file = Path(folder) / "job.json"
        outputs = (LABEL, TIER) if tier is None else (LABEL,)
        file.write_text(json.dumps(asdict(Job(url, model, datatypes, str(content), str(results), outputs))))
        if awake:
            stack.enter_context(awake_cores())
        gears = stack.enter_context(watch_gears(metrics_url, model)) if metrics_url else None
        _run(file, model, float(arrival_s[-1]))
        found = load_npz(results)
    if tier is not None:
        found["tier"] = np.full(len(arrival_s), tier, np.int64)
    return _replayed(found, target[rows], arrival_s, gears)


def _run(job: Path, model: str, seconds: float) -> None:
    command = [sys.executable, "-m", "cascade_tools.serving.open_loop", str(job)]
    limit_s = START_TIMEOUT_S + seconds + REQUEST_TIMEOUT_S
    try:
        # In a session of its own it has its own share of the cores where Linux groups processes by session.
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=limit_s, start_new_session=True
        )
    except subprocess.TimeoutExpired:
        raise CascadeError(f"replaying to {model}: not at an end after {limit_s:.0f} s") from None
    if done.returncode != 0:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        said = [line for line in lines if line.startswith("details = ")] or lines[-1:] or ["no message"]
        raise CascadeError(f"replaying to {model} failed: {said[-1].removeprefix('details = ')}")


def _replayed(
    found: dict[str, Any], target: IntArray, arrival_s: FloatArray, gears: GearSamples | None
) -> Replayed:
    answered = found["status"] == ANSWERED
    planned_s = float(found["begin_s"]) + arrival_s
    latency_ms = np.where(answered, 1000.0 * (found["done_s"] - planned_s), np.nan)
    correct = np.zeros(len(arrival_s), bool)
    if answered.any():
        label = found["label"].reshape(int(answered.sum()), -1)
        correct[answered] = is_right(label.reshape(target[answered].shape), target[answered])
    unknown = np.full(len(arrival_s), -1, np.int64)
    lateness_ms = 1000.0 * (found["sent_s"] - planned_s)
    return Replayed(
        outcomes=Outcomes(
            arrival_s=arrival_s,
            latency_ms=latency_ms,
            tier=np.where(answered, found["tier"], -1),
            correct=correct,
            gear=unknown if gears is None else gears.at(planned_s),
        ),
        lateness_ms=lateness_ms,
        lateness=judge(lateness_ms, latency_ms),
        refused=found["status"] == REFUSED,
        failed=found["status"] == FAILED,
        errors=tuple(str(text) for text in found["errors"]),
        begin_s=float(found["begin_s"]),
        client_cpu_s=float(found["client_cpu_s"]),
        gears=None if gears is None else gears.since(float(found["begin_s"])),
    )
