"""Places what a problem file says, without a cascade; nothing is written."""

from __future__ import annotations

from math import ceil
from pathlib import Path

from cascade_tools.artifacts import Placement
from cascade_tools.planning.placement.problem import Device, Problem, TierLoad, Variant
from cascade_tools.spec import ProblemFile, ProblemTier, host_numbers, load_problem
from cascade_tools.stages.placed import Named, Planned, placement_of, planned
from cascade_tools.stages.tier_loads import goal_of

ROUNDING_MIB = 1e-6


def place_problem(path: Path) -> tuple[Placement, Planned]:
    """Solve a problem file.

    Raises:
        UsageError: the file does not do; names the field.
        Infeasible: there is no placement; names the constraint.
    """
    content = load_problem(path)
    found = planned(problem_from(content))
    names = [Named("gpu", int(group.memory_mib)) for group in content.devices for _ in range(group.count)]
    made = placement_of(found, names, "", {})
    energy = None if made.energy_j is None else "given"
    update = {"figures": "given", "energy_figures": energy, "notes": notes_of(content)}
    return made.model_copy(update=update), found


def notes_of(content: ProblemFile) -> tuple[str, ...]:
    """What is taken for 0, or does nothing, in words."""
    notes = [
        f"tiers.{number}.stage_overhead: {stages} is no number of `stages` of {tier.name!r}; it does nothing"
        for number, tier in enumerate(content.tiers)
        for stages in tier.stage_overhead
        if stages not in tier.stages
    ]
    without = [number for number, group in enumerate(content.devices) if group.idle_w is None]
    if content.objective is not None and content.objective.minimise == "energy" and without:
        notes.append(
            f"devices.{', devices.'.join(map(str, without))}: no `idle_w`, so what they draw idle counts as "
            "0 W"
        )
    return tuple(notes)


def problem_from(content: ProblemFile) -> Problem:
    """A problem as a person writes it, as one to be solved.

    A stage of S holds `weights / S + activation` MiB, rounded up, and takes `time * (1 + overhead) / S`.
    """
    types = {group.type for group in content.devices}
    hosts = host_numbers(content.devices)
    single = [group for group in content.devices for _ in range(group.count)]
    return Problem(
        tiers=tuple(
            TierLoad(tier.name, tier.reach, tuple(_variant(tier, stages, types) for stages in tier.stages))
            for tier in content.tiers
        ),
        devices=tuple(
            Device(
                group.type,
                int(group.memory_mib - group.reserved_mib + ROUNDING_MIB),
                host,
                group.idle_w or 0.0,
            )
            for group, host in zip(single, hosts, strict=True)
        ),
        rule=content.rule,
        goal=goal_of(content.objective),
        closure=content.closure,
    )


def _variant(tier: ProblemTier, stages: int, types: set[str]) -> Variant:
    longer = 1.0 + tier.stage_overhead.get(stages, 0.0)
    memory_mib = ceil(tier.weights_mib / stages + tier.activation_mib - ROUNDING_MIB)
    return Variant(
        stages=stages,
        batch=tier.batch,
        seconds_per_row={
            kind: ms * longer / stages / 1000.0 / tier.batch
            for kind, ms in tier.time_ms.items()
            if kind in types
        },
        utilization={kind: share for kind, share in tier.utilization.items() if kind in types},
        memory_mib=memory_mib,
        further_mib=memory_mib,
        energy_j={kind: joule / stages for kind, joule in tier.energy_j.items() if kind in types},
    )
