"""Is the promise kept? Fresh tables are searched with it, and the chosen policies scored on the truth.

Two synthetic ladders with known population accuracy; and the digits, whose base images are drawn with
replacement from the held-out rows of build/digits, which then are the whole population. Writes
build/benchmarks/guarantee.json.
"""

from __future__ import annotations

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from benchmarks.populations import COST, draw
from cascade_tools.artifacts import PolicyTable, Profile, ScoreTable
from cascade_tools.planning.decide import decide
from cascade_tools.planning.evaluate import Question, evaluate
from cascade_tools.spec import load_cascade
from cascade_tools.stages.calibrate import SCORES_FILE
from cascade_tools.stages.profile import PROFILE_FILE
from cascade_tools.stages.search import make_question
from cascade_tools.store import Workspace, load_score_table

OUT = Path("build/benchmarks/guarantee.json")
CONFIDENCE = 0.95
ROWS = 3_000
TRUTH_ROWS = 100_000
MAX_DROP = 1.0
FIRST_SEED = 1_000
EVERY_HOPED = 10  # tables between two that are also searched without a promise, for comparison
CASCADE = Path("ensembles/digits")


class Ladder(Protocol):
    """Where tables come from, and what is true of a policy."""

    name: str
    question: Question

    def draw(self, seed: int) -> ScoreTable:
        """A fresh table."""

    def truth(self, policy: PolicyTable) -> tuple[float, float]:
        """Points lost and cost in the population."""


class Synthetic:
    """Rows with known chances of being right."""

    def __init__(self, tiers: int) -> None:
        self.name = f"{tiers} tiers"
        self.question = Question(COST[tiers], MAX_DROP, confidence=CONFIDENCE)
        self._tiers = tiers
        self._population = draw(TRUTH_ROWS, tiers, seed=0)

    def draw(self, seed: int) -> ScoreTable:
        """See `Ladder`."""
        return draw(ROWS, self._tiers, FIRST_SEED + seed).table

    def truth(self, policy: PolicyTable) -> tuple[float, float]:
        """See `Ladder`."""
        cost = evaluate(self._population.table, policy, self.question).cost
        return self._population.true_drop(policy), cost


class Digits:
    """The demo's held-out rows; an image comes with all its disturbed copies."""

    name = "digits"

    def __init__(self, build: Path) -> None:
        cascade = load_cascade(CASCADE)
        work = Workspace(cascade, build / cascade.name)
        asked = make_question(cascade, work.load(PROFILE_FILE, Profile, "profile"))
        self.question = Question(asked.cost, MAX_DROP, confidence=CONFIDENCE)
        table = load_score_table(work.path(SCORES_FILE))
        self._population = table.where(table.split != "fit")
        order = np.argsort(self._population.group, kind="stable")
        _, first = np.unique(self._population.group[order], return_index=True)
        self._members = np.split(order, first[1:])

    def draw(self, seed: int) -> ScoreTable:
        """See `Ladder`."""
        images = np.random.default_rng(FIRST_SEED + seed).integers(
            len(self._members), size=len(self._members)
        )
        rows = np.concatenate([self._members[image] for image in images])
        group = np.repeat(np.arange(len(images)), [len(self._members[image]) for image in images])
        p = self._population
        return ScoreTable(
            tiers=p.tiers,
            confidence=p.confidence[rows],
            label=p.label[rows],
            target=p.target[rows],
            group=group,
            split=np.full(len(rows), "search"),
        )

    def truth(self, policy: PolicyTable) -> tuple[float, float]:
        """See `Ladder`."""
        found = evaluate(self._population, policy, self.question)
        return found.accuracy_drop, found.cost


def make_ladder(name: str, build: Path) -> Ladder:
    """`4`, `6` or `digits`."""
    return Digits(build) if name == "digits" else Synthetic(int(name))


_ladders: dict[str, Ladder] = {}  # one per process and name: the truth is large


def one(name: str, build: Path, seed: int) -> dict[str, Any]:
    """One resample: what was promised, what is true, and what the promise costs."""
    if name not in _ladders:
        _ladders[name] = make_ladder(name, build)
    ladder = _ladders[name]
    table = ladder.draw(seed)
    promised = decide(table, ladder.question, guarantee=True)
    found: dict[str, Any] = {"certified": promised.chosen is not None, "rows": len(table.target)}
    if seed % EVERY_HOPED == 0:
        hoped = decide(table, ladder.question, guarantee=False)
        assert hoped.chosen is not None
        drop, cost = ladder.truth(hoped.chosen.table)
        found |= {"hoped_cost": cost, "hoped_drop": drop}
    if promised.chosen is not None:
        policy = promised.chosen.table
        drop, cost = ladder.truth(policy)
        skips = any(len(route.cuts) > 1 for route in policy.routes)
        found |= {"cost": cost, "drop": drop, "skips": skips}
    return found


def summary(ladder: Ladder, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Shares and means over the resamples; where nothing was certified no promise was made."""
    made = [run for run in runs if run["certified"]]
    hoped = [run for run in runs if "hoped_drop" in run]
    held = [run["drop"] <= MAX_DROP for run in made]
    error = float(np.sqrt(CONFIDENCE * (1 - CONFIDENCE) / max(1, len(made))))
    return {
        "ladder": ladder.name,
        "resamples": len(runs),
        "rows": float(np.mean([run["rows"] for run in runs])),
        "max_accuracy_drop": MAX_DROP,
        "certified": len(made) / len(runs),
        "kept": float(np.mean(held)),
        "bar": CONFIDENCE - 2 * error,
        "kept_without": float(np.mean([run["hoped_drop"] <= MAX_DROP for run in hoped])),
        "with_skips": float(np.mean([run["skips"] for run in made])),
        "cost": float(np.mean([run["cost"] for run in made])),
        "cost_without": float(np.mean([run["hoped_cost"] for run in hoped])),
        "giant_cost": ladder.question.cost[-1],
    }


def _told(f: dict[str, Any]) -> str:
    return (
        f"{f['ladder']}: {f['resamples']} tables of {f['rows']:,.0f} rows, at most "
        f"{f['max_accuracy_drop']:g} points at {CONFIDENCE:.0%}: kept {f['kept']:.3f} (bar {f['bar']:.3f}; "
        f"without the guarantee {f['kept_without']:.3f}), certified {f['certified']:.3f}, with skips "
        f"{f['with_skips']:.2f}, cost {f['cost']:.4f} against {f['cost_without']:.4f} without and "
        f"{f['giant_cost']:.4f} of the giant alone"
    )


def main() -> None:
    """All ladders."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--ladders", nargs="+", default=["4", "6", "digits"])
    parser.add_argument("--build-dir", type=Path, default=Path("build"))
    options = parser.parse_args()
    from cascade_tools.machine.facts import machine

    found = []
    with ProcessPoolExecutor() as pool:
        for name in options.ladders:
            work = partial(one, name, options.build_dir)
            runs = list(pool.map(work, range(options.resamples), chunksize=5))
            found.append(summary(make_ladder(name, options.build_dir), runs))
            print(_told(found[-1]), flush=True)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps({"machine": machine(), "ladders": found}, indent=1) + "\n")
    print(f"written: {OUT}")


if __name__ == "__main__":
    main()
