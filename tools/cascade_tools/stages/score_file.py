"""Search and evaluate on a score table alone, without a cascade's folder."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from cascade_tools.artifacts import Labels, PolicyTable, PredictedPolicy, ScoreTable
from cascade_tools.errors import ArtifactError, UsageError
from cascade_tools.planning.decide import Decision, decide
from cascade_tools.planning.evaluate import Question, evaluate
from cascade_tools.spec import describe
from cascade_tools.stages.search import not_certified
from cascade_tools.store import load_score_table

QUANTILES = ("p50", "p95", "p99")


@dataclass(frozen=True)
class Options:
    """What the command line says; see `Question` for the meaning."""

    cost: str
    max_accuracy_drop: float | None
    max_cost: float | None = None
    latency: str | None = None
    max_latency: tuple[str, ...] = field(default=())
    reference: str | None = None
    confidence: float = 0.95


def question_of(table: ScoreTable, options: Options) -> Question:
    """The question in the table's order of tiers.

    Raises:
        UsageError: names the option that does not fit.
    """
    drop = options.max_accuracy_drop
    if drop is not None and not -100.0 <= drop <= 100.0:
        raise UsageError(f"--max-accuracy-drop {drop:g}: points between -100 and 100; 0.5 is .005")
    if drop is None and options.max_cost is None and not options.max_latency:
        raise UsageError("give a bound: --max-accuracy-drop, --max-cost, --max-latency or several")
    if options.max_cost is not None and not options.max_cost > 0.0:
        raise UsageError(f"--max-cost {options.max_cost:g}: must be above 0")
    if not 0.5 < options.confidence < 1.0:
        raise UsageError(f"--confidence {options.confidence:g}: must be above 0.5 and below 1")
    reference = options.reference or table.tiers[-1]
    if reference not in table.tiers:
        raise UsageError(f"--reference {reference}: the table has the tiers {', '.join(table.tiers)}")
    bounds = dict(_bound(text) for text in options.max_latency)
    if bounds and options.latency is None:
        raise UsageError("--max-latency needs --latency-ms, the milliseconds of every tier")
    return Question(
        cost=_per_tier("--cost", options.cost, table.tiers),
        max_accuracy_drop=drop,
        reference=table.tiers.index(reference),
        # With a bound of latency alone, the most accurate policy at any cost.
        max_cost=math.inf if drop is None and options.max_cost is None else options.max_cost,
        latency_ms=_per_tier("--latency-ms", options.latency, table.tiers) if options.latency else None,
        max_latency_ms=bounds,
        confidence=options.confidence,
    )


def search_file(
    path: Path, options: Options, *, guarantee: bool, labels: Labels = "target"
) -> tuple[ScoreTable, Question, Decision]:
    """Decide on a policy from a file.

    Args:
        path: the score table.
        options: of the search.
        guarantee: promise the drop on rows that the search does not see.
        labels: `giant` takes the last tier's answers for the truth; the file then needs no target.

    Raises:
        UsageError: the file or an option does not fit.
        Infeasible: no policy keeps all bounds, or none can be certified.
    """
    table = load_score_table(path, labels=labels)
    if set(table.split.tolist()) == {"fit"}:
        raise ArtifactError(
            f"{path}: split: all rows are `fit`; policies need rows that no head was fitted on"
        )
    question = question_of(table, options)
    decision = decide(table, question, guarantee=guarantee)
    if decision.chosen is None:
        raise not_certified(decision, question, "give --no-guarantee")
    return table, question, decision


def evaluate_file(policy: Path, scores: Path, cost: str | None, reference: str | None) -> PredictedPolicy:
    """Score a policy on all rows of a file.

    Raises:
        UsageError: the files do not fit together.
    """
    table = load_score_table(scores)
    options = Options(cost or ",".join(f"{tier}=0" for tier in table.tiers), 100.0, reference=reference)
    question = question_of(table, options)
    chosen = load_policy(policy)
    unknown = [tier for tier in chosen.tiers if tier not in table.tiers]
    if unknown:
        raise UsageError(
            f"{policy}: tiers: {unknown[0]!r} is not in {scores}, which has {', '.join(table.tiers)}"
        )
    return evaluate(table, chosen, question)


def load_policy(path: Path) -> PolicyTable:
    """A policy table; also from what `search --json` printed or from `policy.json`.

    Raises:
        ArtifactError: missing or not a policy; names the field.
    """
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtifactError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path}: not JSON: {error}") from None
    for outer in ("policy", "chosen", "table"):
        if isinstance(content, dict) and "routes" not in content and outer in content:
            content = content[outer]
    try:
        return PolicyTable.model_validate(content)
    except ValidationError as error:
        raise ArtifactError(f"{path}: not a routing policy: {describe(error)}") from None


def _per_tier(option: str, text: str, tiers: tuple[str, ...]) -> tuple[float, ...]:
    values: dict[str, float] = {}
    for part in text.split(","):
        name, equals, number = part.partition("=")
        try:
            value = float(number) if equals else float("nan")
        except ValueError:
            value = float("nan")
        if not 0.0 <= value < float("inf"):
            raise UsageError(f"{option}: {part!r} must be TIER=NUMBER, a number of at least 0")
        if name.strip() in values:
            raise UsageError(f"{option}: {name.strip()!r} is given twice")
        values[name.strip()] = value
    unknown, missing = sorted(set(values) - set(tiers)), [tier for tier in tiers if tier not in values]
    if unknown:
        raise UsageError(f"{option}: {unknown[0]!r} is not in the table, which has {', '.join(tiers)}")
    if missing:
        raise UsageError(f"{option}: nothing for tier {missing[0]!r}")
    return tuple(values[tier] for tier in tiers)


def _bound(text: str) -> tuple[str, float]:
    name, _, number = text.partition("=")
    try:
        value = float(number)
    except ValueError:
        value = float("nan")
    if name not in QUANTILES or not value > 0.0:
        raise UsageError(f"--max-latency {text}: must be p50=MS, p95=MS or p99=MS")
    return name, value
