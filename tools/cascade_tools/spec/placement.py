"""By which rule the tiers are placed, and towards which goal."""

from __future__ import annotations

from typing import Literal

from cascade_tools.spec.base import Spec
from cascade_tools.spec.problem import Target


class PlacementChoice(Spec):
    """How `place` plans; see docs/placement.md.

    Attributes:
        rule: `loose`: a device is busy at most all the time; `strict`: the kernel utilizations of all
            instances on it sum to at most 1, busy or not.
        objective: `max_rate`, or `{rate_rps: 500, minimise: gpus | energy}`.
        closure: `pool`: a tier may be on other hosts than the others; `host`: each host in use has all.
    """

    rule: Literal["strict", "loose"] = "loose"
    objective: Target = None
    closure: Literal["pool", "host"] = "pool"
