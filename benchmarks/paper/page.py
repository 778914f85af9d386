"""The page docs/paper.md: what the papers claim beside what the runs found. Nobody writes figures into it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.paper.finding import Experiment, Table

HEAD = """# The papers' experiments, run again

Written by `make paper` ({minutes} minutes; `--only N,M` runs some); figures are those of the
run named under each experiment and stand in `build/paper.json`, too. HybridServe is
[arXiv 2505.12566](https://arxiv.org/abs/2505.12566), CascadeServe
[arXiv 2406.14424](https://arxiv.org/abs/2406.14424). *Measured*: here, on real input; on the embedded Triton
where latencies are. *Simulated*: by `planning/simulator`. *Modelled*: computed from figures that were not
measured here. *Given*: published. The models and machines are not the papers', so directions can be compared
and not amounts.
"""


def page(experiments: Sequence[Experiment], known: dict[str, Any]) -> str:
    """The whole page from the entries of the JSON file, by number."""
    seconds = sum(entry["seconds"] for entry in known.values())
    parts = [HEAD.format(minutes=max(1, round(seconds / 60)))]
    missing = [experiment for experiment in experiments if str(experiment.number) not in known]
    if missing:
        parts.append("Not run for this page: " + "; ".join(f"{e.number}. {e.title}" for e in missing) + ".\n")
    for experiment in experiments:
        if str(experiment.number) in known:
            parts.append(section(experiment, known[str(experiment.number)]))
    return "\n".join(parts)


def section(experiment: Experiment, entry: dict[str, Any]) -> str:
    """One experiment."""
    told = entry["machine"]
    lines = [
        f"## {experiment.number}. {experiment.title}",
        "",
        f"**{experiment.paper} says:** {experiment.claim}",
        "",
        f"**Here:** {experiment.how}",
        "",
        f"**Found:** {' '.join(entry['said'])}",
        "",
    ]
    for content in entry["tables"]:
        lines += [*markdown(Table.of(content)), ""]
    for name in entry["pictures"]:
        lines += [f"![{name}]({picture_name(experiment.number, name)})", ""]
    brief = " A quick run: not to be read." if entry["quick"] else ""
    lines += [
        f"{entry['date']}, {told['cores']} cores, {told['processor']}; `python -m benchmarks.paper --only "
        f"{experiment.number}`, {entry['seconds']:.0f} s; the host took {entry['stolen_share']:.0%} of the "
        f"cores away meanwhile.{brief}",
        "",
    ]
    return "\n".join(lines)


def markdown(table: Table) -> list[str]:
    """A table with its title and origin above it."""
    numbers = ["" if not column.form else ":" for column in table.columns]
    return [
        f"{table.title} ({table.origin}):",
        "",
        "| " + " | ".join(column.name for column in table.columns) + " |",
        "|" + "|".join(f"---{right}" for right in numbers) + "|",
        *(
            "| " + " | ".join(c.told(value) for c, value in zip(table.columns, row, strict=True)) + " |"
            for row in table.rows
        ),
    ]


def picture_name(number: int, name: str) -> str:
    """Where a picture stands, from the page."""
    return f"images/paper-{number}-{name}.svg"
