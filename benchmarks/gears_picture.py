"""The picture of `bench-gears`: the rate, what became of the latency, and the gear, second by second."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from cascade_tools.planning.outcomes import FloatArray, Outcomes
from cascade_tools.planning.traces.shape import counts_per_window
from cascade_tools.report.pictures import CASCADE, COLOURS, GIANT, GREY, STYLE, _svg

LINES = {"gears": CASCADE, "most accurate": GIANT, "cheapest": COLOURS[4]}
LONGEST_MS = 1e4  # drawn for a second in which more than 5 % got no answer


def draw(runs: Mapping[str, Outcomes], slo_ms: float, holds_rps: float) -> str:
    """Three panels as SVG.

    Args:
        runs: of the same trace, by name; the first has the gear over time.
        slo_ms: of the p95.
        holds_rps: what the giant alone sustains.
    """
    first = next(iter(runs.values()))
    rate = counts_per_window(first.arrival_s)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.0, 6.4), layout="constrained")
        top, middle, bottom = figure.subplots(3, 1, sharex=True, height_ratios=(1.6, 2.6, 1)).ravel().tolist()
        top.step(range(len(rate)), rate, where="post", color=GREY, label="arrivals")
        top.axhline(holds_rps, color=GIANT, linestyle=":", label="the giant alone holds")
        top.set_ylabel("requests/s")
        top.set_ylim(bottom=0)
        for name, outcomes in runs.items():
            p95_ms = np.minimum(outcomes.per_second_quantile_ms(0.95), LONGEST_MS)
            middle.plot(range(len(p95_ms)), p95_ms, color=LINES[name], linewidth=1.2, label=name)
        middle.axhline(slo_ms, color=GREY, linestyle=":", label=f"SLO {slo_ms:.0f} ms")
        middle.set_yscale("log")
        middle.set_ylabel("p95 of each second, ms")
        bottom.step(range(len(rate)), _mean_gear(first, len(rate)), where="post", color=COLOURS[4])
        bottom.set_ylabel("gear (mean)")
        bottom.set_xlabel("second of the trace")
        for axis in (top, middle):
            axis.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
        return _svg(figure)


def _mean_gear(outcomes: Outcomes, seconds: int) -> FloatArray:
    """Over the requests of each second; a gap where none came."""
    second = outcomes.arrival_s.astype(np.int64)
    known = outcomes.gear >= 0
    total = np.bincount(second[known], outcomes.gear[known].astype(np.float64), seconds)
    count = np.bincount(second[known], minlength=seconds)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
