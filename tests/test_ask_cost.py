"""What planning counts for asking a tier."""

from __future__ import annotations

import pytest

from cascade_tools.artifacts import INLINE_ENTRY_MS, AskCost, Hop, Profile, ProfilePoint, RouterCost, WorkCost
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


def test_a_row_costs_its_part_of_a_batch_and_of_its_late_answer() -> None:
    parts = {"batch_ms": 0.8, "request_ms": 0.1, "call_ms": 0.4, "late_ms": 0.5}
    cost = RouterCost(
        router=WorkCost(**parts),
        server=WorkCost(batch_ms=0.08, request_ms=0.3, call_ms=9.0, late_ms=0.05),
        client=WorkCost(request_ms=7.0),
        rest_ms=(0.0,),
        origin="measured",
    )
    # Everything but the client's.
    assert cost.cpu_ms_per_row(8.0, 0.0, 0.0) == pytest.approx(0.1 + 0.1 + 0.3 + 0.01)
    assert cost.cpu_ms_per_row(8.0, 0.25, 0.5) == pytest.approx(0.51 + 0.25 * 9.4 + 0.5 * 0.55)
    assert cost.serial_ms_per_row(8.0, 0.25, 0.5) == pytest.approx(0.2 + 0.25 * 0.4 + 0.5 * 0.5)


def test_whether_the_router_runs_a_tier_itself_depends_on_the_limit() -> None:
    quick = profile_of("onnx", 1.5)
    assert quick.runs_inline("one")
    assert not quick.runs_inline("one", 1.0)
    assert not profile_of("triton", 0.1).runs_inline("one")
    # Where it stands on a GPU it is called, however quick it is.
    assert quick.ask_cost("one", inline=False) == AskCost(0.5, 0.6)
