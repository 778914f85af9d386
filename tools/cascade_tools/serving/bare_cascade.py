"""A cascade that nobody planned: tiers as they are given, one gear, one CPU device.

To measure, or to break, the router and the server around it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cascade_tools.artifacts import (
    Gear,
    GearPlan,
    Hysteresis,
    InputSpec,
    LadderTier,
    PlacedDevice,
    PlacedInstances,
    Placement,
    PolicyTable,
    RouterLimits,
)
from cascade_tools.repository.manifest import PLAN_FILE, Files
from cascade_tools.repository.render import VERSION, code_files, render_configs
from cascade_tools.store import digest_bytes


@dataclass(frozen=True)
class BareTier:
    """One tier.

    Attributes:
        graph: ONNX; gives LABEL and CONFIDENCE.
        p50_ms: of a batch of one, by which the router decides where it runs; `p99_ms` of the same.
        further_row_ms: that each further row takes.
        instances: of its model.
    """

    name: str
    graph: bytes
    p50_ms: float
    p99_ms: float
    further_row_ms: float
    instances: int = 1


def bare_plan(
    cascade: str,
    inputs: tuple[InputSpec, ...],
    classes: int,
    tiers: Sequence[BareTier],
    policy: PolicyTable,
    limits: RouterLimits,
) -> GearPlan:
    """A plan of one gear, which has the policy at all rates."""
    gear = Gear(
        up_to_rps=None,
        policy=policy,
        min_queue=1,
        max_wait_ms=0.0,
        predicted_accuracy=0.0,
        predicted_cost=0.0,
    )
    return GearPlan(
        cascade=cascade,
        made_from={},
        inputs=inputs,
        classes=classes,
        probabilities=False,
        ladder=tuple(
            LadderTier(
                tier=tier.name,
                model=f"{cascade}_{tier.name}",
                sha256=digest_bytes(tier.graph),
                p50_ms=tier.p50_ms,
                p99_ms=tier.p99_ms,
                further_row_ms=tier.further_row_ms,
            )
            for tier in tiers
        ),
        gears=(gear,),
        hysteresis=Hysteresis(),
        limits=limits,
        cost_unit="none",
    )


def bare_placement(cascade: str, tiers: Sequence[BareTier]) -> Placement:
    """Where a repository says that the tiers run; nothing but the number of instances is of use."""
    device = PlacedDevice(type="cpu", kind="cpu", gpu=None, memory_mib=1, used_memory_mib=1.0, busy_share=0.0)
    return Placement(
        cascade=cascade,
        made_from={},
        rate_rps=1.0,
        bound_rps=1.0,
        gap=0.0,
        status="given",
        giant_only_rps=None,
        batch=dict.fromkeys((tier.name for tier in tiers), 1),
        devices=(device,),
        instances=tuple(
            PlacedInstances(tier=tier.name, device=0, count=tier.instances, busy_instances=0.0)
            for tier in tiers
        ),
    )


def repository_files(plan: GearPlan, placement: Placement, graphs: Mapping[str, bytes]) -> Files:
    """All files of the embedded server's repository; `graphs` are ONNX by tier."""
    files: Files = {n: text.encode() for n, text in render_configs(plan, placement, "embedded").items()}
    files |= {name: path.read_bytes() for name, path in code_files(plan, "embedded").items()}
    files[f"{plan.cascade}/{PLAN_FILE}"] = plan.model_dump_json(indent=1).encode()
    return files | {f"{info.model}/{VERSION}/model.onnx": graphs[info.tier] for info in plan.ladder}
