"""The SLO of a load that a planned cascade gets."""

from __future__ import annotations

from cascade_tools.artifacts import GearPlan

FACTOR = 3.0  # of the last tier's planned p99, where no SLO is given


def slo_of(plan: GearPlan, slo_ms: float | None) -> tuple[float, str]:
    """In ms, and where it comes from in words."""
    if slo_ms is not None:
        return slo_ms, "given"
    return FACTOR * plan.ladder[-1].p99_ms, f"{FACTOR:g} x the last tier's planned p99"
