"""Experiment 8: the fewest devices over a grid of SLO, accuracy and rate."""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

from benchmarks.paper.check_points import check_on_server
from benchmarks.paper.fewest import Point, fewest_devices, shares_at_least
from benchmarks.paper.finding import Cell, Column, Experiment, Finding, Table
from benchmarks.paper.pictures import draw_devices
from benchmarks.paper.setting import Setting
from benchmarks.paper.ways import (
    LOW,
    PERIODS,
    Served,
    cascades,
    model_switching,
    one_host,
    single_models,
)

SLOS_MS = (30.0, 60.0, 120.0, 240.0)
ALLOWANCES = (0.25, 1.0, 2.5)
RATES_RPS = (250.0, 1000.0, 4000.0)
QUICK = ((60.0,), (1.0,), (250.0, 1000.0))
MOST = 256
CHECKED = 3
RATIOS = (1.0, 1.5, 2.0, 3.0)
OURS, ONE_MODEL, SWITCHING = "cascades", "one model", "model switching"


class Found(NamedTuple):
    """The fewest devices of each system at one point, with the way that needs them."""

    point: Point
    best: dict[str, tuple[int, Served] | None]

    def devices(self, system: str) -> int | None:
        """How many, None where no number does."""
        best = self.best[system]
        return None if best is None else best[0]

    def ratio(self, system: str) -> float | None:
        """Devices of another system to ours."""
        ours, theirs = self.devices(OURS), self.devices(system)
        return None if ours is None or theirs is None else theirs / ours


def run(setting: Setting) -> Finding:
    """The grid by simulation, then three of its points on the server."""
    host = one_host(setting)
    switching = model_switching(setting, host)
    known = {way.label for way in switching}
    systems = {
        # Gears of single models are gears of cascades, too.
        OURS: [*(way for way in cascades(setting, host) if way.label not in known), *switching],
        ONE_MODEL: single_models(setting, host),
        SWITCHING: switching,
    }
    setting.say("  " + ", ".join(f"{len(ways)} of {name}" for name, ways in systems.items()))
    full = setting.effort.passes > 1
    slos, allowances, rates = (SLOS_MS, ALLOWANCES, RATES_RPS) if full else QUICK
    grid = []
    for allowance, slo_ms in product(allowances, slos):
        setting.say(f"  {allowance:g} points, {slo_ms:g} ms")
        for rate in rates:
            point = Point(slo_ms, allowance, rate)
            grid.append(
                Found(point, {name: fewest_devices(ways, point, MOST) for name, ways in systems.items()})
            )
    checked = check_on_server(setting, host, _to_check(grid))
    return Finding(
        said=_said(grid),
        tables=(
            Table("Fewest hosts of two cores", "simulated", *_grid_table(grid, rates)),
            Table(
                "Share of the grid at which others need so many times our hosts", "simulated", *_shares(grid)
            ),
            checked,
        ),
        pictures={"devices": draw_devices(_lines(grid, rates[len(rates) // 2]))},
    )


def _to_check(grid: list[Found]) -> list[tuple[Point, int, list[tuple[str, Served]]]]:
    """Per rate the point at which one model needs the most of our devices: both on as many as ours needs."""
    chosen = []
    for rate in dict.fromkeys(found.point.rate_rps for found in grid):
        here = [found for found in grid if found.point.rate_rps == rate and found.ratio(ONE_MODEL)]
        if not here:
            continue
        best = max(here, key=lambda found: found.ratio(ONE_MODEL) or 0.0)
        ours, alone = best.best[OURS], best.best[ONE_MODEL]
        assert ours is not None and alone is not None
        chosen.append((best.point, ours[0], [(OURS, ours[1]), (ONE_MODEL, alone[1])]))
    return chosen[:CHECKED]


def _said(grid: list[Found]) -> tuple[str, ...]:
    told = []
    for system in (ONE_MODEL, SWITCHING):
        ratios = [ratio for found in grid if (ratio := found.ratio(system)) is not None]
        if ratios:
            middle = sorted(ratios)[len(ratios) // 2]
            twice = shares_at_least(ratios, (2.0,))[0]
            told.append(
                f"{system} needs {min(ratios):.1f} to {max(ratios):.1f} times our hosts (median "
                f"{middle:.1f}, at {twice:.0%} of the points at least twice as many)"
            )
    only = sum(f.devices(OURS) is not None and f.devices(ONE_MODEL) is None for f in grid)
    none = sum(f.devices(OURS) is None for f in grid)
    return (
        f"Of {len(grid)} points, {'; '.join(told)}. At {only} points no number of hosts does with one "
        f"model but with cascades; at {none} not with cascades either.",
    )


def _grid_table(
    grid: list[Found], rates: tuple[float, ...]
) -> tuple[tuple[Column, ...], tuple[tuple[Cell, ...], ...]]:
    systems = (OURS, SWITCHING, ONE_MODEL)
    columns = (
        Column("points below the giant, at most", ".2f"),
        Column("P95 at most, ms", ".0f"),
        *(Column(f"{rate:.0f}/s: {name}", "d") for rate in rates for name in systems),
    )
    cells: dict[tuple[float, float], list[Cell]] = {}
    for found in grid:
        row = cells.setdefault((found.point.allowance, found.point.slo_ms), [])
        row += [found.devices(name) for name in systems]
    return columns, tuple((*key, *row) for key, row in cells.items())


def _shares(grid: list[Found]) -> tuple[tuple[Column, ...], tuple[tuple[Cell, ...], ...]]:
    columns = (Column("who"), *(Column(f"at least {ratio:g}x", ".0%") for ratio in RATIOS))
    rows: list[tuple[Cell, ...]] = []
    for system in (SWITCHING, ONE_MODEL):
        ratios = [ratio for found in grid if (ratio := found.ratio(system)) is not None]
        rows.append((system, *shares_at_least(ratios, RATIOS)))
    return columns, tuple(rows)


def _lines(grid: list[Found], rate: float) -> dict[float, dict[str, list[tuple[float, int | None]]]]:
    """For the picture: by SLO and system, devices over the allowance at one rate."""
    found: dict[float, dict[str, list[tuple[float, int | None]]]] = {}
    for here in grid:
        if here.point.rate_rps == rate:
            panel = found.setdefault(here.point.slo_ms, {})
            for name in (OURS, SWITCHING, ONE_MODEL):
                panel.setdefault(name, []).append((here.point.allowance, here.devices(name)))
    return found


EXPERIMENT = Experiment(
    number=8,
    title="The fewest devices over a grid of SLO, accuracy and rate",
    paper="CascadeServe",
    claim=(
        "Cascades with gears need 2 to 3 times fewer GPUs than the baselines (a static single model, "
        "switching between single models) over most of the plane of latency and accuracy."
    ),
    how=(
        "A device is a host like this machine (two cores, its own server with all tiers), simulated as "
        "the digits are planned on it; each of N hosts gets an equal share of the arrivals, whose rate "
        f"goes up from {LOW:.0%} of its highest and back {PERIODS} times. A point is kept if 95 % of all "
        "requests are answered within the SLO and accuracy on the same rows is at most the allowance "
        "below the giant's. *Cascades*: up to two gears out of the search's frontier and the single "
        "models, or every set of single models. *Model switching*: every set of the four models as gears, "
        "by the same router. *One model*: asked directly, without any router. A gear goes up to 80 % of "
        "what its policy holds. For each the best of its ways counts, so everybody has a perfect planner. "
        "The load generator shares the cores, here as in the simulation."
    ),
    run=run,
)
