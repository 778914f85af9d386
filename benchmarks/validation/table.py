"""The table of docs/benchmarks.md from what a validation has written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from benchmarks.validation.verdict import CALM, FIGURES, Figures, bars_of, distance

HEADING = (
    "| pair | answers/s | goodput | p50 ms | p95 ms | shares off by | spread of the runs | stolen | slower "
    "| |\n"
    "|---|---|---|---|---|---|---|--:|--:|---|"
)
FORMS = {"throughput_rps": ".0f", "goodput": ".3f", "p50_ms": ".1f", "p95_ms": ".1f"}


def verdict_of(row: Mapping[str, Any]) -> str:
    """What became of a pair, in words."""
    if row["lagged_runs"]:
        return "not counted: the generator lagged"
    if row["noisy_runs"]:
        return "not counted: the host took the cores' speed"
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
            f"{median(row['slowness']) - 1.0:.0%}",
            verdict_of(row),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def summary(content: Mapping[str, Any]) -> str:
    """How many pairs are within which bar, counted or not, and what the policies sustain."""
    rows = content["rows"]
    counted = [row for row in rows if row["valid"]]
    lines = [
        f"{len(rows)} pairs, {len(counted)} counted, {sum(row['within_bars'] for row in counted)} of these "
        "within all bars. Of all whose generator kept up:"
    ]
    kept_up = [row for row in rows if not row["lagged_runs"]]
    for where, share in ((f"up to {CALM:.0%} of the capacity", CALM), ("above", 1.0 + CALM)):
        some = [row for row in kept_up if bars_of(row["rate_share"]) == bars_of(share)]
        for how, side in (("", "simulated"), (", at the speed that the cores had", "at_speed")):
            found = [_within(some, name, bar, side) for name, bar in bars_of(share).items()]
            lines.append(f"- {where}{how}: {', '.join(found)}")
    capacities = [
        f"{policy} {content['capacity_simulated_rps'][policy]:.0f} / {measured:.0f}"
        for policy, measured in content["capacity_rps"].items()
    ]
    lines.append(f"- answers per second in a flood, simulated / measured: {', '.join(capacities)}")
    return "\n".join(lines)


def _within(rows: Sequence[Mapping[str, Any]], name: str, bar: float, side: str) -> str:
    both = [
        [Figures(**{figure: row[f"{figure}_{one}"] for figure in FIGURES}) for one in (side, "measured")]
        for row in rows
    ]
    good = sum(distance(name, simulated, measured) <= bar for simulated, measured in both)
    text = f"{name} within {bar:g} in {good} of {len(rows)}"
    if not name.endswith("_ms") or not rows:
        return text
    ratio = median(getattr(simulated, name) / getattr(measured, name) for simulated, measured in both)
    return f"{text} (median ratio {ratio:.2f})"
