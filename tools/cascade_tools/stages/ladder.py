"""What the router needs to know beside its gears: the tiers of the ladder, and its limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cascade_tools.artifacts import (
    AdoptedModel,
    AdoptedTier,
    Calibration,
    Exported,
    LadderTier,
    Profile,
    ProfilePoint,
    RouterLimits,
)
from cascade_tools.spec import Cascade


def ladder_of(
    cascade: Cascade,
    calibration: Calibration,
    profile: Profile,
    exported: Exported,
    tolerated: Mapping[str, float],
) -> tuple[LadderTier, ...]:
    """All tiers, smallest first; `tolerated` is by tier, where something is planned."""
    return tuple(
        _tier(cascade, calibration, profile, exported, name, tolerated.get(name))
        for name in cascade.tier_names
    )


def limits_of(cascade: Cascade) -> RouterLimits:
    """The router's limits, by the section `serving`."""
    return RouterLimits(
        rows_in_flight=cascade.serving.rows_in_flight,
        max_batch_size=cascade.serving.max_batch_size,
        shadow_share=cascade.serving.shadow_share,
        router_instances=cascade.serving.router_instances,
    )


def further_row_ms(points: Sequence[ProfilePoint]) -> float:
    """What each further row of a batch adds, as the router counts: between the tails of the outer points.

    Args:
        points: of one tier, by batch size.
    """
    first, last = points[0], points[-1]
    return max(0.0, (last.latency_tail_ms - first.latency_tail_ms) / max(1, last.batch - first.batch))


def _tier(
    cascade: Cascade,
    calibration: Calibration,
    profile: Profile,
    exported: Exported,
    name: str,
    tolerated: float | None,
) -> LadderTier:
    adopted = calibration.adopted_tier(name)
    points = profile.points_of(name)
    first = points[0]
    return LadderTier(
        tier=name,
        model=cascade.model_name(name),
        sha256=exported.tier(name).digest if adopted is None else adopted.sha256,
        p50_ms=first.latency_p50_ms,
        p99_ms=first.latency_tail_ms + profile.ask_cost(name).latency_ms,
        further_row_ms=further_row_ms(points),
        tolerated_disagreement=tolerated,
        adopted=None if adopted is None else _with_head(adopted, calibration),
    )


def _with_head(adopted: AdoptedTier, calibration: Calibration) -> AdoptedModel:
    head = calibration.tier(adopted.tier)
    return AdoptedModel(
        inputs=adopted.inputs,
        output=adopted.output,
        gives=adopted.gives,
        temperature=head.temperature,
        signal=head.signal,
        curve=head.curve,
        mask=calibration.mask,
    )
