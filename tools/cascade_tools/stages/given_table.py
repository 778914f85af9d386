"""A profile as a person writes it: one row per tier, device and batch; see docs/profiles.md."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from cascade_tools.artifacts import Figure, ProfilePoint
from cascade_tools.errors import UsageError
from cascade_tools.planning.profile_tables import PointKey, key_of
from cascade_tools.stages.table_cells import Row, read_csv, read_yaml

NEEDED = ("tier", "device", "batch", "time_ms", "utilization", "memory_mib")
OPTIONAL = (
    "format",
    "instances",
    "p99_ms",
    "throughput_rps",
    "energy_j",
    "cpu_ms_per_row",
    "shared_mib",
    "modelled",
)
KEYS = ("source", "idle_watts", "points")
FIGURES: tuple[Figure, ...] = get_args(Figure)
ENERGY = "energy"


@dataclass(frozen=True)
class GivenPoints:
    """What a file holds.

    Attributes:
        source: where the figures come from, in the author's words; empty where he does not say.
        idle_watts: by device type.
    """

    points: tuple[ProfilePoint, ...]
    source: str = ""
    idle_watts: tuple[tuple[str, float], ...] = ()


def read_table(path: Path, tiers: Container[str] | None = None) -> GivenPoints:
    """Read a given table.

    Args:
        path: `.yaml`, `.yml` or `.csv`.
        tiers: the only ones that it may name; None for any.

    Raises:
        UsageError: something is missing, unknown, twice or out of range; names file, line and column.
    """
    if path.suffix == ".csv":
        header, rows = read_csv(path)
        for name in NEEDED:
            if name not in header:
                raise UsageError(
                    f"{path}: no column {name!r}",
                    f"the columns are {', '.join(NEEDED)}, and may be {', '.join(OPTIONAL)}",
                )
        return GivenPoints(_points(rows, tiers))
    sheet = read_yaml(path, KEYS)
    idle = sheet.rows.get("idle_watts")
    source = sheet.single.get("source")
    for stray in sheet.single.values():
        if stray.column != "source":
            raise stray.refusal("must be a mapping of device types to watts")
    for name, row in sheet.rows.items():
        if name != "idle_watts":
            raise UsageError(f"{path}, line {row.line}, column {name!r}: must be a text")
    return GivenPoints(
        _points(sheet.points, tiers),
        "" if source is None else source.text,
        () if idle is None else tuple((name, idle.positive(name)) for name in idle.cells),
    )


def _points(rows: list[Row], tiers: Container[str] | None) -> tuple[ProfilePoint, ...]:
    seen: dict[PointKey, int] = {}
    points = []
    for row in rows:
        unknown = [cell for name, cell in row.cells.items() if name not in (*NEEDED, *OPTIONAL)]
        if unknown:
            raise unknown[0].refusal("unknown column", f"known are {', '.join((*NEEDED, *OPTIONAL))}")
        tier = row.cell("tier")
        if tiers is not None and tier.text not in tiers:
            raise tier.refusal(f"{tier.text!r} is no tier of the cascade")
        point = _point(row)
        key = key_of(point)
        if key in seen:
            raise tier.refusal(f"the same point as in line {seen[key]}: {key}")
        seen[key] = row.line
        points.append(point)
    return tuple(points)


def _point(row: Row) -> ProfilePoint:
    batch, instances = row.count("batch"), row.count("instances", default=1)
    time_ms = row.positive("time_ms")
    modelled = _modelled(row)
    energy_j = row.maybe_amount("energy_j")
    if ENERGY in modelled and energy_j is None:
        raise row.cell("modelled").refusal("names energy, but the point has no 'energy_j'")
    figures = tuple(name for name in FIGURES if name in modelled)
    kind = row.maybe("format")
    # Each instance begins a batch as soon as the last one has ended.
    throughput = row.maybe_positive("throughput_rps") or instances * batch * 1000.0 / time_ms
    return ProfilePoint(
        tier=row.cell("tier").text,
        format="onnx" if kind is None else kind.text,
        device=row.cell("device").text,
        batch=batch,
        instances=instances,
        latency_p50_ms=time_ms,
        latency_p99_ms=_tail(row, time_ms),
        throughput_rps=throughput,
        cpu_ms_per_row=row.maybe_positive("cpu_ms_per_row"),
        memory_mib=row.amount("memory_mib"),
        shared_mib=row.maybe_amount("shared_mib") or 0.0,
        kernel_utilization=row.positive("utilization", most=1.0),
        energy_j=energy_j,
        origin="modelled" if figures == FIGURES else "given",
        modelled=() if figures == FIGURES else figures,
        energy_origin=None if energy_j is None else "modelled" if ENERGY in modelled else "given",
    )


def _tail(row: Row, time_ms: float) -> float | None:
    p99_ms = row.maybe_positive("p99_ms")
    if p99_ms is not None and p99_ms < time_ms:
        raise row.cell("p99_ms").refusal(f"{p99_ms:g} is below the median, time_ms {time_ms:g}")
    return p99_ms


def _modelled(row: Row) -> tuple[str, ...]:
    cell = row.maybe("modelled")
    names = () if cell is None else tuple(cell.text.replace(",", " ").split())
    for name in names:
        if cell is not None and name not in (*FIGURES, ENERGY):
            raise cell.refusal(f"{name!r} is none of {', '.join((*FIGURES, ENERGY))}")
    return names
