"""Watches a served cascade: does it still do what was planned? If its rates do not, its gears can follow."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from cascade_tools.artifacts import GearPlan, PlannedRates
from cascade_tools.errors import CascadeError
from cascade_tools.machine.gpus import gpu_ids
from cascade_tools.planning.watch import Findings, Reading, Watch, Window, window_between
from cascade_tools.repository.render import Target
from cascade_tools.serving.load_page import read_load
from cascade_tools.spec import Histogram, Rates
from cascade_tools.stages.build_repo import build_repo
from cascade_tools.stages.gears import GEARS_FILE
from cascade_tools.stages.pipeline import stage_named
from cascade_tools.stages.planned_load import planned_of
from cascade_tools.stages.progress import Reporter
from cascade_tools.store import Workspace, readable_disk_errors, write_atomically

BINS = 8  # of measured rates, where the plan has none
HEADROOM = 1.1  # a replan's highest rate over the highest that was measured
REPLAN_WINDOWS = 10  # at least, to plan for


class Watcher:
    """Windows and findings of one server.

    Args:
        work: the planned cascade that is served.
        url: of the server's metrics page.
        every_s: length of a window.
        memory_s: see `planning.watch.Watch`, and `false_alarm_rate` likewise.
        target: the server that the repository is for.
        report: told what happens.

    Raises:
        ArtifactError: the plan is not there.
        EnvironmentLacks: the page cannot be read, or is of another server.
    """

    def __init__(
        self,
        work: Workspace,
        url: str,
        every_s: float,
        memory_s: float,
        false_alarm_rate: float,
        target: Target,
        report: Reporter,
    ) -> None:
        self.false_alarm_rate = false_alarm_rate
        self.findings: Findings | None = None
        self.replans = 0
        self._work, self._url, self._target, self._report = work, url, target, report
        self._every_s, self._memory_s = every_s, memory_s
        planned_of(work)  # a missing plan is told before a missing server
        self._first = read(work, url)
        self._begin()

    def _begin(self) -> None:
        shown = tuple(self._first.gpu_utilization)
        planned = planned_of(self._work, shown, gpu_ids() if shown else ())
        self._bins = len(planned.rates.share) or BINS
        self._watch = Watch(planned, self._every_s, self._memory_s, self.false_alarm_rate)

    def run(self, count: int | None) -> Iterator[tuple[Window, Findings]]:
        """As many windows, each with what all so far amount to; None for no end."""
        for window in windows(self._work, self._url, self._first, self._every_s, count, self._report):
            self._watch.add(window)
            self.findings = self._watch.findings()
            yield window, self.findings

    @property
    def may_replan(self) -> bool:
        """The rates have left the plan, and enough was seen to plan for."""
        seen = self.findings is not None and self.findings.rates.left
        return seen and len(self._watch.rates_rps) >= REPLAN_WINDOWS

    @property
    def windows(self) -> int:
        """That were seen since the plan."""
        return len(self._watch.rates_rps)

    @property
    def replan_windows(self) -> int:
        """That have to be seen before a plan is made for them."""
        return REPLAN_WINDOWS

    def measured(self) -> Histogram | None:
        """The rates that were seen, as a distribution to plan for; None without traffic."""
        rates = self._watch.rates_rps
        return measured_rates(rates, self._bins) if len(rates) and rates.max() > 0.0 else None

    def replan(self) -> GearPlan:
        """Plan the gears for what was measured, swap the plan, and begin anew against it.

        Raises:
            Infeasible: the placed instances cannot keep the goal at these rates; the plan stays.
        """
        measured = self.measured()
        assert measured is not None
        plan = replan(self._work, measured, self._target, self._report)
        self.replans += 1
        self._begin()
        return plan


def windows(
    work: Workspace, url: str, first: Reading, every_s: float, count: int | None, report: Reporter
) -> Iterator[Window]:
    """Read the page again and again; a server that is away for a while is waited for.

    Args:
        work: of the served cascade.
        url: of the metrics page.
        first: the reading that the first window begins with.
        every_s: length of a window.
        count: how many windows; None for as many as are taken.
        report: told when the page cannot be read, and when it can again.
    """
    before: Reading | None = first
    due_s, away = first.at_s, False
    for _ in iter(int, 1) if count is None else range(count):
        due_s = max(due_s + every_s, time.monotonic())
        time.sleep(max(0.0, due_s - time.monotonic()))
        try:
            now = read(work, url)
        except CascadeError as error:
            if not away:
                report.say(f"  {error.message}; waiting for it")
            before, away = None, True
            continue
        if away:
            report.say(f"  {url}: is there again")
        window = None if before is None else window_between(before, now)
        before = now if before is None or window is None else now.after(before)
        away = False
        if window is not None:
            yield window


def read(work: Workspace, url: str) -> Reading:
    """What the page shows now.

    Raises:
        CascadeError: it cannot be read, or it is not that of this cascade's server.
    """
    return read_load(
        url, work.cascade.name, {name: work.cascade.model_name(name) for name in work.cascade.tier_names}
    )


def measured_rates(rates_rps: npt.NDArray[np.float64], bins: int) -> Histogram:
    """A distribution to plan for from the rates of windows, at least one of them above 0.

    Equal bins from 0 to the highest rate and a tenth more: a rate that was seen once will come again higher.
    """
    edges = np.linspace(0.0, HEADROOM * float(rates_rps.max()), max(1, bins) + 1)
    count, _ = np.histogram(rates_rps, edges)
    return Histogram(edges_rps=tuple(edges.tolist()), shares=tuple((count / count.sum()).tolist()))


def replan(work: Workspace, measured: Histogram, target: Target, report: Reporter) -> GearPlan:
    """Plan the gears for measured rates and put the plan where the server's router takes it over.

    The plan stays until something that it is made from changes. If any of it fails, all is as it was.

    Raises:
        Infeasible: the placed instances cannot keep the goal at these rates.
    """
    spec = work.cascade.gears.model_copy(update={"rates": Rates(histogram=measured)})
    meant = Workspace(work.cascade.model_copy(update={"gears": spec}), work.build)
    stage = stage_named("gears")
    before = work.path(GEARS_FILE).read_bytes()
    try:
        stage.run(meant, stage.made_from(work), report)
        plan = work.load(GEARS_FILE, GearPlan, "gears")
        rates = PlannedRates(edges_rps=measured.edges_rps, shares=measured.shares, source="measured")
        plan = plan.model_copy(update={"rates": rates})
        with readable_disk_errors(work.build):
            work.save(GEARS_FILE, plan)
        build_repo(work, target, check=False, report=report)
    except BaseException:
        write_atomically(work.path(GEARS_FILE), before)
        raise
    return plan
