"""A placement on one screen: what is gained, at which rate, on which devices, and what if one is lost."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence

from cascade_tools.artifacts import Lost, PlacedDevice, PlacedInstances, Placement
from cascade_tools.cli.placement_beside import baseline_lines, figure_of, gain_of, rate_of

WIDTH = 100
LABEL = 40
HOST = "host of "
MOST_GROUP_LINES = 15
MOST_LOSS_LINES = 12
MIB_PER_GIB = 1024
BINDS = 1.0 - 1e-6


def placement_screen(made: Placement, seconds: float | None = None) -> list[str]:
    """Lines of at most `WIDTH` characters; equal devices are one line.

    Args:
        made: the placement.
        seconds: that the search took.
    """
    parts = [
        [*_headline(made, seconds), *_router(made)],
        baseline_lines(made),
        _energy(made),
        _groups(made),
        _losses(made),
    ]
    return [line for part in parts if part for line in (*part, "")][:-1]


def _headline(made: Placement, seconds: float | None) -> list[str]:
    where = Counter(device.type for device in made.devices)
    devices = ", ".join(f"{count} {kind}" for kind, count in where.items())
    hosts = len({device.host for device in made.devices})
    found = f"{made.status} by {made.method}" + ("" if seconds is None else f" in {seconds:.1f} s")
    name = f"{made.cascade}: " if made.cascade else ""
    first = [
        f"{name}{rate_of(made.rate_rps)} rows/s sustainable{gain_of(made)}; at most {rate_of(made.bound_rps)}"
    ]
    if made.minimise is not None:
        unit = "devices in use" if made.minimise == "gpus" else "W, idle and dynamic,"
        could = (
            ""
            if made.could_rps is None
            else f"; these instances could carry {rate_of(made.could_rps)} rows/s"
        )
        first = _wrapped(
            f"{name}{figure_of(made.value)} {unit} for {rate_of(made.rate_rps)} rows/s{gain_of(made)}; "
            f"at least {figure_of(made.bound)}{could}",
            "  ",
        )
    hosted = "" if hosts == 1 else f" in {hosts} hosts"
    text = (
        f"  {devices}{hosted}; predicted from {made.figures} figures; rule {made.rule}; "
        f"{found}, gap {made.gap:.2%}"
    )
    return [*first, *_wrapped(text, "  ")]


def _router(made: Placement) -> list[str]:
    """What the router's processes take, where that binds; and what is not counted."""
    lines = []
    if made.router_rps is not None and made.rate_rps >= made.router_rps * BINDS:
        lines = _wrapped(
            f"  The router binds: its processes take at most {rate_of(made.router_rps)} rows/s, whatever the "
            "devices do; raise `serving.router_instances` where the host has cores for it",
            "    ",
        )
    return [*lines, *(line for note in made.notes for line in _wrapped(f"  Note: {note}", "    "))]


def _energy(made: Placement) -> list[str]:
    if made.energy_j is None or not made.giant_energy_j:
        return []
    giant = list(made.batch)[-1]
    text = (
        f"  Energy: {made.energy_j:.3g} J per row, {giant} alone {made.giant_energy_j:.3g} J: "
        f"{made.giant_energy_j / made.energy_j:.2f}x less (dynamic, {made.energy_figures}"
    )
    if made.energy_batches:
        others = sorted(set(made.energy_batches.values()))
        text += f"; known at batch {', '.join(map(str, others))} only"
    return _wrapped(text + ")", "    ")


def _groups(made: Placement) -> list[str]:
    """Equal devices with equal instances as one line."""
    held: dict[int, list[PlacedInstances]] = {}
    for placed in made.instances:
        held.setdefault(placed.device, []).append(placed)
    groups: dict[tuple[str, str], list[int]] = {}
    for number, device in enumerate(made.devices):
        groups.setdefault((device.type, _instances(held.get(number, []))), []).append(number)
    batches = ", ".join(f"{tier} {batch}" for tier, batch in made.batch.items())
    lines = ["  Devices: instances (planned batch: " + batches + ")"]
    lines = _wrapped(lines[0], "    ")
    width = max(len(_label(made, numbers)) for numbers in groups.values())
    blocks = []
    for (_, held_here), numbers in groups.items():
        devices = [made.devices[number] for number in numbers]
        text = f"    {_label(made, numbers):{width}}  {_load(devices)}  {held_here or 'nothing'}"
        blocks.append(_wrapped(text, " " * (width + 6)))
    return lines + _first(blocks, MOST_GROUP_LINES, "kinds of devices")


def _first(blocks: Sequence[list[str]], most: int, what: str) -> list[str]:
    """As many whole blocks as fit, and how many more there are."""
    lines: list[str] = []
    for number, block in enumerate(blocks):
        left = len(blocks) - number
        if len(lines) + len(block) + (left > 1) > most:
            return [*lines, f"    and {left} more {what}; --json has all"]
        lines += block
    return lines


def _instances(placed: Iterable[PlacedInstances]) -> str:
    parts: dict[tuple[str, int, int | None, int], list[int]] = {}
    for one in placed:
        parts.setdefault((one.tier, one.stages, one.batch, one.count), []).append(one.stage)
    return ", ".join(
        f"{count} {tier}" + (f" s{_ranges(stages)}of{total}" if total > 1 else "")
        for (tier, total, _, count), stages in parts.items()
    )


