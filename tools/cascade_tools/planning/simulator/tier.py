"""A tier as the router knows it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cascade_tools.planning.simulator.model import Model


@dataclass(eq=False, slots=True)
class Tier:
    """One tier; times in seconds.

    Attributes:
        model: its first stage; None where the router runs it itself, then `local_s` by rows of a batch.
        alive: an instance of every stage is left.
        ask_s: latency of a call; `ask_core` the share of the router's device that it keeps busy.
        planned_s: of one row in the gear plan, `further_row_s` of each further one.
    """

    name: str
    model: Model | None
    alive: Callable[[], bool]
    local_s: list[float]
    local_j: list[float]
    ask_s: float
    ask_core: float
    planned_s: float
    further_row_s: float
    batches: int = 0
    rows: int = 0
    energy_j: float = 0.0
