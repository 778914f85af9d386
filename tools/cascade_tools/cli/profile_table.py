"""The table of a profile; narrow enough for a terminal of 80 columns."""

from __future__ import annotations

from cascade_tools.artifacts import Profile, ProfilePoint
from cascade_tools.cli.output import show_line, show_table

TIMED_BY = {
    "process": "in process",
    "client": "through Triton by the built-in client",
    "perf_analyzer": "through Triton by perf_analyzer",
}


def show_profile(made: Profile) -> None:
    """All points; times are of one batch, `8 x 2` is a batch of 8 on each of two instances."""
    show_table(
        f"Profile on {made.environment.get('processor', 'an unknown processor')}, one thread per instance",
        ["tier", "batch", "p50 ms", "p99 ms", "spread", "rows/s", "busy", "MiB", "J per row"],
        [_row(point) for point in made.points],
    )
    for by in dict.fromkeys(point.timed_by for point in made.points if point.timed_by):
        show_line(f"  measured {TIMED_BY[by]}")
    origins = {point.energy_origin for point in made.points}
    if origins == {None}:
        show_line("  energy: no meter, and no watts in the device file")
    elif "modelled" in origins:
        show_line("  * modelled from the watts of the device file")
    overheads = [point.overhead_ms for point in made.points if point.overhead_ms is not None]
    if overheads:
        show_line(
            f"  p50 and p99 are the model's; the server counts {min(overheads):.2f} to {max(overheads):.2f} "
            "ms more for a batch, which are part of the hop"
        )


def _row(point: ProfilePoint) -> list[str]:
    star = "*" if point.energy_origin == "modelled" else ""
    return [
        point.tier,
        str(point.batch) + (f" x {point.instances}" if point.instances > 1 else ""),
        f"{point.latency_p50_ms:.3f}",
        f"{point.latency_p99_ms:.3f}",
        "-" if point.latency_spread is None else f"{point.latency_spread:.0%}",
        f"{point.throughput_rps:,.0f}",
        f"{point.kernel_utilization:.2f}",
        f"{point.memory_mib:.1f}",
        "-" if point.energy_j is None else f"{point.energy_j:.5f}{star}",
    ]
