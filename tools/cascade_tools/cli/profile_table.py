"""The table of a profile."""

from __future__ import annotations

from cascade_tools.artifacts import Profile, ProfilePoint
from cascade_tools.cli.output import show_line, show_table

COLUMNS = (
    "tier",
    "batch",
    "instances",
    "p50 ms",
    "p99 ms",
    "spread",
    "client ms",
    "rows/s",
    "utilization",
    "MiB",
    "J per row",
    "energy",
    "timed by",
)


def show_profile(made: Profile) -> None:
    """All points; times are of one batch."""
    show_table(
        f"Profile on {made.environment.get('processor', 'an unknown processor')}, one thread per instance",
        list(COLUMNS),
        [_row(point) for point in made.points],
    )
    overheads = [point.overhead_ms for point in made.points if point.overhead_ms is not None]
    if overheads:
        show_line(
            f"  p50 and p99 are the model's; the server counts {min(overheads):.2f} to {max(overheads):.2f} "
            "ms more for a batch, which are part of the hop"
        )


def _row(point: ProfilePoint) -> list[str]:
    return [
        point.tier,
        str(point.batch),
        str(point.instances),
        f"{point.latency_p50_ms:.3f}",
        f"{point.latency_p99_ms:.3f}",
        "-" if point.latency_spread is None else f"{point.latency_spread:.0%}",
        "-" if point.client_p50_ms is None else f"{point.client_p50_ms:.3f}",
        f"{point.throughput_rps:,.0f}",
        f"{point.kernel_utilization:.2f}",
        f"{point.memory_mib:.1f}",
        "-" if point.energy_j is None else f"{point.energy_j:.5f}",
        point.energy_origin or "no meter",
        point.timed_by or point.origin,
    ]
