"""Giant alone against cascade, in words and figures; the table and the page print the same."""

from __future__ import annotations

from typing import NamedTuple

from cascade_tools.artifacts import ServedScore


class Comparison(NamedTuple):
    """One line: what was measured, both figures, and how they compare."""

    what: str
    giant: str
    cascade: str
    verdict: str


def compare_served(giant: ServedScore, cascade: ServedScore) -> list[Comparison]:
    """Accuracy, latency, throughput, CPU time and energy."""
    points = 100.0 * (cascade.accuracy - giant.accuracy)
    lines = [
        Comparison("accuracy", f"{giant.accuracy:.4f}", f"{cascade.accuracy:.4f}", f"{points:+.2f} points")
    ]
    for what, before, after in (
        ("mean latency, ms", giant.latency_mean_ms, cascade.latency_mean_ms),
        ("median latency, ms", giant.latency_p50_ms, cascade.latency_p50_ms),
        ("p99 latency, ms", giant.latency_p99_ms, cascade.latency_p99_ms),
        ("throughput, requests/s", giant.throughput_rps, cascade.throughput_rps),
        ("CPU of tiers and router, ms/request", giant.cpu_ms_per_request, cascade.cpu_ms_per_request),
    ):
        lines.append(Comparison(what, f"{before:.2f}", f"{after:.2f}", _ratio(before, after)))
    lines.append(
        Comparison(
            "energy, J/request",
            joules(giant.energy_j, giant.energy_origin),
            joules(cascade.energy_j, cascade.energy_origin),
            _ratio(giant.energy_j, cascade.energy_j) if giant.energy_j and cascade.energy_j else "",
        )
    )
    return lines


def _ratio(before: float, after: float) -> str:
    if after >= before:
        return f"{after / before:.1f}x higher"
    return f"{before / after:.1f}x lower"


def joules(value: float | None, origin: str | None) -> str:
    """Energy with where it comes from."""
    return "no meter" if value is None else f"{value:.5f} ({origin})"
