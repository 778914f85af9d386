"""The digits drift step by step: when is it noticed, and what does it cost with and without new cuts?

Fresh disturbed copies of the test images are rotated further, or made noisier. At every step a share of the
rows that the base tier answers goes to a shadow log; the plan is the one in build/digits. Accuracy and cost
are those of the rows outside the log. Writes build/benchmarks/drift.json.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from cascade_tools.artifacts import Calibration, PolicyTable, Profile, RoutingPolicy, ScoreTable
from cascade_tools.machine.facts import machine
from cascade_tools.models.sources import load_source
from cascade_tools.models.usercode import Rows, load_rows
from cascade_tools.planning.drift import SampledRows
from cascade_tools.planning.drift_of_plan import TierDrift, compare
from cascade_tools.planning.evaluate import Evaluator, Question, evaluate, follow
from cascade_tools.planning.recalibrate import accept_cut, refit
from cascade_tools.spec import load_cascade
from cascade_tools.stages.calibrate import CALIBRATION_FILE, SCORES_FILE, head_of, run_source
from cascade_tools.stages.profile import PROFILE_FILE
from cascade_tools.stages.progress import stderr_reporter
from cascade_tools.stages.search import POLICY_FILE, make_question
from cascade_tools.store import Workspace, load_score_table

OUT = Path("build/benchmarks/drift.json")
CASCADE = Path("ensembles/digits")
SAMPLED = 0.2
FALSE_ALARM_RATE = 0.01
SEED = 0
DEGREES = (0.0, 5.0, 10.0, 15.0, 20.0, 30.0)
SIGMAS = (0.1, 0.2, 0.3, 0.4)


def rotated(degrees: float) -> Callable[[torch.Tensor], torch.Tensor]:
    """Turns every image [n, 1, 16, 16] by the same angle."""

    def shift(pixels: torch.Tensor) -> torch.Tensor:
        angle = torch.tensor(np.deg2rad(degrees), dtype=torch.float32)
        turn = torch.stack(
            [torch.stack([angle.cos(), -angle.sin()]), torch.stack([angle.sin(), angle.cos()])]
        )
        affine = torch.cat([turn, torch.zeros(2, 1)], dim=1).expand(len(pixels), 2, 3)
        grid = functional.affine_grid(affine, list(pixels.shape), align_corners=False)
        return functional.grid_sample(pixels, grid, align_corners=False)

    return shift


def noisier(sigma: float) -> Callable[[torch.Tensor], torch.Tensor]:
    """Adds normal noise of one standard deviation."""
    generator = torch.Generator().manual_seed(SEED)
    return lambda pixels: pixels + sigma * torch.randn(pixels.shape, generator=generator)


class Plan:
    """The plan of build/digits, and its models."""

    def __init__(self, build: Path) -> None:
        self.cascade = load_cascade(CASCADE)
        work = Workspace(self.cascade, build / self.cascade.name)
        self.policy = work.load(POLICY_FILE, RoutingPolicy, "search")
        self.question: Question = make_question(self.cascade, work.load(PROFILE_FILE, Profile, "profile"))
        self.unseen = load_score_table(work.path(SCORES_FILE)).part("verify")
        self.calibration = work.load(CALIBRATION_FILE, Calibration, "calibrate")
        self.test_rows = load_rows(self.cascade, "test")
        self.sources = {tier.name: load_source(self.cascade, tier) for tier in self.cascade.tiers}

    def table(self, shift: Callable[[torch.Tensor], torch.Tensor], name: str) -> ScoreTable:
        """What every tier says of the shifted test rows."""
        pixels = shift(torch.from_numpy(self.test_rows.inputs["PIXELS"])).numpy()
        rows: Rows = replace(self.test_rows, inputs={"PIXELS": pixels})
        scores = []
        with stderr_reporter().task(f"  {name}: {len(rows)} rows") as advance:
            for number, head in enumerate(self.calibration.tiers):
                logits = run_source(self.sources[head.tier], rows, lambda done, count: None)
                scores.append(head_of(head)(logits))
                advance(number + 1, len(self.calibration.tiers))
        return ScoreTable(
            tiers=self.cascade.tier_names,
            confidence=np.stack([score.confidence for score in scores], axis=1),
            label=np.stack([score.label for score in scores], axis=1),
            target=rows.target,
            group=rows.group,
            split=np.full(len(rows), "verify"),
        )


def shadow_of(
    table: ScoreTable, policy: PolicyTable, share: float, seed: int
) -> tuple[dict[str, SampledRows], np.ndarray[Any, Any]]:
    """A log of a share of the rows that tiers before the last answer, and which rows are in it."""
    rng = np.random.default_rng(seed)
    answered = follow(table, policy).answered
    sampled = rng.random(len(table.target)) < share
    order = rng.permutation(len(table.target))
    logged = {}
    for tier, route in zip(policy.tiers, policy.routes, strict=True):
        if accept_cut(route) is None:
            continue
        own = table.tiers.index(tier)
        mine = order[(answered[:, own] & sampled)[order]]
        logged[tier] = SampledRows(
            time=np.arange(len(mine), dtype=np.float64),
            confidence=table.confidence[mine, own].astype(np.float64),
            agrees=table.label[mine, own] == table.label[mine, -1],
            weight=np.full(len(mine), 1.0 / share),
            gear=np.zeros(len(mine), np.int64),
            largest_weight=1.0 / share,
        )
    return logged, sampled


def step(plan: Plan, shift: str, amount: float, table: ScoreTable) -> dict[str, Any]:
    """One row of the table."""
    policy = plan.policy.chosen.table
    logged, sampled = shadow_of(table, policy, SAMPLED, SEED)
    drifts = compare(plan.unseen, plan.policy, [policy], logged, FALSE_ALARM_RATE)
    drifted = {drift.tier: logged[drift.tier] for drift in drifts if drift.drifted}
    tolerated = {drift.tier: drift.agreement.tolerated for drift in drifts if drift.agreement}
    new, cuts = refit(policy, policy, tolerated, drifted)
    rest = table.where(~sampled)
    before, after = evaluate(rest, policy, plan.question), evaluate(rest, new, plan.question)
    giant = Evaluator(rest, plan.question)
    alone = giant(giant.reference_policy)
    return {
        "shift": shift,
        "amount": amount,
        "logged": sum(len(rows) for rows in logged.values()),
        "tiers": [_tier(drift) for drift in drifts],
        "giant_accuracy": alone.accuracy,
        "giant_cost": alone.cost,
        "planned": {"accuracy": before.accuracy, "cost": before.cost, "drop": before.accuracy_drop},
        "refitted": {"accuracy": after.accuracy, "cost": after.cost, "drop": after.accuracy_drop},
        "cuts": {cut.tier: [cut.planned, cut.cut] for cut in cuts},
    }


def _tier(drift: TierDrift) -> dict[str, Any]:
    stability, agree = drift.stability, drift.agreement
    return {
        "tier": drift.tier,
        "rows": drift.rows,
        "index": None if stability is None else stability.index,
        "limit": None if stability is None else stability.limit,
        "seen": None if agree is None else agree.seen,
        "tolerated": None if agree is None else agree.tolerated,
        "noticed_at": None if agree is None else agree.noticed_at,
        "drifted": drift.drifted,
    }


def _told(f: dict[str, Any]) -> str:
    tests = "; ".join(
        f"{t['tier']} differs {t['seen']:.1%} (tolerated {t['tolerated']:.1%}), stability {t['index']:.2f} "
        f"(limit {t['limit']:.2f})"
        + (f", noticed at row {t['noticed_at']}" if t["noticed_at"] else ", noticed" if t["drifted"] else "")
        for t in f["tiers"]
        if t["seen"] is not None
    )
    told = " | ".join(
        f"{name} {f[key]['accuracy']:.4f} ({f[key]['drop']:+.2f} points lost) at {f[key]['cost']:.3f}"
        for name, key in (("planned cuts", "planned"), ("new cuts", "refitted"))
        if key == "planned" or f["cuts"]
    )
    alone = f"giant {f['giant_accuracy']:.4f} at {f['giant_cost']:.3f}"
    return f"{f['shift']} {f['amount']:g}: {f['logged']} logged; {tests} | {alone} | {told}"


def main() -> None:
    """All steps of both shifts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build-dir", type=Path, default=Path("build"))
    plan = Plan(parser.parse_args().build_dir)
    steps = [("rotation, degrees", degrees, rotated(degrees)) for degrees in DEGREES]
    steps += [("noise, sigma", sigma, noisier(sigma)) for sigma in SIGMAS]
    found = []
    for shift, amount, change in steps:
        found.append(step(plan, shift, amount, plan.table(change, f"{shift} {amount:g}")))
        print(_told(found[-1]), flush=True)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "machine": machine(),
        "sampled": SAMPLED,
        "false_alarm_rate": FALSE_ALARM_RATE,
        "rows": len(plan.test_rows),
        "steps": found,
    }
    OUT.write_text(json.dumps(content, indent=1) + "\n")
    print(f"written: {OUT}")


if __name__ == "__main__":
    main()
