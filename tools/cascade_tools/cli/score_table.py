"""The demo's table: the tiers, then the giant alone against the cascade."""

from __future__ import annotations

from typing import Any

from cascade_tools.artifacts import Score
from cascade_tools.cli.output import show_line, show_table
from cascade_tools.report.compare import compare_served, joules


def show_score(score: Score) -> None:
    """Print both tables and the promise."""
    show_table(
        "Tiers (accuracy on the test rows; times of one row at the planned batch)",
        ["tier", "parameters", "accuracy", "CPU ms", "J", "share of answers"],
        [
            [
                t.name,
                f"{t.parameters:,}",
                f"{t.accuracy:.4f}",
                f"{t.cpu_ms_per_row:.4f}",
                joules(t.energy_j, t.energy_origin),
                f"{t.answer_share:.1%}",
            ]
            for t in score.tiers
        ],
    )
    giant, whole = score.giant, score.cascade_score
    show_table(
        f"Through Triton: latency at 1 client ({score.latency_rows} rows), the rest at "
        f"{score.clients} clients ({score.test_rows} rows)",
        ["", f"{score.tiers[-1].name} alone", "cascade", "cascade is"],
        compare_served(giant, whole),
    )
    router = whole.router_cpu_ms_per_request or 0.0
    show_line(
        f"  Of the cascade's CPU time per request {router:.3f} ms are the router's process, which runs cheap "
        f"tiers itself; beside it tritonserver {whole.server_cpu_ms_per_request:.3f} ms, client "
        f"{whole.client_cpu_ms_per_request:.3f} ms."
    )
    idle = [tier.name for tier in score.tiers if tier.answer_share == 0.0]
    if idle:
        show_line(f"  Left out by the search: {', '.join(idle)}. Asking costs more than it would save.")
    bound = f"{100.0 * score.accuracy_drop_bound:.2f} points"
    promise = (
        f"certified at {bound} on validation rows that the search never saw"
        if score.certified
        else f"not certified, bounded at {bound} on the rows that were searched"
    )
    lost = 100.0 * (giant.accuracy - whole.accuracy)
    show_line(
        f"  Promise: at most {100.0 * score.allowance:g} points below the giant. Measured on the "
        f"test rows: {lost:+.2f} points lost ({'held' if score.promise_held else 'BROKEN'}); "
        f"{promise}."
    )


def score_json(score: Score) -> dict[str, Any]:
    """The demo's object for machines."""
    content = score.model_dump(mode="json", exclude={"cascade", "cascade_score", "giant"})
    return {
        **content,
        "name": score.cascade,
        "giant": score.giant.model_dump(exclude={"router_cpu_ms_per_request"}),
        "cascade": score.cascade_score.model_dump(),
    }
