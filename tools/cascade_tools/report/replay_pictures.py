"""Pictures of a replay: the load, the latency, what was kept, and the gear, over time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cascade_tools.planning.traces.course import Moment
from cascade_tools.report.pictures import CASCADE, COLOURS, GIANT, GREY, STYLE, _svg


def draw_course(moments: Sequence[Moment], window_s: float, slo_ms: float) -> str:
    """Four panels over the time of the trace, as SVG."""
    seconds = [moment.second for moment in moments]
    geared = any(moment.gear is not None for moment in moments)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.0, 7.4 if geared else 6.2), layout="constrained")
        heights = (2, 2.6, 2, 1)[: 4 if geared else 3]
        axes: list[Axes] = list(
            figure.subplots(len(heights), 1, sharex=True, height_ratios=heights).ravel().tolist()
        )
        _draw_load(axes[0], seconds, moments)
        _draw_latency(axes[1], seconds, moments, slo_ms)
        _draw_kept(axes[2], seconds, moments)
        if geared:
            axes[3].step(seconds, _values(m.gear for m in moments), where="post", color=COLOURS[4])
            axes[3].set_ylabel("gear")
            axes[3].yaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
            axes[3].set_ylim(-0.4, max(moment.gear or 0 for moment in moments) + 0.4)
        axes[-1].set_xlabel(f"second of the trace (windows of {window_s:g} s)")
        return _svg(figure)


def _draw_load(axis: Axes, seconds: list[float], moments: Sequence[Moment]) -> None:
    axis.step(seconds, [m.arrived for m in moments], where="post", color=GREY, label="arrived")
    axis.step(seconds, [m.answered for m in moments], where="post", color=CASCADE, label="answered of them")
    axis.set_ylabel("requests/s")
    axis.set_ylim(bottom=0)
    axis.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _draw_latency(axis: Axes, seconds: list[float], moments: Sequence[Moment], slo_ms: float) -> None:
    for name, colour in (("p50", COLOURS[0]), ("p95", COLOURS[2]), ("p99", COLOURS[3])):
        values = _values(getattr(moment, f"{name}_ms") for moment in moments)
        axis.plot(seconds, values, color=colour, linewidth=1.2, label=name)
    axis.axhline(slo_ms, color=GREY, linestyle=":", label=f"SLO {slo_ms:g} ms")
    axis.set_yscale("log")
    axis.set_ylabel("latency, ms")
    axis.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _draw_kept(axis: Axes, seconds: list[float], moments: Sequence[Moment]) -> None:
    axis.step(
        seconds, _percent(m.goodput for m in moments), where="post", color=CASCADE, label="within the SLO"
    )
    axis.step(
        seconds, _percent(m.accuracy for m in moments), where="post", color=GIANT, label="right answers"
    )
    axis.set_ylabel("%")
    axis.set_ylim(0, 102)
    axis.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _percent(values: Iterable[float | None]) -> list[float]:
    return [100.0 * value for value in _values(values)]


def _values(values: Iterable[float | None]) -> list[float]:
    """Gaps where nothing is known."""
    return [math.nan if value is None else float(value) for value in values]
