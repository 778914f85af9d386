"""The verb about drifted traffic: look for it, and fit the cuts again."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cascade_tools.cli.options import BUILD, AsJson, BuildDir, Folder, TargetName, open_workspace
from cascade_tools.cli.output import show_json, show_line, show_table, show_warning
from cascade_tools.errors import Infeasible

if TYPE_CHECKING:
    from cascade_tools.planning.drift_of_plan import TierDrift
    from cascade_tools.stages.recalibrate import Drift, Proposal


def register(app: typer.Typer) -> None:
    """Add the verb of this file."""
    example = "cascade-tools recalibrate ensembles/digits --shadow shadow.jsonl"
    app.command(epilog=f"Example: {example}")(recalibrate)


def recalibrate(
    folder: Folder,
    shadow: Annotated[
        Path | None,
        typer.Option(help="Shadow log (JSON lines); else shadow.jsonl in the cascade's build folder."),
    ] = None,
    false_alarm_rate: Annotated[
        float, typer.Option(help="Chance that each of the two tests calls a drift where there is none.")
    ] = 0.01,
    smallest_probability: Annotated[
        float | None, typer.Option(help="With which a row may have been sampled; if they differ.")
    ] = None,
    min_rate: Annotated[
        float | None, typer.Option(help="Rows/s that the placed instances must still sustain.")
    ] = None,
    apply: Annotated[bool, typer.Option("--apply", help="Take the new cuts into the plan.")] = False,
    target: TargetName = "embedded",
    build_dir: BuildDir = BUILD,
    as_json: AsJson = False,
) -> None:
    """Test a shadow log for drift and propose new cuts; nothing changes without --apply."""
    from cascade_tools.planning.drift_of_plan import FEWEST_ROWS
    from cascade_tools.stages.pipeline import plan_is_fresh, take_policy
    from cascade_tools.stages.progress import stderr_reporter
    from cascade_tools.stages.recalibrate import RECALIBRATED_FILE, SHADOW_FILE, find_drift, propose

    work, report = open_workspace(folder, build_dir), stderr_reporter()
    if not plan_is_fresh(work):
        show_warning(f"the plan is behind what it was made from; run `{work.command('run')}` first")
    log = shadow or work.path(SHADOW_FILE)
    drift = find_drift(work, log, false_alarm_rate, smallest_probability)
    _show_tests(drift, false_alarm_rate)
    found: dict[str, Any] = {
        "drifted": bool(drift.drifted),
        "false_alarm_rate": false_alarm_rate,
        "tiers": [_tier_json(tier) for tier in drift.tiers],
        "unused_rows": drift.unused_rows,
        "proposal": None,
        "applied": False,
    }
    if drift.drifted:
        try:
            proposal = propose(work, drift, log, false_alarm_rate, min_rate)
        except Infeasible as error:
            error.details |= found
            raise
        _show_proposal(proposal)
        show_line(f"  proposed: {work.path(RECALIBRATED_FILE)}")
        found["proposal"] = _proposal_json(proposal)
        if apply:
            repository = take_policy(work, proposal.policy, target, report)
            found["applied"] = True
            show_line(f"  applied: {repository}")
            show_line("  a repository for another server follows with `cascade-tools build-repo --target`")
        else:
            show_line("  nothing was changed; --apply takes the new cuts into the plan")
    elif any(tier.agreement for tier in drift.tiers):
        show_line("no drift was noticed")
    else:
        show_line(f"nothing could be tested; a tier needs {FEWEST_ROWS} rows that it answered")
    if as_json:
        show_json(found)


def _show_tests(drift: Drift, false_alarm_rate: float) -> None:
    rows = []
    for tier in drift.tiers:
        stable, agree = tier.stability, tier.agreement
        if agree is None:
            why = "too few rows" if tier.comparable else "not tested: the gears differ before it"
            rows.append([tier.tier, f"{tier.rows:,}", why, why, "?"])
            continue
        at = f"yes, at its row {agree.noticed_at:,}" if agree.noticed_at else "no"
        rows.append(
            [
                tier.tier,
                f"{tier.rows:,}",
                "-" if stable is None else f"{stable.index:.3f} (limit {stable.limit:.3f})",
                f"{agree.seen:.2%} (planned {agree.planned:.2%}, tolerated {agree.tolerated:.2%})",
                at if agree.noticed_at or not tier.drifted else "yes, by stability",
            ]
        )
    show_table(
        f"Shadow log against the plan; false alarms at most {false_alarm_rate:.1%} a test",
        ["tier", "rows", "population stability", "differs from the giant", "drifted"],
        rows,
        figures=False,
    )
    if drift.unused_rows:
        show_line(f"  {drift.unused_rows:,} rows of tiers that the plan does not ask were left out")


def _show_proposal(proposal: Proposal) -> None:
    show_table(
        "New cuts",
        ["tier", "answers from", "so far", "of its answers kept", "differs from the giant then"],
        [
            [
                cut.tier,
                f"{cut.cut:.4f}" if cut.kept else "never",
                f"{cut.planned:.4f}",
                f"{cut.kept:.1%}",
                f"{cut.disagreement:.2%} (tolerated {cut.tolerated:.2%})",
            ]
            for cut in proposal.cuts
        ],
    )
    policy = proposal.policy
    show_line(
        f"  on this traffic about {proposal.cost:.5g} {policy.cost_unit} (modelled; the reference alone "
        f"{policy.reference.cost:.5g}); the placed instances sustain {proposal.rate_rps:.0f} rows/s instead "
        f"of {proposal.planned_rate_rps:.0f}"
    )
    if policy.certified:
        show_line(
            f"  certified at {policy.chosen.accuracy_drop_bound:.2f} points on the plan's rows; of the new "
            "traffic nothing is promised: that needs labelled rows of it"
        )


def _tier_json(tier: TierDrift) -> dict[str, Any]:
    return {
        "tier": tier.tier,
        "rows": tier.rows,
        "comparable": tier.comparable,
        "drifted": tier.drifted,
        "stability": None if tier.stability is None else asdict(tier.stability),
        "agreement": None if tier.agreement is None else asdict(tier.agreement),
    }


def _proposal_json(proposal: Proposal) -> dict[str, Any]:
    return {
        "cuts": [asdict(cut) for cut in proposal.cuts],
        "policy": proposal.policy.chosen.table.model_dump(mode="json"),
        "cost": proposal.cost,
        "reference_cost": proposal.policy.reference.cost,
        "rate_rps": proposal.rate_rps,
        "planned_rate_rps": proposal.planned_rate_rps,
        "certified": proposal.policy.certified,
        "bound": proposal.policy.chosen.accuracy_drop_bound if proposal.policy.certified else None,
    }
