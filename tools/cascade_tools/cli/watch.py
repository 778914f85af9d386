"""The verb that holds a served cascade against its plan."""

from __future__ import annotations

import time
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cascade_tools.cli.options import BUILD, AsJson, BuildDir, Folder, TargetName, open_workspace
from cascade_tools.cli.output import show_json, show_line, show_table, show_warning
from cascade_tools.errors import Infeasible, UsageError

if TYPE_CHECKING:
    from cascade_tools.planning.watch import Findings, Window
    from cascade_tools.stages.watch import Watcher

METRICS_URL = "http://127.0.0.1:8002/metrics"
ONCE_WINDOWS = 10
CLOCK = "%H:%M:%S"

Called = dict[str, datetime]
"""Alarms, in order, and when each was raised first."""


def register(app: typer.Typer) -> None:
    """Add the verb of this file."""
    app.command(epilog="Example: cascade-tools watch ensembles/digits --once")(watch)


def watch(
    folder: Folder,
    url: Annotated[
        str,
        typer.Option(
            "--url", "--metrics-url", help="Triton's metrics page, or its host:port; else that of `serve`."
        ),
    ] = METRICS_URL,
    every: Annotated[float, typer.Option(help="Length of a window in seconds.", min=0.2)] = 1.0,
    for_s: Annotated[
        float | None, typer.Option("--for", help="Seconds to watch; else until Ctrl-C.", min=1.0)
    ] = None,
    once: Annotated[bool, typer.Option("--once", help=f"Watch for {ONCE_WINDOWS} windows.")] = False,
    memory: Annotated[
        float, typer.Option(help="Rates nearer in time than these seconds count as one.", min=0.0)
    ] = 60.0,
    false_alarm_rate: Annotated[
        float, typer.Option(help="Chance of ever calling that rates have left a plan that they keep.")
    ] = 0.01,
    apply: Annotated[bool, typer.Option("--apply", help="Plan the gears anew and swap the plan.")] = False,
    target: TargetName = "embedded",
    build_dir: BuildDir = BUILD,
    as_json: AsJson = False,
) -> None:
    """Hold a served cascade's rates, times and utilization against the plan; 1 after an alarm."""
    from cascade_tools.serving.metrics_page import page_address
    from cascade_tools.stages.pipeline import plan_is_fresh
    from cascade_tools.stages.progress import stderr_reporter
    from cascade_tools.stages.watch import Watcher

    if once and for_s is not None:
        raise UsageError("--once, --for: give one of them")
    if not 0.0 < false_alarm_rate < 0.5:
        raise UsageError(f"--false-alarm-rate {false_alarm_rate:g}: must be above 0 and below 0.5")
    url = page_address(url)
    work, report = open_workspace(folder, build_dir), stderr_reporter()
    if not plan_is_fresh(work):
        show_warning(f"the plan is behind what it was made from; run `{work.command('run')}` first")
    watcher = Watcher(work, url, every, memory, false_alarm_rate, target, report)
    count = ONCE_WINDOWS if once else None if for_s is None else max(1, round(for_s / every))
    called: Called = {}
    try:
        _watch_on(watcher, count, apply, called)
    except KeyboardInterrupt:
        report.say("  stopped")
    except Infeasible as error:
        error.details |= _finish(watcher, called, apply)
        raise
    found = _finish(watcher, called, apply)
    if as_json:
        show_json(found)
    raise typer.Exit(1 if called else 0)


def _watch_on(watcher: Watcher, count: int | None, apply: bool, called: Called) -> None:
    """Show windows and alarms as they come; every alarm joins `called`."""
    told: set[str] = set()  # of the plan that serves now
    for window, findings in watcher.run(count):
        _show_window(window, findings)
        for alarm in findings.alarms:
            called.setdefault(alarm, datetime.now().astimezone())
            if alarm not in told:
                told.add(alarm)
                show_line(f"{time.strftime(CLOCK)}  ALARM {_words(alarm, findings)}")
        if apply and watcher.may_replan:
            _show_replan(watcher)
            told.clear()


def _show_window(window: Window, findings: Findings) -> None:
    gear = "-" if window.gear is None else "of a fallback" if window.gear < 0 else str(window.gear)
    devices = "".join(
        f"  {found.device}: {found.asked if found.shown is None else found.shown:.2f}"
        f" (plan {found.planned:.2f})"
        for found in findings.devices
    )
    show_line(f"{time.strftime(CLOCK)}  {window.rate_rps:10,.1f} rows/s  gear {gear}{devices}")


