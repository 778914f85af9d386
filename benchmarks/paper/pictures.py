"""Pictures of the experiments, in the style of the report's."""

from __future__ import annotations

import io

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

from cascade_tools.report.pictures import COLOURS, GIANT, GREY, STYLE

Line = list[tuple[float, int | None]]
LINE_COLOURS = (COLOURS[0], GREY, GIANT)


def draw_devices(panels: dict[float, dict[str, Line]]) -> str:
    """One panel per SLO: devices over the allowance, a line per system; logarithmic."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.0, 2.8), layout="constrained")
        axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
        for axis, (slo_ms, lines) in zip(axes, panels.items(), strict=True):
            for (name, line), colour in zip(lines.items(), LINE_COLOURS, strict=True):
                known = [(x, y) for x, y in line if y is not None]
                axis.plot(*zip(*known, strict=True), "o-", color=colour, label=name) if known else None
            axis.set_title(f"P95 <= {slo_ms:g} ms", fontsize=10)
            axis.set_yscale("log", base=2)
            axis.yaxis.set_major_formatter(ScalarFormatter())
            axis.set_xlabel("points below the giant")
        axes[0].set_ylabel("hosts")
        axes[-1].legend(frameon=False)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