def _load(devices: Sequence[PlacedDevice]) -> str:
    busy = [device.busy_share for device in devices]
    low, high = f"{100 * min(busy):.0f}", f"{100 * max(busy):.0f}"
    used = max(device.used_memory_mib for device in devices) / MIB_PER_GIB
    whole = devices[0].memory_mib / MIB_PER_GIB
    return f"busy {high if low == high else f'{low}-{high}':>6} %  {used:5.1f} of {whole:.1f} GiB"


def _losses(made: Placement) -> list[str]:
    used = {placed.device for placed in made.instances}
    hosts = {made.devices[number].host for number in used}
    shown = [lost for lost in made.losses if lost.which[0] in (used if lost.what == "device" else hosts)]
    if len({device.host for device in made.devices}) == 1:
        shown = [lost for lost in shown if lost.what == "device"]
    if not shown or len(made.devices) == 1:
        return []
    lines = ["  One of them lost, the others as they are: rows/s left (share of the plan's)"]
    same: dict[tuple[str, str], list[int]] = {}
    for lost in shown:
        same.setdefault((_lost_kind(made, lost), _left(made, lost)), []).extend(lost.which)
    labels = [_lost_label(kind, sorted(which)) for (kind, _), which in same.items()]
    width = max(map(len, labels))
    blocks = [
        _wrapped(f"    {label:{width}}  {left}", " " * (width + 6))
        for label, (_, left) in zip(labels, same, strict=True)
    ]
    alone = [lost for lost in shown if lost.what == "host" and lost.homeless and lost.rate_rps]
    if made.closure == "pool" and alone:
        blocks.append(["    `closure: host` keeps every tier in each host in use"])
    return lines + _first(blocks, MOST_LOSS_LINES, "of them")


def _lost_kind(made: Placement, lost: Lost) -> str:
    """The type of a device; of a host all that is in it."""
    if lost.what == "device":
        return made.devices[lost.which[0]].type
    inside = Counter(device.type for device in made.devices if device.host == lost.which[0])
    return HOST + ", ".join(f"{count} {kind}" for kind, count in inside.items())


def _lost_label(kind: str, numbers: Sequence[int]) -> str:
    """`gpu-24gb 0-5`, or `host 0-1 (4 gpu-24gb)`."""
    if not kind.startswith(HOST):
        return _numbered(kind, numbers)
    return f"{_numbered('host', numbers)} ({kind.removeprefix(HOST)})"


def _left(made: Placement, lost: Lost) -> str:
    if lost.rate_rps is None:
        return f"{'-':>10}  {_why_nothing(made, lost)}"
    share = lost.rate_rps / made.rate_rps if made.rate_rps > 0.0 else 0.0
    text = f"{rate_of(lost.rate_rps):>10}  ({share:.0%})"
    if made.minimise is not None:
        text += f", busiest device {100 * (lost.busiest_share or 0.0):.0f} %"
    if lost.homeless:
        text += f", without {', '.join(lost.homeless)}: {_who_answers(made, lost)}"
    return text


def _why_nothing(made: Placement, lost: Lost) -> str:
    if set(made.batch) <= set(lost.homeless):
        return "nothing is left that could answer"
    return "the router runs there" if lost.router_gone else "rows reach none of the tiers that are left"


def _who_answers(made: Placement, lost: Lost) -> str:
    """What becomes of the rows of tiers without a home; those of the largest have no larger one."""
    if lost.by_routes:
        return "other routes serve (the gear plan has them)"
    if not any(one.busy_instances > 0.0 for one in made.instances if one.tier in lost.homeless):
        return "no rows reach it" if len(lost.homeless) == 1 else "no rows reach them"
    sizes = list(made.batch)
    there = [tier for tier in sizes if tier not in lost.homeless]
    last = max(sizes.index(tier) for tier in there)
    stuck = [tier for tier in lost.homeless if sizes.index(tier) > last]
    if not stuck:
        return f"{'its' if len(lost.homeless) == 1 else 'their'} rows go to the next larger tier"
    answered = (
        f"rows that ask for {'it' if len(lost.homeless) == 1 else stuck[0]} keep the last answer they have"
    )
    return answered if len(stuck) == len(lost.homeless) else f"{answered}, the others' go to the next larger"


def _label(made: Placement, numbers: Sequence[int]) -> str:
    """`gpu-24gb 0-5`: the type, and numbers over all devices."""
    return _numbered(made.devices[numbers[0]].type, numbers)


def _numbered(kind: str, numbers: Sequence[int]) -> str:
    name = f"{kind} {_ranges(numbers)}"
    if len(name) <= LABEL:
        return name
    return f"{name[: LABEL - 16].rpartition(',')[0]},... ({len(numbers):,} of them)"


def _ranges(numbers: Sequence[int]) -> str:
    """`0-5,7`."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _wrapped(text: str, indent: str) -> list[str]:
    return textwrap.wrap(
        text,
        WIDTH,
        subsequent_indent=indent,
        drop_whitespace=True,
        break_long_words=False,
        break_on_hyphens=False,
        replace_whitespace=False,
    )
