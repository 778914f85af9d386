"""The verbs about policies: search one, and score one on any rows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cascade_tools.cli.options import BUILD, AsJson, BuildDir, open_workspace
from cascade_tools.cli.output import show_json, show_labels, show_line, show_table, show_warning
from cascade_tools.errors import UsageError

if TYPE_CHECKING:
    from cascade_tools.artifacts import PredictedPolicy, ScoreTable
    from cascade_tools.planning.decide import Decision
    from cascade_tools.planning.evaluate import Question

MaybeFolder = Annotated[
    Path | None, typer.Argument(help="Folder of the cascade; not with --scores.", show_default=False)
]
Scores = Annotated[Path | None, typer.Option("--scores", help="Score table (.npz), instead of a folder.")]
Reference = Annotated[str | None, typer.Option(help="Tier that the drop is measured against; else the last.")]


def register(app: typer.Typer) -> None:
    """Add the verbs of this file."""
    example = "cascade-tools search --scores table.npz --cost tiny=.07,giant=.87 --max-accuracy-drop 0.5"
    app.command(epilog=f"Example: {example}")(search)
    app.command(epilog="Example: cascade-tools evaluate --policy p.json --scores other.npz --json")(evaluate)


def search(
    folder: MaybeFolder = None,
    scores: Scores = None,
    cost: Annotated[str | None, typer.Option(help="Cost of one row: tiny=.07,giant=.87")] = None,
    max_accuracy_drop: Annotated[
        float | None, typer.Option(help="Points below the reference; 0.5 is .005.")
    ] = None,
    max_cost: Annotated[float | None, typer.Option(help="Bound of the mean cost per row.")] = None,
    latency_ms: Annotated[str | None, typer.Option(help="Milliseconds of one row: tiny=.3,giant=9")] = None,
    max_latency: Annotated[
        list[str] | None, typer.Option(help="p50=MS, p95=MS or p99=MS of the routed path; may be repeated.")
    ] = None,
    reference: Reference = None,
    confidence: Annotated[float, typer.Option(help="Of the promise.")] = 0.95,
    guarantee: Annotated[
        bool, typer.Option("--guarantee/--no-guarantee", help="Promise the drop on unseen rows.")
    ] = True,
    labels: Annotated[
        Literal["target", "giant"], typer.Option(help="What is right: the table's target, or the last tier.")
    ] = "target",
    explain: Annotated[bool, typer.Option("--explain", help="Say why.")] = False,
    build_dir: BuildDir = BUILD,
    as_json: AsJson = False,
) -> None:
    """Search the cheapest policy that keeps the accuracy allowance, and promise it."""
    from cascade_tools.planning.explain import stronger_than
    from cascade_tools.stages.score_file import Options, search_file

    if (folder is None) == (scores is None):
        raise UsageError("give either the folder of a cascade or --scores table.npz")
    if folder is not None:
        given = (cost, max_accuracy_drop, max_cost, latency_ms, max_latency, reference)
        if (
            any(value is not None for value in given)
            or not guarantee
            or confidence != 0.95
            or labels != "target"
        ):
            raise UsageError(
                "with a folder, the objective is what cascade.yaml says",
                f"edit `objective` there, or try others with --scores {build_dir}/NAME/scores.npz --cost ...",
            )
        _search_folder(folder, build_dir, explain, as_json)
        return
    assert scores is not None
    if cost is None:
        raise UsageError("--scores needs --cost, the cost of every tier: --cost tiny=.07,giant=.87")
    options = Options(
        cost, max_accuracy_drop, max_cost, latency_ms, tuple(max_latency or ()), reference, confidence
    )
    table, question, decision = search_file(scores, options, guarantee=guarantee, labels=labels)
    warning = stronger_than(table, question.reference)
    if warning and reference is None:
        show_warning(warning)
    _show_decision(table, question, decision, "cost")
    show_labels(labels, table.tiers[-1])
    why = _explain(table, question, decision) if explain else None
    if as_json:
        content = _decision_json(table, question, decision)
        show_json(content | {"labels": labels} | ({"explain": why} if explain else {}))


def evaluate(
    policy: Annotated[Path, typer.Option("--policy", help="Policy table (JSON).", show_default=False)],
    scores: Annotated[Path, typer.Option("--scores", help="Score table (.npz).", show_default=False)],
    cost: Annotated[str | None, typer.Option(help="Cost of one row: tiny=.07,giant=.87")] = None,
    reference: Reference = None,
    as_json: AsJson = False,
) -> None:
    """Score a policy on any rows."""
    from cascade_tools.stages.score_file import evaluate_file

    found = evaluate_file(policy, scores, cost, reference)
    lost = f"{found.accuracy_drop:+.2f} points lost"
    show_line(f"accuracy {found.accuracy:.4f} ({lost})" + (f", cost {found.cost:.5g}" if cost else ""))
    _show_tiers(found)
    if as_json:
        content = found.model_dump(mode="json", exclude={"table"})
        show_json(
            {"policy": found.table.model_dump(mode="json"), **content, "cost": found.cost if cost else None}
        )


def _search_folder(folder: Path, build_dir: Path, explain: bool, as_json: bool) -> None:
    from cascade_tools.artifacts import Profile, RoutingPolicy
    from cascade_tools.planning.evaluate import Evaluator
    from cascade_tools.stages.calibrate import SCORES_FILE
    from cascade_tools.stages.pipeline import run_stage
    from cascade_tools.stages.profile import PROFILE_FILE
    from cascade_tools.stages.progress import stderr_reporter
    from cascade_tools.stages.search import POLICY_FILE, make_question
    from cascade_tools.store import load_score_table

    work = open_workspace(folder, build_dir)
    run_stage("search", work, stderr_reporter())
    made = work.load(POLICY_FILE, RoutingPolicy, "search")
    _show_policies(
        [("cascade", made.chosen), (f"{made.reference.table.tiers[-1]} alone", made.reference)],
        made.search_rows + made.verify_rows,
        made.cost_unit,
    )
    _show_tiers(made.chosen)
    _show_promise(made.certified, made.chosen.accuracy_drop_bound, made.verify_rows, made.confidence)
    show_labels(made.labels, work.cascade.tier_names[-1])
    content = made.model_dump(mode="json")
    if explain:
        table = load_score_table(work.path(SCORES_FILE))
        table = table.where(table.split != "fit")
        question = make_question(work.cascade, work.load(PROFILE_FILE, Profile, "profile"))
        judged = Evaluator(table, question)
        content["explain"] = _explain_policy(table, question, judged(made.chosen.table))
    if as_json:
        show_json(content)


def _show_decision(table: ScoreTable, question: Question, decision: Decision, unit: str) -> None:
    chosen = decision.chosen
    assert chosen is not None
    name = table.tiers[question.reference]
    _show_policies(
        [("cascade", chosen), (f"{name} alone", decision.reference)],
        decision.search_rows + decision.verify_rows,
        unit,
    )
    _show_tiers(chosen)
    _show_promise(decision.certified, decision.bound_points, decision.verify_rows, question.confidence)


def _show_policies(policies: list[tuple[str, PredictedPolicy]], rows: int, unit: str) -> None:
    show_table(
        f"Policy, on {rows:,} rows",
        ["", "accuracy", "points lost", f"cost, {unit}" if unit != "cost" else "cost"],
        [[name, f"{p.accuracy:.4f}", f"{p.accuracy_drop:.2f}", f"{p.cost:.5g}"] for name, p in policies],
    )


def _show_tiers(policy: PredictedPolicy) -> None:
    """One line a tier: what it answers and how well, and where it sends the rest."""
    names = policy.table.tiers
    for tier, route in zip(names, policy.table.routes, strict=True):
        lows = ["0", *(f"{cut:.4f}" for cut in route.cuts)]
        sends = ", ".join(
            f"from {low} to {names[goal]}" for low, goal in zip(lows, route.to, strict=True) if goal >= 0
        )
        answers = (
            f"answers {policy.answers[tier]:.1%} of the rows"
            + (f" from confidence {lows[-1]} up" if route.cuts else "")
            + f", {policy.answer_accuracy[tier]:.2%} right"
            if route.to[-1] < 0
            else "answers nothing"
        )
        show_line(f"  {tier}: {answers}" + (f"; {sends}" if sends else ""))


def _show_promise(certified: bool, bound_points: float | None, verify_rows: int, confidence: float) -> None:
    if certified:
        show_line(
            f"  certified: at most {bound_points:.2f} points lost with {confidence:.0%} confidence, "
            f"on {verify_rows:,} rows that the search never saw"
        )
    else:
        show_line("  not certified: the allowance holds on these rows, nothing is promised for others")


def _decision_json(table: ScoreTable, question: Question, decision: Decision) -> dict[str, Any]:
    from cascade_tools.planning.search import frontier

    chosen = decision.chosen
    assert chosen is not None
    content = chosen.model_dump(mode="json", exclude={"table", "accuracy_drop_bound"})
    return {
        "policy": chosen.table.model_dump(mode="json"),
        **content,
        "reference": table.tiers[question.reference],
        "reference_accuracy": decision.reference.accuracy,
        "reference_cost": decision.reference.cost,
        "certified": decision.certified,
        "bound": decision.bound_points,
        "certifiable_drop": decision.certifiable_drop,
        "rows_needed": decision.rows_needed,
        "confidence": question.confidence,
        "search_rows": decision.search_rows,
        "verify_rows": decision.verify_rows,
        "frontier": [
            {
                "policy": p.table.model_dump(mode="json"),
                "accuracy": p.accuracy,
                "cost": p.cost,
                "latency_p99_ms": p.latency_p99_ms,
            }
            for p in frontier(table.where(table.split != "fit"), question, decision.pool)
        ],
    }


def _explain(table: ScoreTable, question: Question, decision: Decision) -> dict[str, Any] | None:
    assert decision.chosen is not None
    held_out = table.where(table.split != "fit")
    return _explain_policy(held_out, question, decision.chosen)


def _explain_policy(table: ScoreTable, question: Question, chosen: PredictedPolicy) -> dict[str, Any] | None:
    from dataclasses import asdict

    from cascade_tools.planning.explain import explain

    if question.max_accuracy_drop is None:
        show_line("  nothing to explain without --max-accuracy-drop")
        return None
    why = explain(table, chosen.table, question)
    for tier, reason in why.left_out.items():
        show_line(f"  left out: {tier}: {reason}")
    show_line(f"  without a promise, the allowance costs {why.cost:.5g} on these rows")
    show_line(f"  with one more point of allowance: {why.cost_of_one_more_point:.5g}")
    if why.cost_without_skips is not None:
        saved = 1.0 - why.cost / why.cost_without_skips if why.cost_without_skips else 0.0
        show_line(f"  without skips: {why.cost_without_skips:.5g} (skips save {saved:.1%})")
    return asdict(why)
