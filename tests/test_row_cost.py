"""What one row costs the router's host, by hand and beside the simulator."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cascade_tools.artifacts import Hop, Profile, ProfilePoint, RouterCost, WorkCost
from cascade_tools.planning.curves import latency_at
from cascade_tools.planning.simulator.system import ServiceTime, Work
from cascade_tools.stages.row_cost import groups_per_row, late_share, row_cost
from tests.simulated import recorded, run, system, tier

HOP = Hop(latency_ms=0.5, cpu_ms=0.4, step_ms=0.06, origin="measured")
OWN = {"batch_ms": 0.8, "request_ms": 0.2, "call_ms": 0.1, "late_ms": 0.8}
SERVER = {"request_ms": 0.3, "call_ms": 0.4}
# As `profile` measured them with the digits, rounded.
OWN_OF_DIGITS = {"batch_ms": 0.95, "request_ms": 0.11, "call_ms": 0.58, "late_ms": 0.21}
SERVER_OF_DIGITS = {"batch_ms": 0.54, "request_ms": 0.21, "call_ms": 1.26, "late_ms": 0.12}
# Of eight rows of which each needs the giant with a chance of a quarter: how many calls of it per row.
CPU_ONLY = ("cpu",)
REACH = {"quick": 1.0, "giant": 0.25}
GIANT_CALLS = (1.0 - 0.75**8) / 8
# The pool's 16 threads are with these calls, and with the giant for two rows of a batch.
THREADS_MS = (GIANT_CALLS * 0.4 + 10.0 * 2.0 ** (1 / 3) / 8) / 16


def point(name: str, ms: float, batch: int = 1, device: str = "cpu", kind: str = "onnx") -> ProfilePoint:
    return ProfilePoint(
        tier=name,
        format=kind,
        device=device,
        batch=batch,
        latency_p50_ms=ms,
        latency_p99_ms=None,
        throughput_rps=batch * 1000.0 / ms,
        cpu_ms_per_row=None,
        memory_mib=1.0,
        kernel_utilization=1e-6,
        energy_j=None,
        origin="given",
        energy_origin=None,
    )


def profile_of(
    quick_ms: tuple[float, float],
    own: dict[str, float] = OWN,
    server: dict[str, float] = SERVER,
    kind: str = "onnx",
    giant_ms: tuple[float, float] = (10.0, 20.0),
) -> Profile:
    """A first tier of so many ms at 1 and 8 rows, and a giant."""
    points = (point("quick", quick_ms[0], kind=kind), point("quick", quick_ms[1], 8, kind=kind))
    giant = (point("giant", giant_ms[0]), point("giant", giant_ms[1], 8))
    costs = RouterCost(
        router=WorkCost(**own),
        server=WorkCost(**server),
        client=WorkCost(request_ms=9.0),
        rest_ms=(0.0,),
        origin="measured",
    )
    return Profile(
        cascade="pair", made_from={}, environment={}, points=(*points, *giant), hop=HOP, router=costs
    )


def flood_rps(profile: Profile, share: float, most: int, *, inline: bool) -> float:
    """What the simulator answers per second where 2,000 rows come at once, on cores without end."""
    assert profile.router is not None
    assert profile.hop is not None
    server = Work(**profile.router.server.model_dump())
    ask_ms = {"quick": profile.hop.step_ms if inline else server.call_ms, "giant": server.call_ms}
    tiers = []
    for name in ("quick", "giant"):
        points = profile.points_of(name)
        service = ServiceTime(
            np.array([latency_at(points, rows) for rows in range(1, most + 1)]), np.full(most, 1e-6)
        )
        more: dict[str, Any] = {"local": inline and name == "quick", "ask_ms": ask_ms[name]}
        tiers.append(tier(name, service, (0,) * 256, planned_ms=profile.at(name, 1).latency_p50_ms, **more))
    own = Work(**profile.router.router.model_dump())
    made = system(
        *tiers, router={"max_batch_size": most, "own": own, "server": server, "inline_entry_ms": 2.0}
    )
    which = (np.random.default_rng(0).random(2000) < share).astype(np.int64)
    found = run(made, [0.0] * 2000, recorded([0.9, 0.9], [0.1, 0.9]), which.tolist())
    return 2000.0 * 1000.0 / float(found.outcomes.latency_ms.max())


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize(
    ("quick_ms", "inline"),
    [((0.1, 0.16), False), ((1.9, 4.0), False), ((5.0, 8.0), False), ((0.1, 0.16), True), ((1.9, 4.0), True)],
)
@pytest.mark.parametrize("costs", [(OWN, SERVER), (OWN_OF_DIGITS, SERVER_OF_DIGITS)], ids=["some", "digits"])
@pytest.mark.parametrize("most", [8, 32])
def test_a_flood_gets_as_much_out_of_a_process_in_the_simulator(
    share: float,
    quick_ms: tuple[float, float],
    inline: bool,
    costs: tuple[dict[str, float], dict[str, float]],
    most: int,
) -> None:
    profile = profile_of(quick_ms, *costs)
    reach = {"quick": 1.0, "giant": share}
    found = row_cost(profile, reach, most, CPU_ONLY, may_be_inline=inline, skips=False)
    simulated_rps = flood_rps(profile, share, most, inline=inline)
    assert 1000.0 / found.serial_ms == pytest.approx(simulated_rps, rel=0.1)


def test_threads_that_wait_for_a_slow_giant_are_missed() -> None:
    profile = profile_of((1.9, 4.0), OWN_OF_DIGITS, SERVER_OF_DIGITS, giant_ms=(300.0, 500.0))
    found = row_cost(profile, REACH, 32, CPU_ONLY, may_be_inline=False, skips=False)
    assert 1000.0 / found.serial_ms == pytest.approx(flood_rps(profile, 0.25, 32, inline=False), rel=0.1)


def test_execute_calls_a_quick_first_tier_itself_and_answers_what_it_accepts() -> None:
    found = row_cost(profile_of((0.1, 0.16)), REACH, 8, CPU_ONLY, may_be_inline=False, skips=False)
    # Late is what the giant answers; `execute` waits for the call and until Triton has the other answers.
    own_ms = 0.8 / 8 + 0.2 + 0.1 / 8
    pool_ms = GIANT_CALLS * 0.1 + 0.25 * 0.8
    waits_ms = 0.4 / 8 + 0.16 / 8 + 0.75 * 0.3
    assert waits_ms > pool_ms
    alone_ms = own_ms + waits_ms + pool_ms**2 / (4.0 * waits_ms)
    assert found.serial_ms == pytest.approx(alone_ms + THREADS_MS**2 / (4.0 * alone_ms))
    assert found.cpu_ms == pytest.approx(own_ms + pool_ms + 0.3 + (1 / 8 + GIANT_CALLS) * 0.4)


def test_on_the_cpu_alone_so_it_does_with_an_adopted_one() -> None:
    adopted = row_cost(
        profile_of((0.1, 0.16), kind="triton"), REACH, 8, CPU_ONLY, may_be_inline=True, skips=False
    )
    assert adopted == row_cost(profile_of((0.1, 0.16)), REACH, 8, CPU_ONLY, may_be_inline=False, skips=False)


def test_all_is_handed_off_where_the_first_tier_is_not_quick() -> None:
    found = row_cost(profile_of((2.1, 4.0)), REACH, 8, CPU_ONLY, may_be_inline=False, skips=False)
    own_ms = 0.8 / 8 + 0.2
    pool_ms = (1 / 8 + GIANT_CALLS) * 0.1 + 0.8
    threads_ms = THREADS_MS + (0.4 / 8 + 4.0 / 8) / 16
    assert found.serial_ms == pytest.approx(own_ms + pool_ms + threads_ms**2 / (4.0 * (own_ms + pool_ms)))
    assert found.cpu_ms == pytest.approx(own_ms + pool_ms + 0.3 + (1 / 8 + GIANT_CALLS) * 0.4)


def test_a_first_tier_that_the_router_runs_takes_turns_with_its_threads() -> None:
    found = row_cost(profile_of((0.1, 0.16)), REACH, 8, CPU_ONLY, may_be_inline=True, skips=False)
    own_ms = 0.8 / 8 + 0.2 + (0.06 + 0.16) / 8
    pool_ms, waits_ms = GIANT_CALLS * 0.1 + 0.25 * 0.8, 0.75 * 0.3
    alone_ms = own_ms + waits_ms + pool_ms**2 / (4.0 * waits_ms)
    assert found.serial_ms == pytest.approx(alone_ms + THREADS_MS**2 / (4.0 * alone_ms))
    assert found.cpu_ms == pytest.approx(0.8 / 8 + 0.2 + 0.06 / 8 + pool_ms + 0.3 + GIANT_CALLS * 0.4)
    assert found.alone_ms == pytest.approx(0.3)


def test_a_further_tier_runs_in_execute_where_the_router_plans_it_to_be_quick() -> None:
    """The router counts with the tails, which may be long where medians are short."""
    reach = {"quick": 1.0, "next": 0.5, "giant": 0.25}
    found = []
    for p99_ms in (0.1, 4.0):
        one = profile_of((0.1, 0.16))
        tails = point("next", 0.1, 8).model_copy(update={"latency_p99_ms": p99_ms})
        one = one.model_copy(update={"points": (*one.points, point("next", 0.05), tails)})
        found.append(row_cost(one, reach, 8, CPU_ONLY, may_be_inline=True, skips=False))
    # What `next` answers is late if it is handed off.
    assert found[1].cpu_ms - found[0].cpu_ms == pytest.approx(0.25 * 0.8)


def test_before_a_process_that_binds_batches_are_full() -> None:
    profile = profile_of((0.1, 0.16), server={})
    # At 8 rows `quick` has its best throughput: that is the planned batch, for what the cores do.
    eight, more = (
        row_cost(profile, {"quick": 1.0}, n, CPU_ONLY, may_be_inline=False, skips=False) for n in (8, 32)
    )
    assert eight.serial_ms == pytest.approx(0.2 + (0.8 + 0.1 + 0.16) / 8)
    assert more.serial_ms < 0.2 + 0.16 / 8 + (0.8 + 0.1) / 32
    assert row_cost(
        profile, {"quick": 1.0}, 1, CPU_ONLY, may_be_inline=False, skips=False
    ).serial_ms == pytest.approx(0.2 + 0.8 + 0.1 + 0.1)


def test_execute_waits_for_the_device_type_where_the_first_tier_is_the_quickest() -> None:
    slow = profile_of((0.1, 0.16), server={})
    quicker = slow.model_copy(update={"points": (*slow.points, point("quick", 0.08, 8, "gpu"))})

    def serial_ms(one: Profile, *kinds: str) -> float:
        return row_cost(one, {"quick": 1.0}, 8, kinds, may_be_inline=False, skips=False).serial_ms

    assert serial_ms(slow, "cpu", "gpu") - serial_ms(quicker, "cpu", "gpu") == pytest.approx(0.08 / 8)
    # What is profiled and not there is quick for nobody.
    assert serial_ms(quicker, "cpu") == serial_ms(slow, "cpu")


@pytest.mark.parametrize(
    ("reach", "skips", "share"),
    [([], True, 0.0), ([0.3, 0.2], False, 0.3), ([0.3, 0.2], True, 0.5), ([0.9, 0.4], True, 1.0)],
)
def test_late_is_what_leaves_the_router(reach: list[float], skips: bool, share: float) -> None:
    assert late_share(reach, skips=skips) == pytest.approx(share)


def test_rows_of_a_batch_share_a_call() -> None:
    assert groups_per_row(1.0, 8.0) == pytest.approx(1 / 8)
    assert groups_per_row(0.3, 1.0) == pytest.approx(0.3)
    rng = np.random.default_rng(0)
    some = (rng.random((200_000, 4)) < 0.2).any(axis=1).mean() / 4
    assert groups_per_row(0.2, 4.0) == pytest.approx(some, rel=0.01)
