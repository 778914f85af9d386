"""What several test modules build upon: a legal gear plan, a legal cascade folder, a limited process."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, FunctionType
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import yaml

from cascade_tools.artifacts import ExportedTier
from cascade_tools.planning.outcomes import Outcomes
from cascade_tools.planning.traces.lateness import judge
from cascade_tools.serving.replay import Replayed
from cascade_tools.spec import Cascade, Format, load_cascade

Json = dict[str, Any]
Array = npt.NDArray[Any]


def route_entry(cuts: list[float], to: list[int]) -> Json:
    return {"cuts": cuts, "to": to}


def gear_entry(policy: Json, up_to_rps: float | None = None) -> Json:
    return {
        "up_to_rps": up_to_rps,
        "policy": policy,
        "min_queue": 1,
        "max_wait_ms": 0.0,
        "predicted_accuracy": 0.9,
        "predicted_cost": 1.0,
    }


def ladder_entry(tier: str) -> Json:
    return {
        "tier": tier,
        "model": f"digits_{tier}",
        "sha256": f"digest of {tier}",
        "p50_ms": 0.1,
        "p99_ms": 0.2,
        "further_row_ms": 0.0,
    }


def plan_content(tiers: tuple[str, ...] = ("tiny", "base", "giant")) -> Json:
    """A minimal legal gear plan: all tiers in use, one gear, every tier but the last cuts at 0.5."""
    last = len(tiers) - 1
    routes = [route_entry([0.5], [level + 1, -1]) for level in range(last)]
    return {
        "kind": "gear_plan",
        "format": 1,
        "cascade": "digits",
        "made_from": {},
        "inputs": [{"name": "ROW", "datatype": "INT64", "dims": [1]}],
        "classes": 10,
        "probabilities": False,
        "ladder": [ladder_entry(tier) for tier in tiers],
        "gears": [gear_entry({"tiers": list(tiers), "routes": [*routes, route_entry([], [-1])]})],
        "hysteresis": {"alpha": 8.0, "window_ms": 100.0},
        "limits": {
            "rows_in_flight": 1000,
            "max_batch_size": 32,
            "inline_entry_ms": 2.0,
            "escalation_threads": 4,
            "shadow_share": 0.0,
        },
        "cost_unit": "ms per row",
    }


def spec_content() -> Json:
    """A minimal legal `cascade.yaml`."""
    return {
        "name": "pair",
        "tiers": [
            {"name": "small", "source": {"torch": "ladder:small"}},
            {"name": "large", "source": {"torch": "ladder:large"}},
        ],
        "data": {"validation": "rows:validation"},
        "devices": "devices.yaml",
    }


def exported(kind: Format, file: str) -> ExportedTier:
    """A record of an exported tier, `sum`, in one file."""
    return ExportedTier(
        tier="sum",
        format=kind,
        file=f"export/{file}",
        sha256="",
        parameters=0,
        parity_rows=1,
        parity_label_mismatches=0,
        parity_confidence_error=0.0,
    )


def write_cascade(
    folder: Path, content: Json | None = None, files: Mapping[str, str] | None = None
) -> Cascade:
    """Write `cascade.yaml` and further text files, and load it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cascade.yaml").write_text(yaml.safe_dump(content or spec_content()))
    for name, text in (files or {}).items():
        (folder / name).write_text(textwrap.dedent(text))
    return load_cascade(folder)


def changed(content: Json, change: Callable[[Json], object]) -> Json:
    """The content after a change made in place, so that a parameter can be a one-line lambda."""
    change(content)
    return content


def run_with_file_limit(limit: int, script: str, *arguments: str) -> str:
    """Run Python that can write no file beyond `limit` bytes, as on a full disk; return its stdout."""
    prologue = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
    )
    # -B: otherwise the limit would also hit compiled modules.
    done = subprocess.run(
        [sys.executable, "-B", "-c", prologue + textwrap.dedent(script), *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextmanager
def thread_switches_inside(*functions: Callable[..., object]) -> Iterator[None]:
    """New threads give way to others before every bytecode of some functions, so that races show."""
    codes = {cast(FunctionType, function).__code__ for function in functions}

    def give_way(frame: FrameType, event: str, argument: object) -> Callable[..., Any] | None:
        if frame.f_code not in codes:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            time.sleep(1e-6)
        return give_way

    threading.settrace(give_way)
    try:
        yield
    finally:
        threading.settrace(None)


def run_in_threads(jobs: Sequence[Callable[[], object]]) -> None:
    """Start all jobs at the same time and wait for them."""
    start = threading.Barrier(len(jobs))

    def work(job: Callable[[], object]) -> None:
        start.wait(timeout=60)
        job()

    threads = [threading.Thread(target=work, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
        assert not thread.is_alive()


def replayed(outcomes: Outcomes, late_ms: float) -> Replayed:
    """A replay that had these outcomes, and whose requests were all sent so late."""
    count = len(outcomes.arrival_s)
    lateness_ms, none = np.full(count, late_ms), np.zeros(count, bool)
    return Replayed(
        outcomes,
        lateness_ms,
        judge(lateness_ms, outcomes.latency_ms),
        none,
        none,
        (),
        begin_s=0.0,
        client_cpu_s=0.0,
        gears=None,
    )
