"""What `gears` prints for people."""

from __future__ import annotations

from cascade_tools.artifacts import Gear, GearPlan, PlannedRates, PlannedService
from cascade_tools.cli.output import show_line, show_table

SLO_NAMES = {
    "p95_ms": "p95 at every rate at most {:g} ms",
    "p99_ms": "p99 at every rate at most {:g} ms",
    "accuracy": "mean accuracy at least {:g}",
    "energy_j": "mean energy at most {:g} J",
}


def show_gears(plan: GearPlan) -> None:
    """The gears, what is expected of them over the planned rates, and those without a tier."""
    planned = plan.service is not None
    heading = ["gear", "up to rows/s", "tiers", "accuracy"]
    show_table(
        "Gears",
        [
            *heading,
            *(["waits for", "p95, ms", "p99, ms", "J", "busy"] if planned else [f"cost, {plan.cost_unit}"]),
        ],
        [_row(number, gear, planned) for number, gear in enumerate(plan.gears)],
    )
    if plan.service is not None and plan.rates is not None:
        _show_service(plan.service, plan.rates)
    also = ", nor is the SLO planned for" if planned else ""
    show_table(
        f"While a tier is broken (nothing is promised then{also})",
        ["without", "tiers", "accuracy", f"cost, {plan.cost_unit}", "sustains, rows/s"],
        [
            [
                ", ".join(fallback.without),
                " > ".join(gear.policy.tiers),
                f"{gear.predicted_accuracy:.4f}",
                f"{gear.predicted_cost:.4f}",
                "-" if fallback.sustains_rps is None else f"{fallback.sustains_rps:,.0f}",
            ]
            for fallback in plan.fallbacks
            for gear in fallback.gears
        ],
    )


def _row(number: int, gear: Gear, planned: bool) -> list[str]:
    row = [
        str(number),
        "any" if gear.up_to_rps is None else f"{gear.up_to_rps:,.0f}",
        " > ".join(gear.policy.tiers),
        f"{gear.predicted_accuracy:.4f}",
    ]
    if not planned:
        return [*row, f"{gear.predicted_cost:.4f}"]
    waits = "-" if gear.min_queue == 1 else f"{gear.min_queue} rows, {gear.max_wait_ms:.1f} ms"
    there = gear.predicted
    if there is None:
        return [*row, waits, "-", "-", "-", "-"]
    return [
        *row,
        waits,
        f"{there.p95_ms:.1f}",
        f"{there.p99_ms:.1f}",
        _joule(there.energy_j),
        f"{there.busy_share:.0%}",
    ]


def _show_service(service: PlannedService, rates: PlannedRates) -> None:
    kept = SLO_NAMES[service.slo].format(service.bound)
    show_line(
        f"  Planned for: {kept}, up to {rates.edges_rps[-1]:,.0f} rows/s ({len(rates.shares)} bins, "
        f"{rates.source}); latency, J and busy are simulated at each gear's highest planned rate"
    )
    show_line(
        f"  Mean over the planned requests: accuracy {service.accuracy:.4f}, p95 {service.p95_ms:.1f} ms, "
        f"p99 {service.p99_ms:.1f} ms, {_joule(service.energy_j)} J (simulated); the last gear sustains "
        f"{service.sustains_rps:,.0f} rows/s"
    )


def _joule(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
