"""The table of a profile."""

from __future__ import annotations

from cascade_tools.artifacts import Profile, ProfilePoint
from cascade_tools.cli.output import show_line, show_table

COLUMNS = (
    "tier",
    "device",
    "batch",
    "p50 ms",
    "p99 ms",
    "spread",
    "client ms",
    "rows/s",
    "utilization",
    "MiB",
    "J per row",
    "energy",
    "origin",
)


def show_profile(made: Profile) -> None:
    """All points; times are of one batch. What is modelled in a point that is not wears a star."""
    facts = made.environment
    show_table(f"Profile of {made.cascade}, {_where(facts)}", list(COLUMNS), [_row(p) for p in made.points])
    if any(point.modelled for point in made.points):
        show_line("  * modelled")
    if "source" in facts:
        show_line(f"  source: {facts['source']}")
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
    star = {name: "*" if name in point.modelled else "" for name in ("time", "utilization", "memory")}
    return [
        point.tier,
        point.device + (f" x {point.instances}" if point.instances > 1 else ""),
        str(point.batch),
        f"{point.latency_p50_ms:.3f}{star['time']}",
        "-" if point.latency_p99_ms is None else f"{point.latency_p99_ms:.3f}",
        "-" if point.latency_spread is None else f"{point.latency_spread:.0%}",
        "-" if point.client_p50_ms is None else f"{point.client_p50_ms:.3f}",
        f"{point.throughput_rps:,.0f}{star['time']}",
        f"{point.kernel_utilization:.3f}{star['utilization']}",
        f"{point.memory_mib:.1f}{star['memory']}",
        "-" if point.energy_j is None else f"{point.energy_j:.5f}",
        point.energy_origin or "no meter",
        point.origin if point.timed_by is None else f"{point.origin}, {point.timed_by}",
    ]
