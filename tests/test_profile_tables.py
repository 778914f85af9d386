"""Profiles merged and held against each other: properties on random profiles, and every refusal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascade_tools.artifacts import Hop, Profile, ProfilePoint
from cascade_tools.errors import UsageError
from cascade_tools.planning.profile_tables import PointKey, diff, key_of, merge

TIERS = ("small", "large")
POSITIVE = st.floats(1e-3, 1e4)


def point(**changes: Any) -> ProfilePoint:
    values: dict[str, Any] = {
        "tier": "small",
        "format": "onnx",
        "device": "gpu",
        "batch": 1,
        "latency_p50_ms": 2.0,
        "latency_p99_ms": 3.0,
        "throughput_rps": 500.0,
        "cpu_ms_per_row": None,
        "memory_mib": 100.0,
        "kernel_utilization": 0.5,
        "energy_j": 0.25,
        "origin": "measured",
        "energy_origin": "measured",
    }
    return ProfilePoint(**{**values, **changes})


def profile(*points: ProfilePoint, **changes: Any) -> Profile:
    values: dict[str, Any] = {
        "cascade": "pair",
        "made_from": {},
        "environment": {"processor": "here"},
        "points": points or (point(), point(tier="large")),
        "hop": None,
        "router": None,
    }
    return Profile(**{**values, **changes})


@st.composite
def points(draw: st.DrawFn) -> tuple[ProfilePoint, ...]:
    """Points of both tiers, no key twice."""
    keys = draw(
        st.sets(
            st.tuples(
                st.sampled_from(TIERS),
                st.sampled_from(("onnx", "pt2")),
                st.sampled_from(("gpu", "cpu")),
                st.sampled_from((1, 4, 16)),
                st.sampled_from((1, 2)),
            ),
            max_size=8,
        )
    )
    keys |= {(tier, "onnx", "gpu", 1, 1) for tier in TIERS}
    return tuple(
        point(
            **PointKey(*key)._asdict(),
            latency_p50_ms=draw(POSITIVE),
            memory_mib=draw(POSITIVE),
            kernel_utilization=draw(st.floats(0.01, 1.0)),
        )
        for key in sorted(keys)
    )


@given(points())
def test_a_profile_does_not_differ_from_itself(some: tuple[ProfilePoint, ...]) -> None:
    found = diff(profile(*some), profile(*some))
    assert [p.key for p in found.points] == [key_of(p) for p in some]
    assert found.largest_percent == 0.0
    assert found.only_first == found.only_second == ()


@given(points(), points())
def test_turned_around_the_ratios_are_the_reciprocals(
    some: tuple[ProfilePoint, ...], others: tuple[ProfilePoint, ...]
) -> None:
    forth, back = diff(profile(*some), profile(*others)), diff(profile(*others), profile(*some))
    assert set(forth.only_first) == set(back.only_second)
    assert set(forth.only_second) == set(back.only_first)
    reverse = {p.key: p for p in back.points}
    assert {p.key for p in forth.points} == set(reverse)
    for p in forth.points:
        for name in ("time", "utilization", "memory", "energy"):
            assert getattr(p, name) * getattr(reverse[p.key], name) == pytest.approx(1.0)
    keys = [p.key for p in forth.points] + [*forth.only_first, *forth.only_second]
    assert sorted(keys) == sorted({key_of(p) for p in (*some, *others)})


@given(points(), st.data())
def test_parts_that_overlap_merge_into_the_whole(some: tuple[ProfilePoint, ...], data: st.DataObject) -> None:
    shared = [p for p in some if key_of(p) in {(t, "onnx", "gpu", 1, 1) for t in TIERS}]
    rest = [p for p in some if p not in shared]
    here = data.draw(st.lists(st.booleans(), min_size=len(rest), max_size=len(rest)))
    one = profile(*shared, *(p for p, mine in zip(rest, here, strict=True) if mine))
    other = profile(*shared, *(p for p, mine in zip(rest, here, strict=True) if not mine))
    merged = merge([one, other], ["one", "other"], {"one": "1"})
    assert sorted(merged.points, key=key_of) == sorted(some, key=key_of)
    assert merged.made_from == {"one": "1"}
    turned = merge([other, one], ["other", "one"], {})
    assert sorted(turned.points, key=key_of) == sorted(some, key=key_of)


def test_ratios_are_of_the_second_over_the_first() -> None:
    second = point(
        latency_p50_ms=3.0, kernel_utilization=0.25, memory_mib=110.0, energy_j=None, energy_origin=None
    )
    found = diff(profile(point(), point(batch=2)), profile(second, point(batch=8)))
    (only,) = found.points
    assert (only.time, only.utilization, only.energy) == (1.5, 0.5, None)
    assert only.memory == pytest.approx(1.1)
    assert found.largest_percent == pytest.approx(50.0)
    assert [key.batch for key in found.only_first] == [2]
    assert [key.batch for key in found.only_second] == [8]


def test_nothing_held_by_both_is_no_difference_but_something_over_nothing_has_no_ratio() -> None:
    nothing = point(memory_mib=0.0)
    assert diff(profile(nothing), profile(nothing)).points[0].memory == 1.0
    assert diff(profile(nothing), profile(point())).points[0].memory is None


def test_devices_of_two_machines_stand_in_one_profile() -> None:
    cpu = profile(
        point(device="cpu"),
        point(tier="large", device="cpu"),
        hop=Hop(latency_ms=1.0, cpu_ms=0.5, step_ms=0.1, origin="measured"),
        idle_watts={"cpu": 20.0},
        graphs={"small": "a", "large": "b"},
    )
    gpu = profile(
        environment={"processor": "there", "gpu": "H"},
        hop=Hop(latency_ms=2.0, cpu_ms=0.6, step_ms=0.1, origin="measured"),
        idle_watts={"gpu": 60.0},
        energy_meter="NVML",
        graphs={"small": "a"},
    )
    merged = merge([cpu, gpu], ["a.json", "b.json"], {})
    assert len(merged.points) == 4
    assert merged.hop == cpu.hop
    assert merged.idle_watts == {"cpu": 20.0, "gpu": 60.0}
    assert merged.environment == {"processor": "here; there", "gpu": "H"}
    assert merged.energy_meter == "NVML"
    assert merged.graphs == {"small": "a", "large": "b"}
    assert [p.device for p in merged.points_of("small")] == ["cpu"]
    assert [p.device for p in merged.points_of("small", "gpu")] == ["gpu"]


LARGE = point(tier="large")
REFUSED: dict[str, tuple[Callable[[], Profile], tuple[str, ...]]] = {
    "another time": (
        lambda: profile(point(latency_p50_ms=2.5), LARGE),
        ("b.json: tier small, format onnx, device gpu, batch 1, instances 1: differs from a.json",),
    ),
    "another cascade": (lambda: profile(cascade="other"), ("b.json", "'other'", "'pair'")),
    "another tier": (lambda: profile(point(), point(tier="giant")), ("b.json", "'giant'")),
    "another graph": (
        lambda: profile(graphs={"small": "z"}),
        ("b.json: graph of tier small: z, but a in a.json",),
    ),
    "other idle watts": (lambda: profile(idle_watts={"gpu": 61.0}), ("idle watts of device gpu: 61.0",)),
    "other instances": (lambda: profile(instances={"small": 2}), ("instances of tier small: 2",)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_belong_together_is_named(name: str) -> None:
    first = profile(graphs={"small": "a"}, idle_watts={"gpu": 60.0}, instances={"small": 1})
    second, words = REFUSED[name]
    with pytest.raises(UsageError) as caught:
        merge([first, second()], ["a.json", "b.json"], {})
    for word in words:
        assert word in caught.value.message


def test_plans_that_each_gpu_builds_for_itself_may_differ() -> None:
    one = profile(point(format="tensorrt", device="a"), LARGE, graphs={"small": "1"})
    other = profile(point(format="tensorrt", device="b"), LARGE, graphs={"small": "2"})
    assert len(merge([one, other], ["a", "b"], {}).points) == 3
