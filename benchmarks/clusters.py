"""Ladders and clusters of the placement benchmark.

Published (HybridServe, arXiv 2505.12566): utilization, memory and joules per row of the ViT and T5 tiers,
their reach; the overhead of cutting a model into 2, 4 and 8 stages (4, 12, 16 % in all). ASSUMED: all times,
derived from the joules with a GPU that draws 60 W idle and 300 W when busy (batch 4 for ViT, 8 for T5); all
of the `llm` and `six` ladders; the types of GPUs.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from cascade_tools.planning.placement.problem import Device, Problem, Rule, TierLoad, Variant

SPEED = {"A": 1.0, "B": 0.5, "C": 1.6, "D": 0.8}
MEMORY_MIB = {"A": 24_576, "B": 16_384, "C": 49_152, "D": 12_288}
IDLE_W = {"A": 60.0, "B": 40.0, "C": 70.0, "D": 35.0}
RESERVED_MIB = 600
BUSY_W, IDLE_A_W = 300.0, 60.0
OVERHEAD = {1: 0.0, 2: 0.04, 4: 0.12, 8: 0.16}


class Model(NamedTuple):
    """One tier on a GPU of type A: time of a batch, memory of weights and beside them."""

    name: str
    reach: float
    batch: int
    ms: float
    utilization: float
    weights_mib: int
    other_mib: int
    stages: tuple[int, ...] = (1,)


def _joules(name: str, reach: float, batch: int, j: float, share: float, w: int, other: int) -> Model:
    """A tier whose time follows from its joules: batch * joules / watts at this utilization."""
    watts = IDLE_A_W + (BUSY_W - IDLE_A_W) * share
    return Model(name, reach, batch, 1000.0 * batch * j / watts, share, w, other)


# ViT's times are the same rule, rounded; with them 8 GPUs have a known answer, 7,620 rows/s.
LADDERS: dict[str, tuple[Model, ...]] = {
    "vit": (
        Model("tiny", 1.0, 4, 3.06, 0.153, 23, 25),
        Model("small", 0.403767, 4, 4.28, 0.279, 87, 31),
        Model("base", 0.354133, 4, 6.2, 0.589, 332, 50),
        Model("large", 0.1727, 4, 12.5, 0.906, 1163, 29),
    ),
    "t5": (
        _joules("small", 1.0, 8, 0.05891692, 0.233, 356, 352),
        _joules("base", 1.0, 8, 0.21293626, 0.341, 1042, 706),
        _joules("large", 0.798285, 8, 0.53841012, 0.467, 3258, 860),
        _joules("xl", 0.501301, 8, 1.42218549, 0.974, 11125, 1625),
    ),
    "llm": (
        Model("m700", 1.0, 4, 5.0, 0.3, 700, 300),
        Model("m2700", 0.5, 4, 12.0, 0.5, 2700, 500),
        Model("m13400", 0.25, 4, 40.0, 0.8, 13_400, 800),
        Model("giant", 0.08, 4, 110.0, 0.9, 40_000, 900, (1, 2, 4, 8)),
    ),
    "six": (
        Model("m300", 1.0, 4, 2.0, 0.15, 300, 100),
        Model("m900", 0.6, 4, 4.0, 0.25, 900, 150),
        Model("m2800", 0.4, 4, 8.0, 0.45, 2800, 200),
        Model("m6500", 0.25, 4, 16.0, 0.7, 6500, 300),
        Model("m11100", 0.12, 4, 28.0, 0.85, 11_100, 400, (1, 2)),
        Model("giant", 0.06, 4, 110.0, 0.95, 40_000, 900, (1, 2, 4, 8)),
    ),
}
LADDERS["six_whole"] = tuple(model._replace(stages=(1,)) for model in LADDERS["six"])


def tiers(ladder: str, batches: tuple[int, ...] = ()) -> tuple[TierLoad, ...]:
    """The tiers of a ladder, each at every one of `batches` if there are some.

    Assumed for these: .55 + .45 b / 4 of the time at batch 4, utilization by the .35th power of b / 4.
    """
    return tuple(
        TierLoad(
            model.name,
            model.reach,
            tuple(
                _variant(model, stages, batch)
                for stages in model.stages
                for batch in (batches or (model.batch,))
            ),
        )
        for model in LADDERS[ladder]
    )


def _variant(model: Model, stages: int, batch: int) -> Variant:
    size = batch / model.batch
    ms = model.ms * (1.0 if size == 1.0 else 0.55 + 0.45 * size)
    share = min(1.0, model.utilization * size**0.35)
    seconds = ms * (1.0 + OVERHEAD[stages]) / stages / 1000.0 / batch
    memory = int(np.ceil(model.weights_mib / stages + model.other_mib * max(size, 0.5)))
    watts = (BUSY_W - IDLE_A_W) * share
    return Variant(
        stages,
        batch,
        {kind: seconds / speed for kind, speed in SPEED.items()},
        dict.fromkeys(SPEED, share),
        memory,
        memory,
        {kind: watts * seconds for kind in SPEED},
    )


def cluster(gpus: dict[str, int], per_host: int) -> tuple[Device, ...]:
    """So many GPUs of each type, in hosts of one type."""
    devices: list[Device] = []
    host = 0
    for kind, number in gpus.items():
        room = MEMORY_MIB[kind] - RESERVED_MIB
        devices += [Device(kind, room, host + g // per_host, IDLE_W[kind]) for g in range(number)]
        host += -(-number // per_host)
    return tuple(devices)


def problem(
    ladder: str, gpus: dict[str, int], per_host: int, rule: Rule, batches: tuple[int, ...] = ()
) -> Problem:
    """A ladder on a cluster, for the highest rate."""
    return Problem(tiers(ladder, batches), cluster(gpus, per_host), rule)
