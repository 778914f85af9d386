"""Pictures as inline SVG; the same figures always give the same bytes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cascade_tools.artifacts import Calibration, Frontier, Profile, RoutingPolicy, Score

INK = "#1f2933"
GREY = "#9aa5b1"
COLOURS = ("#2a9d8f", "#8ab17d", "#e9c46a", "#e76f51", "#264653", "#7b6d8d")
GIANT = "#e76f51"
CASCADE = "#2a9d8f"
STYLE: Any = {
    "svg.hashsalt": "cascade-tools",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
}


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _axes(width: float, height: float, columns: int = 1) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(1, columns, squeeze=False)[0]
    return figure, list(axes)


def draw_comparison(score: Score) -> str:
    """Latency, throughput, CPU time and energy of the giant alone and of the cascade."""
    giant, whole = score.giant, score.cascade_score
    panels = [
        ("mean latency, ms\n(1 client)", giant.latency_mean_ms, whole.latency_mean_ms),
        (f"requests/s\n({score.clients} clients)", giant.throughput_rps, whole.throughput_rps),
        ("CPU ms/request\n(tiers)", giant.cpu_ms_per_request, whole.cpu_ms_per_request),
    ]
    if giant.energy_j is not None and whole.energy_j is not None:
        label = f"mJ/request\n({giant.energy_origin})"
        panels.append((label, 1000 * giant.energy_j, 1000 * whole.energy_j))
    with matplotlib.rc_context(STYLE):
        figure, axes = _axes(9.0, 2.6, len(panels))
        for axis, (title, *values) in zip(axes, panels, strict=True):
            bars = axis.bar([f"{score.tiers[-1].name}\nalone", "cascade"], values)
            for bar, colour in zip(bars, (GIANT, CASCADE), strict=True):
                bar.set_color(colour)
            axis.bar_label(bars, fmt="{:.3g}", padding=2)
            axis.set_title(title, fontsize=10)
            axis.set_yticks([])
            axis.spines["left"].set_visible(False)
            axis.margins(y=0.15)
        return _svg(figure)


def draw_shares(names: Sequence[str], shares: Sequence[float]) -> str:
    """Who answers: one bar, a piece per tier."""
    with matplotlib.rc_context(STYLE):
        figure, (axis,) = _axes(9.0, 1.3)
        left = 0.0
        for number, (name, share) in enumerate(zip(names, shares, strict=True)):
            colour = COLOURS[number % len(COLOURS)]
            axis.barh([0], [share], left=left, color=colour, label=f"{name} {share:.1%}")
            left += share
        axis.set_xlim(0, 1)
        axis.set_axis_off()
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=len(names), frameon=False)
        return _svg(figure)


def draw_frontier(frontier: Frontier, policy: RoutingPolicy) -> str:
    """Accuracy over cost of the policies that nothing dominates, the chosen one marked."""
    with matplotlib.rc_context(STYLE):
        figure, (axis,) = _axes(9.0, 3.4)
        axis.plot(
            [p.cost for p in frontier.policies],
            [100 * p.accuracy for p in frontier.policies],
            "o-",
            color=GREY,
            markersize=3,
            linewidth=1,
            label="frontier",
        )
        for found, colour, name in (
            (policy.chosen, CASCADE, "chosen"),
            (policy.reference, GIANT, f"{policy.reference.table.tiers[-1]} alone"),
        ):
            axis.plot([found.cost], [100 * found.accuracy], "o", color=colour, label=name)
        floor = 100 * policy.reference.accuracy - policy.max_accuracy_drop
        axis.axhline(floor, color=GREY, linestyle=":", label="allowance")
        axis.set_xscale("log")
        axis.set_xlabel(f"cost, {policy.cost_unit} (logarithmic)")
        axis.set_ylabel("accuracy on the search rows, %")
        axis.legend(frameon=False)
        return _svg(figure)


def draw_reliability(calibration: Calibration) -> str:
    """Accuracy over confidence, per tier, before and after the fit, on rows that the heads did not see."""
    tiers = calibration.tiers
    with matplotlib.rc_context(STYLE):
        figure, axes = _axes(9.0, 2.6, len(tiers))
        for number, (axis, tier) in enumerate(zip(axes, tiers, strict=True)):
            axis.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=":")
            for name, found, colour in (
                ("before", tier.before, GREY),
                ("after", tier.after, COLOURS[number % len(COLOURS)]),
            ):
                axis.plot(
                    [part.confidence for part in found.bins],
                    [part.right for part in found.bins],
                    "o-",
                    color=colour,
                    markersize=4,
                    label=name,
                )
            axis.set_title(tier.tier, fontsize=10)
            axis.set_xlim(0, 1.02)
            axis.set_ylim(0, 1.02)
            axis.set_xlabel("confidence")
            axis.legend(frameon=False, loc="upper left")
        axes[0].set_ylabel("share right")
        return _svg(figure)


def draw_profile(profile: Profile) -> str:
    """Time of one row over the batch size, per tier."""
    names = list(dict.fromkeys(point.tier for point in profile.points))
    with matplotlib.rc_context(STYLE):
        figure, (axis,) = _axes(9.0, 3.0)
        for number, name in enumerate(names):
            points = profile.points_of(name)
            axis.plot(
                [point.batch for point in points],
                [point.latency_p50_ms / point.batch for point in points],
                "o-",
                color=COLOURS[number % len(COLOURS)],
                markersize=4,
                label=name,
            )
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        axis.set_xlabel("batch size")
        axis.set_ylabel("ms per row (p50)")
        axis.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
        return _svg(figure)
