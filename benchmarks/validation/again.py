"""Simulates the pairs of the last validation anew, beside what was measured then."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from benchmarks.validation.modelled import Modelled
from benchmarks.validation.pace import Pace
from benchmarks.validation.pairs import arrivals
from benchmarks.validation.verdict import FIGURES, Figures, bars_of, distance, figures_of
from cascade_tools.errors import CascadeError


def simulated_again(content: dict[str, Any], modelled: Modelled, trace: Path) -> dict[str, Any]:
    """The content of a validation's file with the figures of today's simulator.

    Args:
        content: of the file.
        modelled: the cascade, profiled and planned as in that run.
        trace: as it was replayed.

    Raises:
        CascadeError: the cascade was profiled or planned again since.
    """
    if content.get("made_from") != modelled.made_from:
        raise CascadeError(
            "the cascade was profiled or planned again since the last validation",
            "run the whole validation again",
        )
    for row in content["rows"]:
        policy, kind, _ = row["pair"].split(" ")
        seconds = row["requests"] / row["rate_rps"]
        arrival_s = arrivals(kind, row["rate_share"] * content["capacity_rps"][policy], seconds, trace)
        if len(arrival_s) != row["requests"]:
            raise CascadeError(f"{row['pair']}: other arrivals than then", "run the whole validation again")
        tiers = len(row["shares_measured"])
        found = figures_of(modelled.simulate(policy, arrival_s), content["slo_ms"], tiers)
        measured = Figures(**{name: row[f"{name}_measured"] for name in FIGURES})
        bars = bars_of(row["rate_share"])
        row["missed"] = [name for name, bar in bars.items() if not distance(name, found, measured) <= bar]
        row["within_bars"] = not row["missed"]
        row |= {f"{name}_simulated": getattr(found, name) for name in FIGURES}
        paces = [Pace(tuple(work_s)) for work_s in row["work_s"]]
        at_speed = modelled.at_speed(policy, arrival_s, paces, content["slo_ms"])
        row |= {f"{name}_at_speed": getattr(at_speed, name) for name in FIGURES}
    content["capacity_simulated_rps"] = {
        policy: modelled.capacity_rps(policy, rate_rps, content["capacity_s"])
        for policy, rate_rps in content["capacity_rps"].items()
    }
    content["simulated"] = time.strftime("%Y-%m-%d")
    return content
