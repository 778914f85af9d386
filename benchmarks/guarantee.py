"""Is the promise kept? Fresh tables are searched with it, and the chosen policies scored on the truth.

Two synthetic ladders with known population accuracy. Writes build/benchmarks/guarantee.json.
"""

from __future__ import annotations

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.populations import COST, Population, draw
from cascade_tools.planning.decide import decide
from cascade_tools.planning.evaluate import Question, evaluate

OUT = Path("build/benchmarks/guarantee.json")
CONFIDENCE = 0.95
ROWS = 3_000
TRUTH_ROWS = 100_000
MAX_DROP = {4: 1.0, 6: 1.0}
FIRST_SEED = 1_000

_truth: dict[int, Population] = {}


def one(tiers: int, seed: int) -> dict[str, Any]:
    """One resample: what was promised, what is true, and what the promise costs."""
    if tiers not in _truth:
        _truth[tiers] = draw(TRUTH_ROWS, tiers, seed=0)
    truth, question = _truth[tiers], Question(COST[tiers], MAX_DROP[tiers], confidence=CONFIDENCE)
    table = draw(ROWS, tiers, FIRST_SEED + seed).table
    promised = decide(table, question, guarantee=True)
    hoped = decide(table, question, guarantee=False)
    assert hoped.chosen is not None
    found: dict[str, Any] = {
        "certified": promised.chosen is not None,
        "hoped_cost": evaluate(truth.table, hoped.chosen.table, question).cost,
        "hoped_drop": truth.true_drop(hoped.chosen.table),
    }
    if promised.chosen is not None:
        policy = promised.chosen.table
        found |= {
            "cost": evaluate(truth.table, policy, question).cost,
            "drop": truth.true_drop(policy),
            "skips": any(len(route.cuts) > 1 for route in policy.routes),
        }
    return found


def summary(tiers: int, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Shares and means over the resamples; where nothing was certified no promise was made."""
    made = [run for run in runs if run["certified"]]
    held = [run["drop"] <= MAX_DROP[tiers] for run in made]
    error = float(np.sqrt(CONFIDENCE * (1 - CONFIDENCE) / max(1, len(made))))
    return {
        "tiers": tiers,
        "resamples": len(runs),
        "rows": ROWS,
        "max_accuracy_drop": MAX_DROP[tiers],
        "certified": len(made) / len(runs),
        "kept": float(np.mean(held)),
        "bar": CONFIDENCE - 2 * error,
        "kept_without": float(np.mean([run["hoped_drop"] <= MAX_DROP[tiers] for run in runs])),
        "with_skips": float(np.mean([run["skips"] for run in made])),
        "cost": float(np.mean([run["cost"] for run in made])),
        "cost_without": float(np.mean([run["hoped_cost"] for run in runs])),
        "giant_cost": COST[tiers][-1],
    }


def _told(f: dict[str, Any]) -> str:
    return (
        f"{f['tiers']} tiers, {f['resamples']} tables of {f['rows']:,} rows, at most "
        f"{f['max_accuracy_drop']:g} points at {CONFIDENCE:.0%}: kept {f['kept']:.3f} (bar {f['bar']:.3f}; "
        f"without the guarantee {f['kept_without']:.3f}), certified {f['certified']:.3f}, with skips "
        f"{f['with_skips']:.2f}, cost {f['cost']:.4f} against {f['cost_without']:.4f} without and "
        f"{f['giant_cost']:.4f} of the giant alone"
    )


def main() -> None:
    """Both ladders."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--resamples", type=int, default=1000)
    count = parser.parse_args().resamples
    from cascade_tools.machine.facts import machine

    found = []
    with ProcessPoolExecutor() as pool:
        for tiers in sorted(COST):
            runs = list(pool.map(partial(one, tiers), range(count), chunksize=5))
            found.append(summary(tiers, runs))
            print(_told(found[-1]), flush=True)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps({"machine": machine(), "ladders": found}, indent=1) + "\n")
    print(f"written: {OUT}")


if __name__ == "__main__":
    main()