def _words(alarm: str, findings: Findings) -> str:
    kind, _, name = alarm.partition(":")
    rates = findings.rates
    if kind == "rates":
        if rates.exceeded:
            return (
                f"rates: up to {rates.largest_rps:,.1f} rows/s, planned for at most "
                f"{rates.planned_max_rps:,.1f}"
            )
        return "rates: they lie otherwise than the plan's shares"
    if kind == "compute":
        tier = next(found for found in findings.tiers if found.tier == name)
        return (
            f"compute: tier {name} takes {tier.compute_ms:.3g} ms for {tier.batch:.1f} rows, planned "
            f"{tier.planned_ms:.3g}"
        )
    device = next(found for found in findings.devices if found.device == name)
    seen = max(device.asked, device.shown or 0.0)
    return f"utilization: {name} {seen:.2f}, planned {device.planned:.2f}: models thrash, or others run there"


def _show_replan(watcher: Watcher) -> None:
    plan = watcher.replan()
    limits = ["any" if gear.up_to_rps is None else f"{gear.up_to_rps:,.0f}" for gear in plan.gears]
    show_line(f"applied: {len(limits)} gear(s), up to {', '.join(limits)} rows/s; the router takes them over")


def _finish(watcher: Watcher, called: Called, apply: bool) -> dict[str, Any]:
    findings = watcher.findings
    found: dict[str, Any] = {
        "alarms": list(called),
        "alarm_times": {alarm: at.isoformat(timespec="seconds") for alarm, at in called.items()},
        "false_alarm_rate": watcher.false_alarm_rate,
        "rates": None,
        "tiers": [],
        "devices": [],
        "measured": None,
        "applied": watcher.replans > 0,
        "why_not_applied": _why_not_applied(watcher, called, apply),
    }
    if findings is None:
        show_line("nothing was seen")
        return found
    _show_findings(findings)
    measured = watcher.measured()
    found |= {
        "rates": {**asdict(findings.rates), "left": findings.rates.left},
        "tiers": [asdict(tier) for tier in findings.tiers],
        "devices": [asdict(device) for device in findings.devices],
        "measured": None if measured is None else measured.model_dump(mode="json"),
    }
    for line in _last_words(watcher, findings, called, apply):
        show_line(line)
    return found


def _why_not_applied(watcher: Watcher, called: Called, apply: bool) -> str | None:
    """Why the gears were not planned anew; None where they were."""
    if watcher.replans:
        return None
    if not called:
        return "no alarm"
    if "rates" not in called:
        return "the rates are as planned, and other gears do not mend the rest: place or profile again"
    if not apply:
        return "--apply was not given"
    if watcher.windows < watcher.replan_windows:
        return f"{watcher.windows} windows are too few to plan for, at least {watcher.replan_windows} are"
    return "the rates are as planned again, or could not be planned for"


def _last_words(watcher: Watcher, findings: Findings, called: Called, apply: bool) -> list[str]:
    """What the tables do not say."""
    lines = [
        f"{alarm} was raised at {at.strftime(CLOCK)}; the tables above are of the last windows, without it"
        for alarm, at in called.items()
        if alarm not in findings.alarms and not watcher.replans
    ]
    if findings.rates.largest_rps == 0.0:
        lines.append("nothing arrived, so nothing is known of rates, times and utilization under load")
    elif not called:
        lines.append("all is as planned")
    measured = watcher.measured()
    if "rates" in called and not watcher.replans and measured is not None:
        lines.append(
            f"the gears could be planned for what was measured, up to {measured.edges_rps[-1]:,.0f} rows/s"
        )
    if called and not watcher.replans:
        lines.append(f"not applied: {_why_not_applied(watcher, called, apply)}")
    return lines


def _show_findings(findings: Findings) -> None:
    rates = findings.rates
    evidence = [f"{rates.above:.3g}", "-" if rates.off is None else f"{rates.off:.3g}"]
    show_table(
        f"Rates over {rates.windows} windows (evidence of {rates.alarm_at:g} is an alarm)",
        ["", "rows/s", "planned at most", "evidence: above it", "evidence: other shares"],
        [
            ["mean", f"{rates.mean_rps:,.1f}", "", "", ""],
            ["highest", f"{rates.largest_rps:,.1f}", f"{rates.planned_max_rps:,.1f}", *evidence],
        ],
    )
    show_table(
        "Compute time of an execution",
        ["tier", "rows", "ms", "planned ms", "times the plan"],
        [
            [
                tier.tier,
                f"{tier.batch:.1f}",
                f"{tier.compute_ms:.3f}",
                f"{tier.planned_ms:.3f}",
                f"{tier.compute_ms / tier.planned_ms:.2f}",
            ]
            for tier in findings.tiers
        ],
    )
    show_table(
        "Utilization",
        ["device", "asked for", "shown by the GPU", "planned"],
        [
            [
                device.device,
                f"{device.asked:.2f}",
                "-" if device.shown is None else f"{device.shown:.2f}",
                f"{device.planned:.2f}",
            ]
            for device in findings.devices
        ],
    )
