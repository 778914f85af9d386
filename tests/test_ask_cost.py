"""What planning counts for asking a tier."""

from __future__ import annotations

import pytest

from cascade_tools.artifacts import INLINE_ENTRY_MS, AskCost, Hop, Profile, ProfilePoint
from cascade_tools.serving.local_step import measure_local_step_ms

HOP = Hop(latency_ms=0.5, cpu_ms=0.6, step_ms=0.1, origin="measured")


def profile_of(kind: str, p50_ms: float, hop: Hop | None = HOP, overhead_ms: float | None = None) -> Profile:
    point = ProfilePoint(
        tier="one",
        format=kind,
        device="cpu",
        batch=1,
        latency_p50_ms=p50_ms,
        latency_p99_ms=p50_ms,
        overhead_ms=overhead_ms,
        throughput_rps=1000.0 / p50_ms,
        cpu_ms_per_row=None,
        memory_mib=1.0,
        kernel_utilization=0.5,
        energy_j=None,
        origin="measured",
        energy_origin=None,
    )
    return Profile(cascade="pair", made_from={}, environment={}, points=(point,), hop=hop, router=None)


@pytest.mark.parametrize("kind", ["onnx", "onnx_fp16"])
def test_a_cheap_tier_costs_a_step_of_the_router(kind: str) -> None:
    assert profile_of(kind, INLINE_ENTRY_MS).ask_cost("one") == AskCost(0.1, 0.1)


@pytest.mark.parametrize(
    ("kind", "p50_ms"), [("onnx", 1.01 * INLINE_ENTRY_MS), ("triton", 0.1), ("pt2", 0.1)]
)
def test_any_other_costs_a_call_through_the_server(kind: str, p50_ms: float) -> None:
    assert profile_of(kind, p50_ms).ask_cost("one") == AskCost(0.5, 0.6)


def test_a_large_input_costs_what_the_server_added_to_it() -> None:
    assert profile_of("onnx", 9.0, overhead_ms=3.0).ask_cost("one") == AskCost(3.0, 0.6)
    assert profile_of("onnx", 9.0, overhead_ms=0.1).ask_cost("one") == AskCost(0.5, 0.6)


def test_without_a_server_to_measure_on_asking_counts_as_free() -> None:
    assert profile_of("onnx", 0.1, hop=None).ask_cost("one") == AskCost(0.0, 0.0)


def test_a_step_of_the_router_takes_time() -> None:
    assert measure_local_step_ms() > 0.0
