"""Which figures `place` tells as the energy of a row where the planned batch has none."""

from __future__ import annotations

from cascade_tools.artifacts import PlacedDevice, PlacedInstances, Placement, Profile, ProfilePoint
from cascade_tools.stages.place import _with_known_energy


def point(tier: str, device: str, batch: int, energy_j: float | None) -> ProfilePoint:
    return ProfilePoint(
        tier=tier,
        format="onnx",
        device=device,
        batch=batch,
        latency_p50_ms=1.0,
        latency_p99_ms=None,
        throughput_rps=1000.0,
        cpu_ms_per_row=None,
        memory_mib=1.0,
        kernel_utilization=1.0,
        energy_j=energy_j,
        origin="given",
        energy_origin=None if energy_j is None else "given",
    )


def placed(**batch: int) -> Placement:
    device = PlacedDevice(type="b", kind="gpu", gpu=0, memory_mib=9, used_memory_mib=1.0, busy_share=0.5)
    return Placement(
        cascade="pair",
        made_from={},
        rate_rps=1.0,
        bound_rps=1.0,
        gap=0.0,
        status="optimal",
        giant_only_rps=None,
        batch=batch,
        devices=(device,),
        instances=tuple(PlacedInstances(tier=t, device=0, count=1, busy_instances=0.5) for t in batch),
    )


def test_the_energy_is_of_the_type_that_a_tier_stands_on() -> None:
    points = (
        point("small", "a", 8, 1.0),
        point("small", "b", 32, 2.0),
        point("giant", "b", 4, 10.0),
    )
    profile = Profile(cascade="pair", made_from={}, environment={}, points=points, hop=None, router=None)
    made = _with_known_energy(placed(small=8, giant=4), profile, {"small": 1.0, "giant": 0.5})
    assert made.energy_j == 2.0 + 0.5 * 10.0, "type a is nearer in batch, but nothing stands there"
    assert made.giant_energy_j == 10.0
    assert made.energy_batches == {"small": 32}, "4 is the batch that is planned"


def test_without_a_figure_of_its_own_type_there_is_still_one() -> None:
    points = (point("small", "a", 8, 1.0), point("giant", "b", 4, 10.0))
    profile = Profile(cascade="pair", made_from={}, environment={}, points=points, hop=None, router=None)
    made = _with_known_energy(placed(small=8, giant=4), profile, {"small": 1.0, "giant": 0.5})
    assert made.energy_j == 6.0
    assert made.energy_batches == {}
