"""Where the experiments find the planned digits cascade, and how much effort they may take."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cascade_tools.artifacts import (
    Calibration,
    Exported,
    GearPlan,
    Placement,
    Profile,
    ScoreTable,
)
from cascade_tools.models.source import ExportableSource
from cascade_tools.models.sources import load_source
from cascade_tools.models.usercode import Rows
from cascade_tools.planning.evaluate import Question
from cascade_tools.runtime.head import Scores
from cascade_tools.spec import Cascade, load_cascade
from cascade_tools.stages.calibrate import CALIBRATION_FILE, SCORES_FILE, head_of, run_source
from cascade_tools.stages.export import EXPORTED_FILE
from cascade_tools.stages.gears import GEARS_FILE
from cascade_tools.stages.kept_rows import load_test_rows
from cascade_tools.stages.place import PLACEMENT_FILE
from cascade_tools.stages.profile import PROFILE_FILE
from cascade_tools.stages.search import make_question
from cascade_tools.store import Workspace, load_score_table

CASCADE = Path("ensembles/digits")
SEED = 0

Logits = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Effort:
    """How much is done: rows of a measurement, passes over it, seconds of an open loop or a trace."""

    rows: int
    passes: int
    seconds: float


FULL = Effort(rows=1000, passes=3, seconds=8.0)
QUICK = Effort(rows=150, passes=1, seconds=2.0)


class Setting:
    """What all experiments share; everything is loaded when it is first asked for.

    Args:
        build: folder with the planned digits cascade, `build`.
        effort: how much is done.
    """

    def __init__(self, build: Path, effort: Effort) -> None:
        self.build = build
        self.effort = effort
        self._known: dict[str, dict[str, Logits]] = {}
        self._tested: list[dict[str, Logits]] = []

    @staticmethod
    def say(text: str) -> None:
        """One line of progress."""
        print(text, file=sys.stderr, flush=True)

    @cached_property
    def cascade(self) -> Cascade:
        """The digits."""
        return load_cascade(CASCADE)

    @cached_property
    def work(self) -> Workspace:
        """Its derived files."""
        return Workspace(self.cascade, self.build / self.cascade.name)

    @cached_property
    def calibration(self) -> Calibration:
        """Its heads."""
        return self.work.load(CALIBRATION_FILE, Calibration, "run")

    @cached_property
    def profile(self) -> Profile:
        """What its tiers cost here."""
        return self.work.load(PROFILE_FILE, Profile, "run")

    @cached_property
    def plan(self) -> GearPlan:
        """What its router reads."""
        return self.work.load(GEARS_FILE, GearPlan, "run")

    @cached_property
    def placement(self) -> Placement:
        """Its instances."""
        return self.work.load(PLACEMENT_FILE, Placement, "run")

    @cached_property
    def question(self) -> Question:
        """What its search asks."""
        return make_question(self.cascade, self.profile)

    @cached_property
    def scores(self) -> ScoreTable:
        """What its tiers said of the validation rows."""
        return load_score_table(self.work.path(SCORES_FILE))

    @cached_property
    def sources(self) -> dict[str, ExportableSource]:
        """Its models, by tier."""
        return {tier.name: load_source(self.cascade, tier) for tier in self.cascade.tiers}

    @cached_property
    def test_rows(self) -> Rows:
        """Rows that no head was fitted on and no policy was searched on; in random order."""
        rows = load_test_rows(self.work)
        return rows.take(np.random.default_rng(SEED).permutation(len(rows)))

    def graph(self, tier: str) -> bytes:
        """The exported graph of a tier."""
        exported = self.work.load(EXPORTED_FILE, Exported, "run")
        return self.work.path(exported.tier(tier).file).read_bytes()

    def logits(self, rows: Rows, name: str) -> dict[str, Logits]:
        """What every tier's model gives for rows, [rows, classes]; kept under a name."""
        if name not in self._known:
            self.say(f"  {name}: {len(rows)} rows through {len(self.sources)} models")
            self._known[name] = {
                tier: run_source(source, rows, lambda done, count: None)
                for tier, source in self.sources.items()
            }
        return self._known[name]

    def test_part(self, count: int) -> tuple[Rows, dict[str, Logits]]:
        """The first so many test rows, and what every tier's model gives for them."""
        rows = self.test_rows.take(slice(0, count))
        known = next((made for made in self._tested if len(made[next(iter(made))]) >= len(rows)), None)
        if known is None:
            known = self.logits(rows, f"test rows, {len(rows)} of them")
            self._tested.append(known)
        return rows, {tier: values[: len(rows)] for tier, values in known.items()}

    def heads(self, logits: dict[str, Logits]) -> dict[str, Scores]:
        """Labels and confidences by the fitted heads."""
        return {head.tier: head_of(head)(logits[head.tier]) for head in self.calibration.tiers}

    def table(self, rows: Rows, logits: dict[str, Logits]) -> ScoreTable:
        """Rows with what every tier says of them."""
        scores = self.heads(logits)
        return score_table(rows, scores)


def score_table(rows: Rows, scores: dict[str, Scores]) -> ScoreTable:
    """Labels and confidences of some tiers as a table; all rows are of the split `search`."""
    return ScoreTable(
        tiers=tuple(scores),
        confidence=np.stack([score.confidence for score in scores.values()], axis=1),
        label=np.stack([score.label for score in scores.values()], axis=1),
        target=rows.target,
        group=rows.group,
        split=np.full(len(rows), "search"),
    )


def with_pixels(rows: Rows, pixels: npt.NDArray[Any]) -> Rows:
    """The same rows with other images."""
    return replace(rows, inputs={"PIXELS": pixels.astype(np.float32)})
