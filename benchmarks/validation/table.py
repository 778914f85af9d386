"""The table of docs/benchmarks.md from what a validation has written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

HEADING = (
    "| pair | answers/s | goodput | p50 ms | p95 ms | shares off by | spread of the runs | stolen | |\n"
    "|---|---|---|---|---|---|---|--:|---|"
)
FORMS = {"throughput_rps": ".0f", "goodput": ".3f", "p50_ms": ".1f", "p95_ms": ".1f"}


def verdict_of(row: Mapping[str, Any]) -> str:
    """What became of a pair, in words."""
    if row["lagged_runs"]:
        return "not counted: the generator lagged"
    if row["unsteady"]:
        return f"not counted: {', '.join(row['unsteady'])} spread"
    return f"misses {', '.join(row['missed'])}" if row["missed"] else "within"


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """One line per pair: simulated / measured."""
    lines = [HEADING]
    for row in rows:
        pairs = zip(row["shares_simulated"], row["shares_measured"], strict=True)
        off = max(abs(simulated - measured) for simulated, measured in pairs)
        spread = row["spread"]
        cells = [
            row["pair"],
            *[
                f"{row[f'{name}_simulated']:{form}} / {row[f'{name}_measured']:{form}}"
                for name, form in FORMS.items()
            ],
            f"{off:.3f}",
            ", ".join(f"{spread[name]:{'.3f' if name == 'goodput' else '.0%'}}" for name in FORMS),
            f"{row['stolen_share']:.0%}",
            verdict_of(row),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
