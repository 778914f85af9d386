"""How well the fits describe a profile, which is what planning counts with beyond the measured batches."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from cascade_tools.cli.output import show_table

if TYPE_CHECKING:
    from cascade_tools.artifacts import Profile

FEWEST_POINTS = 3  # two points lie on every curve with two parameters


def show_fits(profile: Profile) -> dict[str, dict[str, dict[str, float]]]:
    """Show the fits of every tier with enough points; returns them, by tier."""
    from cascade_tools.planning.curves import fit_memory, fit_utilization

    found = {}
    for tier in dict.fromkeys(point.tier for point in profile.points):
        points = profile.points_of(tier)  # on its first device, which the search counts with
        if len(points) >= FEWEST_POINTS:
            sizes = [float(point.batch) for point in points]
            utilization = fit_utilization(sizes, [point.kernel_utilization for point in points])
            found[tier] = (utilization, fit_memory(sizes, [point.memory_mib for point in points]))
    if found:
        show_table(
            "Fits, for batch sizes beyond the measured ones: u = b^2 / (b^2 + p b + q), MiB = m0 + k b",
            ["tier", "p", "q", "u misses by up to", "m0", "k", "MiB misses by up to"],
            [
                [
                    tier,
                    f"{u.p:.2f}",
                    f"{u.q:.2f}",
                    f"{u.residual:.3f}",
                    f"{m.m0_mib:.1f}",
                    f"{m.k_mib:.2f}",
                    f"{m.residual_mib:.1f}",
                ]
                for tier, (u, m) in found.items()
            ],
        )
    return {tier: {"utilization": asdict(u), "memory": asdict(m)} for tier, (u, m) in found.items()}
