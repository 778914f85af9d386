"""The table of a profile."""

from __future__ import annotations

from cascade_tools.artifacts import Profile, ProfilePoint
from cascade_tools.cli.output import show_line, show_table

COLUMNS = ("tier", "device", "batch", "p50 ms", "p99 ms", "spread", "rows/s", "busy", "MiB", "J per row")
TIMED_BY = {
    "process": "in process",
    "client": "through Triton by the built-in client",
    "perf_analyzer": "through Triton by perf_analyzer",
}


def show_profile(made: Profile) -> None:
    """All points; times are of one batch, `8 x 2` is a batch of 8 on each of two instances.

    What is modelled in a point wears a star.
    """
    facts = made.environment
    show_table(f"Profile of {made.cascade}, {_where(facts)}", list(COLUMNS), [_row(p) for p in made.points])
    for by in dict.fromkeys(point.timed_by for point in made.points if point.timed_by):
        show_line(f"  measured {TIMED_BY[by]}")
    if "source" in facts:
        show_line(f"  source: {facts['source']}")
    if any(point.modelled or "modelled" in (point.origin, point.energy_origin) for point in made.points):
        show_line("  * modelled")
    if all(point.energy_j is None for point in made.points):
        show_line("  energy: no meter, and no watts in the device file")
    overheads = [point.overhead_ms for point in made.points if point.overhead_ms is not None]
    if overheads:
        show_line(
            f"  p50 and p99 are the model's; the server counts {min(overheads):.2f} to {max(overheads):.2f} "
            "ms more for a batch, which are part of the hop"
        )


def _where(facts: dict[str, str]) -> str:
    if "given" in facts:
        return f"given by {facts['given']}, not measured here"
    return f"on {facts['processor']}, one thread per instance" if "processor" in facts else "given"


def _row(point: ProfilePoint) -> list[str]:
    whole = point.origin == "modelled"
    star = {
        name: "*" if whole or name in point.modelled else "" for name in ("time", "utilization", "memory")
    }
    joules_star = "*" if point.energy_origin == "modelled" else ""
    return [
        point.tier,
        point.device,
        str(point.batch) + (f" x {point.instances}" if point.instances > 1 else ""),
        f"{point.latency_p50_ms:.3f}{star['time']}",
        "-" if point.latency_p99_ms is None else f"{point.latency_p99_ms:.3f}{star['time']}",
        "-" if point.latency_spread is None else f"{point.latency_spread:.0%}",
        f"{point.throughput_rps:,.0f}{star['time']}",
        f"{point.kernel_utilization:.2f}{star['utilization']}",
        f"{point.memory_mib:.1f}{star['memory']}",
        "-" if point.energy_j is None else f"{point.energy_j:.5f}{joules_star}",
    ]
