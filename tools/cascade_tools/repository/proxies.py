"""Proxies: models that stand for tiers which other hosts serve; see `hosts.py`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from cascade_tools import backends
from cascade_tools.artifacts import GearPlan, LadderTier, Placement
from cascade_tools.repository.hosts import HostPart, Way
from cascade_tools.repository.render import VERSION, answer_tensors, render_template, rendered

HERE = "_here"  # what the instances of this host are called beside a proxy; no tier's name can end so
MOST_PROXIES = 16
LEAST_TIMEOUT_S = 5.0
TIMEOUT_BATCHES = 20.0  # full ones, that may wait before


def plan_here(plan: GearPlan, part: HostPart) -> GearPlan:
    """The plan with the tiers that have instances on this host, by the names of their models there."""
    placed = {instances.tier for instances in part.placement.instances}
    here = [
        tier.model_copy(update={"model": tier.model + HERE}) if tier.tier in part.ways else tier
        for tier in rendered(plan)
        if tier.tier in placed
    ]
    return plan.model_copy(update={"ladder": tuple(here)})


def proxy_configs(
    plan: GearPlan, whole: Placement, part: HostPart, addresses: Sequence[str]
) -> dict[str, str]:
    """`config.pbtxt` of each proxy of a host, by relative path.

    Args:
        plan: names the models.
        whole: the placement on all hosts.
        part: of the host.
        addresses: host:port of the gRPC endpoint of each host's server, by the host's number.
    """
    answer = answer_tensors(plan.classes, plan.tokens, probabilities=plan.probabilities)
    return {
        f"{tier.model}/config.pbtxt": render_template(
            "triton/remote_tier.pbtxt.j2",
            cascade=plan.cascade,
            tier=tier.tier,
            name=tier.model,
            inputs=plan.inputs,
            outputs=answer,
            max_batch_size=plan.limits.max_batch_size,
            instances=_proxies(whole, tier.tier, part.ways[tier.tier]),
            ways=_quoted([_way(tier, way, part.host, addresses) for way in part.ways[tier.tier]]),
            timeout_s=_timeout_s(tier, plan.limits.max_batch_size),
        )
        for tier in proxied(plan, part)
    }


def proxy_files(plan: GearPlan, part: HostPart) -> dict[str, Path]:
    """Python files of the proxies by relative path, copied byte for byte."""
    folder = Path(backends.__file__).parent
    code = {"model.py": folder / "remote_tier.py", "joined.py": folder / "joined.py"}
    return {
        f"{tier.model}/{VERSION}/{name}": path for tier in proxied(plan, part) for name, path in code.items()
    }


def proxied(plan: GearPlan, part: HostPart) -> list[LadderTier]:
    """The tiers that have a proxy on this host."""
    return [tier for tier in rendered(plan) if tier.tier in part.ways]


def _way(tier: LadderTier, way: Way, here: int, addresses: Sequence[str]) -> dict[str, object]:
    share = round(way.share, 4)
    if way.host == here:
        return {"model": tier.model + HERE, "share": share}
    return {"address": addresses[way.host], "model": tier.model, "share": share}


def _timeout_s(tier: LadderTier, rows: int) -> float:
    full_s = (tier.p50_ms + (rows - 1) * tier.further_row_ms) / 1000.0
    return round(max(LEAST_TIMEOUT_S, TIMEOUT_BATCHES * full_s), 3)


def _proxies(whole: Placement, tier: str, ways: Sequence[Way]) -> int:
    """As many that each instance behind them can work on one batch while the next one waits."""
    hosts = {way.host for way in ways}
    behind = sum(
        placed.count
        for placed in whole.instances
        if placed.tier == tier and placed.stage == 1 and whole.devices[placed.device].host in hosts
    )
    return min(MOST_PROXIES, 2 * behind)


def _quoted(value: Sequence[Mapping[str, object]]) -> str:
    """JSON as a quoted string of a config."""
    return json.dumps(json.dumps(value))
