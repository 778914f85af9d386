"""Experiment 2: a cascade of two models with a fixed threshold, its P90 beside the giant alone."""

from __future__ import annotations

import numpy as np

from benchmarks.paper.finding import Column, Experiment, Finding, Table
from benchmarks.paper.served import FloatArray, Router, routers_served
from benchmarks.paper.setting import Setting
from cascade_tools.planning.evaluate import evaluate, threshold_policy

SMALL = "base"
THRESHOLDS = (0.7, 0.9, 0.99)
LOAD_THRESHOLD = 0.9
LOADS = (0.5, 0.8)  # of what the giant alone holds


def run(setting: Setting) -> Finding:
    """At one client and under load."""
    giant = setting.cascade.tier_names[-1]
    rows, logits = setting.test_part(setting.effort.rows)
    table = setting.table(rows, logits)
    routers = [
        Router.of(_name(threshold), threshold_policy((SMALL, giant), (threshold,)))
        for threshold in THRESHOLDS
    ]
    with routers_served(setting, routers) as bench:
        alone = bench.tier_model(giant)
        setting.say(f"  {len(rows)} rows at 1 client, {len(routers)} cascades and {alone} in turns")
        latency = bench.in_turns([alone, *(router.name for router in routers)], rows)
        capacity_rps = _giant_rps(setting)
        load = []
        for share in LOADS:
            rate = share * capacity_rps
            setting.say(f"  {rate:.0f} requests/s, open loop")
            p90 = bench.p90_at_rate(
                [alone, _name(LOAD_THRESHOLD)], rows, rate, setting.effort.passes, setting.effort.seconds
            )
            load.append((share, rate, p90[alone], p90[_name(LOAD_THRESHOLD)]))
    giant_right = float((table.label[:, -1] == table.target).mean())
    found: list[tuple[str | float, ...]] = [
        (f"{giant} alone", 1.0, giant_right, *_figures(latency[alone]), 1.0),
    ]
    base_p90 = float(np.quantile(latency[alone], 0.9))
    for threshold, router in zip(THRESHOLDS, routers, strict=True):
        seen = evaluate(table, router.policy, setting.question)
        times = latency[router.name]
        found.append(
            (
                f"{SMALL} > {giant} at {threshold:g}",
                seen.reach[giant],
                seen.accuracy,
                *_figures(times),
                float(np.quantile(times, 0.9)) / base_p90,
            )
        )
    one = (
        Column("served"),
        Column("reach of the giant", ".1%"),
        Column("accuracy", ".4f"),
        Column("mean ms", ".2f"),
        Column("P50 ms", ".2f"),
        Column("P90 ms", ".2f"),
        Column("P99 ms", ".2f"),
        Column("P90 to the giant's", ".2f"),
    )
    loaded = (
        Column("load of the giant alone", ".0%"),
        Column("requests/s", ".0f"),
        Column("giant P90 ms", ".1f"),
        Column(f"cascade at {LOAD_THRESHOLD:g} P90 ms", ".1f"),
    )
    told = "; ".join(
        f"{row[0].split(' at ')[1]}: {row[7]:.2f}" for row in found[1:] if isinstance(row[0], str)
    )
    return Finding(
        said=(
            f"P90 at 1 client, as a multiple of the giant's {base_p90:.2f} ms, by threshold: {told}. While "
            "more than a tenth of the rows goes on, the P90 is that of a row which pays for both models.",
            f"Under load the giant has fewer rows to do: at {load[-1][1]:.0f} requests/s the P90 is "
            f"{load[-1][3]:.1f} ms instead of {load[-1][2]:.1f} ms.",
        ),
        tables=(
            Table("One client", "measured", one, tuple(found)),
            Table("Poisson arrivals (open loop; the median of the passes)", "measured", loaded, tuple(load)),
        ),
    )


def _giant_rps(setting: Setting) -> float:
    """What the giant alone sustains by the plan, rows/s."""
    rate = setting.placement.giant_only_rps
    assert rate is not None
    return rate


def _figures(latency_ms: FloatArray) -> tuple[float, float, float, float]:
    p50, p90, p99 = np.quantile(latency_ms, (0.5, 0.9, 0.99)).tolist()
    return float(latency_ms.mean()), p50, p90, p99


def _name(threshold: float) -> str:
    return f"two_at_{round(100 * threshold)}"


EXPERIMENT = Experiment(
    number=2,
    title="Two models and a fixed threshold: P90 latency",
    paper="HybridServe",
    claim=(
        "A request whose confidence is below the threshold pays for the smaller model, too: the tail of a "
        "cascade may be longer than the giant's (1 to 34 % in the plots of the prototype), while the "
        "median is shorter."
    ),
    how=(
        f"`{SMALL}` and the giant on the embedded Triton with thresholds that nobody searched. At one "
        "client all take turns row by row, with the cores kept awake. Under load: the same Poisson "
        "arrivals for both, latency from the time at which a request was due; the load is a share of the "
        "rate that the plan gives the giant alone."
    ),
    run=run,
)
