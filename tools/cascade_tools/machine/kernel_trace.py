"""The time in which kernels run, from a trace that torch's profiler writes (Kineto, from CUPTI)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

KERNEL = "kernel"  # the category of kernels; copies are `gpu_memcpy` and `gpu_memset`

Interval = tuple[float, float]


def covered(intervals: Iterable[Interval]) -> float:
    """Length of the union of intervals (start, end); those that run at once count once."""
    total, end = 0.0, float("-inf")
    for start, stop in sorted(intervals):
        if stop > end:
            total += stop - max(start, end)
            end = stop
    return total


def intervals_s(
    events: Iterable[Mapping[str, Any]], category: str = KERNEL, device: int | None = None
) -> list[Interval]:
    """Start and end in seconds of the events of one category.

    Args:
        events: `traceEvents`: complete ones (`ph` X) have `ts` and `dur` in microseconds.
        category: `cat` of the wanted events.
        device: CUDA's number of the GPU, as `args.device` has it; None for all.
    """
    return [
        (event["ts"] / 1e6, (event["ts"] + event["dur"]) / 1e6)
        for event in events
        if event.get("ph") == "X"
        and event.get("cat") == category
        and device in (None, event.get("args", {}).get("device"))
    ]


def busy_s(trace: Path, category: str = KERNEL, device: int | None = None) -> float:
    """Seconds of a trace in which at least one event of the category runs."""
    content = json.loads(trace.read_text(encoding="utf-8"))
    return covered(intervals_s(content["traceEvents"], category, device))
