"""How `bench-gears` judges its runs: the table's figures, and the claims that are to be shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.stats import binomtest

from cascade_tools.planning.outcomes import Outcomes
from cascade_tools.serving.replay import Replayed

GEARS, ACCURATE, CHEAPEST = "gears", "most accurate", "cheapest"
KEPT_SECONDS = 0.99
SURE = 0.01  # largest chance that the gears' gain in accuracy is none


@dataclass(frozen=True)
class Paired:
    """Two runs of the same requests, on those that both answered.

    Attributes:
        answered: how many those are.
        accuracy: of the first run on them, and `other_accuracy` of the second; None without any.
        p_value: chance of so many more right answers in the first if the two were alike; McNemar's exact
            test, one-sided.
    """

    answered: int
    accuracy: float | None
    other_accuracy: float | None
    p_value: float

    @property
    def better(self) -> bool:
        """The first is the more accurate, and not by chance."""
        return self.p_value < SURE


def paired(first: Outcomes, second: Outcomes) -> Paired:
    """Compare their accuracy; one-sided: `better` is of the first."""
    both = first.answered & second.answered
    gained = int((first.correct & ~second.correct & both).sum())
    lost = int((second.correct & ~first.correct & both).sum())
    if not both.any():
        return Paired(0, None, None, 1.0)
    return Paired(
        answered=int(both.sum()),
        accuracy=float(first.correct[both].mean()),
        other_accuracy=float(second.correct[both].mean()),
        p_value=float(binomtest(gained, gained + lost, 0.5, "greater").pvalue) if gained + lost else 1.0,
    )


def kept(outcomes: Outcomes, slo_ms: float) -> float:
    """Share of the seconds with arrivals whose p95 is within the SLO; what got no answer is late."""
    p95_ms = outcomes.per_second_quantile_ms(0.95)
    return float(np.mean(p95_ms[~np.isnan(p95_ms)] <= slo_ms))


def row_of(
    name: str, found: Replayed, slo_ms: float, tiers: Sequence[str], slowness: float
) -> dict[str, Any]:
    """One line of the table; `slowness` is that of the cores meanwhile."""
    outcomes = found.outcomes
    from_sending = replace(outcomes, latency_ms=outcomes.latency_ms - found.lateness_ms)
    return {
        "name": name,
        "requests": len(outcomes.arrival_s),
        "seconds_kept": kept(outcomes, slo_ms),
        "seconds_kept_from_sending": kept(from_sending, slo_ms),
        "goodput": outcomes.goodput(slo_ms),
        "p50_ms": outcomes.latency_quantile_ms(0.5),
        "p95_ms": outcomes.latency_quantile_ms(0.95),
        "p99_ms": outcomes.latency_quantile_ms(0.99),
        "accuracy": outcomes.accuracy(),
        "refused": int(found.refused.sum()),
        "failed": int(found.failed.sum()),
        "shares": dict(zip(tiers, outcomes.shares(len(tiers)).tolist(), strict=True)),
        "lateness_p95_ms": found.lateness.p95_ms,
        "lateness_p99_ms": found.lateness.p99_ms,
        "valid": found.lateness.valid,
        "slowness": slowness,
    }


def claims(rows: Sequence[Mapping[str, Any]], accuracy: Paired) -> dict[str, bool]:
    """What is to be shown.

    Latency counts from the planned time, so a generator that lags can break the SLO by itself. Where it
    lagged with the most accurate gear, that run's latencies count from the sending.

    Args:
        rows: of `row_of`.
        accuracy: of the gears beside the cheapest.
    """
    by_name = {row["name"]: row for row in rows}
    gears, accurate, cheapest = (by_name[name] for name in (GEARS, ACCURATE, CHEAPEST))
    slow = accurate["seconds_kept" if accurate["valid"] else "seconds_kept_from_sending"]
    return {
        "with gears the p95 keeps the SLO in 99 % of the seconds": gears["seconds_kept"] >= KEPT_SECONDS,
        "with the most accurate gear alone it does not": slow < KEPT_SECONDS,
        "with the cheapest gear alone accuracy is worse": accuracy.better,
        "the generator kept to its times with gears and with the cheapest": gears["valid"]
        and cheapest["valid"],
    }


def show(rows: Sequence[Mapping[str, Any]], accuracy: Paired) -> None:
    """The table."""
    print(
        "  run                 seconds kept   goodput   p50 ms   p95 ms    p99 ms  accuracy  refused  giant"
        "  slower"
    )
    for row in rows:
        giant = list(row["shares"].values())[-1]
        lagged = f"  (the generator lagged; from sending {row['seconds_kept_from_sending']:.1%} kept)"
        print(
            f"  {row['name']:18} {row['seconds_kept']:13.1%} {row['goodput']:9.4f} {row['p50_ms']:8.1f} "
            f"{row['p95_ms']:8.1f} {row['p99_ms']:9.1f} {row['accuracy']:9.4f} {row['refused']:8} "
            f"{giant:6.1%} {row['slowness'] - 1.0:7.0%}" + ("" if row["valid"] else lagged)
        )
    if accuracy.accuracy is not None:
        print(
            f"  {accuracy.answered} requests answered with gears and with the cheapest: accuracy "
            f"{accuracy.accuracy:.4f} and {accuracy.other_accuracy:.4f}; were they alike: "
            f"p {accuracy.p_value:.3g} (McNemar), at most {SURE:g} to count"
        )
