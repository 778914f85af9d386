"""Fits and interpolation of a profile, on the published utilization and memory of two families of models."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascade_tools.artifacts import Profile, ProfilePoint
from cascade_tools.planning.curves import (
    fit_memory,
    fit_utilization,
    latency_at,
    memory_at,
    point_at,
    utilization_at,
)
from cascade_tools.stages.search import planned_point

# HybridServe's measurements on a 24 GB GPU, arXiv 2505.12566.
SIZES = (1, 8, 32, 64)
VIT = {
    "tiny": (0.123, 0.218, 0.483, 0.751),
    "small": (0.168, 0.411, 0.861, 0.857),
    "base": (0.260, 0.906, 0.918, 0.909),
    "large": (0.298, 0.942, 0.971, 0.976),
}
VIT_AT_4 = {"tiny": 0.153, "small": 0.279, "base": 0.589, "large": 0.906}
T5 = {
    "small": (0.139, 0.233, 0.546, 0.904),
    "base": (0.150, 0.341, 0.958, 0.986),
    "large": (0.190, 0.467, 0.983, 0.991),
    "xl": (0.380, 0.974, 0.994, 0.997),
}


def point(batch: int, utilization: float = 0.5, **changes: object) -> ProfilePoint:
    return ProfilePoint.model_validate(
        {
            "tier": "one",
            "format": "onnx",
            "device": "gpu24",
            "batch": batch,
            "latency_p50_ms": 2.0 + batch,
            "latency_p99_ms": 3.0 + batch,
            "throughput_rps": 1000.0 * batch / (2.0 + batch),
            "cpu_ms_per_row": None,
            "memory_mib": 40.0 + 8.0 * batch,
            "kernel_utilization": utilization,
            "energy_j": 0.4 / batch,
            "origin": "given",
            "energy_origin": "given",
            **changes,
        }
    )


def points(
    sizes: Sequence[int] = SIZES, utilization: Sequence[float] = VIT["tiny"]
) -> tuple[ProfilePoint, ...]:
    return tuple(point(b, u) for b, u in zip(sizes, utilization, strict=True))


def grid_cost(utilization: Sequence[float]) -> float:
    """The smallest sum of squares on a grid of p and q, zeros included."""
    grid = np.concatenate([[0.0], np.geomspace(0.01, 300.0, 300)])
    p, q = grid[:, None, None], grid[None, :, None]
    b = np.array(SIZES, float)
    return float(((b * b / (b * b + p * b + q) - np.array(utilization)) ** 2).sum(axis=2).min())


@pytest.mark.parametrize("utilization", [*VIT.values(), *T5.values()])
def test_the_utilization_fit_is_the_best_there_is(utilization: tuple[float, ...]) -> None:
    fit = fit_utilization(SIZES, utilization)
    misses = np.array([fit.at(b) for b in SIZES]) - utilization
    assert float((misses**2).sum()) <= grid_cost(utilization) + 1e-9
    assert fit.residual == pytest.approx(np.abs(misses).max())


def test_the_published_residuals() -> None:
    vit = {name: fit_utilization(SIZES, u) for name, u in VIT.items()}
    assert {name: round(fit.residual, 3) for name, fit in vit.items()} == {
        "tiny": 0.088,
        "small": 0.076,
        "base": 0.076,
        "large": 0.019,
    }
    assert vit["tiny"].p == pytest.approx(27.718, abs=0.01)
    assert vit["tiny"].q == pytest.approx(0.0, abs=0.01)
    assert vit["large"].p == pytest.approx(0.315, abs=0.01)
    assert vit["large"].q == pytest.approx(2.029, abs=0.01)
    assert max(fit_utilization(SIZES, u).residual for u in T5.values()) == pytest.approx(0.175, abs=0.001)


def test_beyond_the_published_points_the_fit_is_nearer_than_the_last_value() -> None:
    families = [*VIT.values(), *T5.values()]
    fitted = [abs(utilization_at(points(SIZES[:3], u[:3]), 64) - u[3]) for u in families]
    last = [abs(u[2] - u[3]) for u in families]
    assert (np.mean(fitted), max(fitted)) == pytest.approx((0.058, 0.202), abs=1e-3)
    assert (np.mean(last), max(last)) == pytest.approx((0.085, 0.358), abs=1e-3)


def test_between_the_published_points_the_line_is_nearer_than_nothing_for_all_but_the_largest() -> None:
    missed = {name: utilization_at(points(utilization=u), 4) - VIT_AT_4[name] for name, u in VIT.items()}
    assert {name: round(miss, 3) for name, miss in missed.items()} == {
        "tiny": 0.011,
        "small": -0.007,
        "base": -0.052,
        "large": -0.332,  # it saturates before 8; only a measurement could know
    }


@settings(max_examples=30)  # each fits a curve
@given(
    st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=5),
    st.integers(1, 4096),
)
def test_utilization_is_a_share_whatever_was_measured(measured: list[float], batch: int) -> None:
    sizes = [2**i for i in range(1, len(measured) + 1)]
    found = utilization_at(points(sizes, measured), batch)
    assert 0.0 < found <= 1.0
    for at, value in zip(sizes, measured, strict=True):
        assert utilization_at(points(sizes, measured), at) == pytest.approx(value)


@given(st.floats(0.0, 5000.0), st.floats(0.0, 100.0), st.integers(1, 1024))
def test_memory_that_is_a_line_is_found_again(m0: float, k: float, batch: int) -> None:
    assert fit_memory(SIZES, [m0 + k * b for b in SIZES]).residual_mib == pytest.approx(0.0, abs=1e-6)
    measured = [point(b, memory_mib=m0 + k * b) for b in SIZES]
    assert memory_at(measured, batch) == pytest.approx(m0 + k * batch, rel=1e-6, abs=1e-6)


def test_published_memory_of_vit_tiny_beyond_its_points() -> None:
    # 48 MB reserved at batch 1, 502 at batch 64: 7.2 MB a row.
    measured = [point(1, memory_mib=48.0), point(64, memory_mib=502.0)]
    assert memory_at(measured, 128) == pytest.approx(502.0 + 64 * 454.0 / 63.0)


def test_memory_never_falls_beyond_the_points() -> None:
    falling = [point(1, memory_mib=300.0), point(8, memory_mib=200.0), point(32, memory_mib=100.0)]
    assert fit_memory([1, 8, 32], [300.0, 200.0, 100.0]).k_mib == 0.0
    assert memory_at(falling, 64) == pytest.approx(100.0)
    assert memory_at([point(4, memory_mib=70.0)], 64) == 70.0


@given(st.floats(0.01, 100.0), st.floats(0.0, 1.0), st.integers(1, 512))
def test_latency_that_is_a_power_of_the_batch_is_found_again(ms: float, exponent: float, batch: int) -> None:
    measured = [point(b, latency_p50_ms=ms * b**exponent) for b in (2, 8, 32)]
    assert latency_at(measured, batch) == pytest.approx(ms * batch**exponent, rel=1e-9)


def test_beyond_the_points_a_batch_takes_no_longer_than_its_rows_and_no_less_than_a_smaller_one() -> None:
    steep = [point(2, latency_p50_ms=1.0), point(4, latency_p50_ms=4.0)]
    assert latency_at(steep, 8) == pytest.approx(8.0)
    falling = [point(2, latency_p50_ms=4.0), point(4, latency_p50_ms=3.0)]
    assert latency_at(falling, 8) == pytest.approx(3.0)
    only = [point(4, latency_p50_ms=3.0)]
    assert latency_at(only, 8) == pytest.approx(6.0)
    assert latency_at(only, 1) == pytest.approx(3.0)


def test_a_point_that_was_measured_is_given_back() -> None:
    assert point_at(points(), 8) == points()[1]


def test_a_point_that_was_not_measured_is_modelled() -> None:
    found = point_at(points(), 16)
    assert (found.batch, found.origin, found.energy_origin) == (16, "modelled", "modelled")
    assert found.memory_mib == pytest.approx(40.0 + 8.0 * 16)
    assert found.energy_j == pytest.approx((0.05 + 0.0125) / 2.0)
    assert found.cpu_ms_per_row is None
    assert found.throughput_rps == pytest.approx(16_000.0 / found.latency_p50_ms)
    without = [point(b, energy_j=None, energy_origin=None) for b in (1, 8)]
    assert point_at(without, 4).energy_origin is None


def profile_of(sizes: Sequence[int]) -> Profile:
    return Profile(
        cascade="pair",
        made_from={},
        environment={},
        points=tuple(point(b) for b in sizes),
        hop=None,
        router=None,
    )


@pytest.mark.parametrize(
    ("sizes", "largest", "batch", "origin"),
    [
        ((1, 8, 32, 64), 64, 8, "given"),  # 800 of at most 970 rows/s
        ((1, 8, 32, 64), 4, 4, "modelled"),  # Triton makes no 8
        ((8, 32), 4, 4, "modelled"),
        ((1, 2), 64, 2, "given"),  # beyond what is known no better throughput is hoped for
        ((4,), 4, 4, "given"),
    ],
)
def test_planning_counts_with_a_batch_that_triton_can_make(
    sizes: tuple[int, ...], largest: int, batch: int, origin: str
) -> None:
    planned = planned_point(profile_of(sizes), "one", largest)
    assert (planned.batch, planned.origin) == (batch, origin)


@pytest.mark.parametrize("at", [utilization_at, memory_at, latency_at])
def test_nothing_jumps_at_the_edges(at: Callable[[Sequence[ProfilePoint], int], float]) -> None:
    measured = tuple(point(b, u) for b, u in zip((100, 200, 300), (0.2, 0.5, 0.6), strict=True))
    for edge, beyond in ((100, 99), (300, 301)):
        assert at(measured, beyond) == pytest.approx(at(measured, edge), rel=0.02)
