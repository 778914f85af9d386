from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cascade_tools.artifacts import PolicyTable, Route, ScoreTable
from cascade_tools.planning.evaluate import Question, evaluate
from cascade_tools.planning.simulator.clock import Clock
from cascade_tools.planning.simulator.device import Device
from cascade_tools.planning.simulator.system import Loss, Recorded, SimGear, Work
from cascade_tools.runtime.gearbox import GearBox
from cascade_tools.runtime.plan import parse_policy
from tests.simulated import chain, latency_ms, recorded, run, service, system, tier

SURE, UNSURE = 0.9, 0.1
ONE = recorded([SURE])
TWO = recorded([SURE, SURE], [UNSURE, SURE])
THREE = recorded([SURE] * 3, [UNSURE, SURE, SURE], [UNSURE, UNSURE, SURE])


# --- one server


def test_a_batch_is_whatever_waits_when_an_instance_is_free() -> None:
    found = run(system(tier("a", service(10.0))), [0, 1, 2, 3], ONE)
    # The first row runs alone for 10 ms; the others wait for it and then run together.
    assert latency_ms(found) == [10.0, 19.0, 18.0, 17.0]
    assert found.batches.tolist() == [2] and found.mean_batch.tolist() == [2.0]
    assert found.duration_s == pytest.approx(0.020)
    assert found.busy_share.tolist() == pytest.approx([1.0])


def test_a_batch_has_at_most_the_rows_that_fit() -> None:
    found = run(system(tier("a", service(10.0)), router={"max_batch_size": 2}), [0, 1, 1, 1], ONE)
    assert latency_ms(found) == [10.0, 19.0, 19.0, 29.0]


def test_larger_batches_take_their_own_time_and_energy() -> None:
    work = service([4.0, 6.0, 7.0, 8.0, 9.0, 9.0, 9.0, 9.0], utilization=0.5, energy_j=2.0)
    found = run(system(tier("a", work)), [0, 1, 2], ONE)
    assert latency_ms(found) == [4.0, 9.0, 8.0]
    assert found.dynamic_j == pytest.approx(6.0)
    assert found.idle_j is None and found.energy_j is None
    assert found.busy_share.tolist() == pytest.approx([0.5])


def test_two_instances_serve_side_by_side() -> None:
    found = run(system(tier("a", service(10.0), (0, 1)), devices=2), [0, 1, 2], ONE)
    assert latency_ms(found) == [10.0, 10.0, 18.0]


def test_preferred_sizes_and_the_queue_delay() -> None:
    patient = tier("a", service(10.0), preferred=(2,), queue_delay_ms=5.0)
    # One row waits 5 ms in vain; two go at once; of three, two go at once and one waits for the instance.
    assert latency_ms(run(system(patient), [0], ONE)) == [15.0]
    assert latency_ms(run(system(patient), [0, 3], ONE)) == [13.0, 10.0]
    assert latency_ms(run(system(patient), [0, 3, 3.5], ONE)) == [13.0, 10.0, 19.5]


def test_the_queue_follows_the_formula_of_deterministic_service() -> None:
    """M/D/1: a mean wait of rho s / (2 (1 - rho)) (Pollaczek and Khinchine)."""
    rate, time_ms = 700.0, 1.0
    arrival_ms = np.cumsum(np.random.default_rng(3).exponential(1000.0 / rate, 60_000))
    found = run(system(tier("a", service(time_ms)), router={"max_batch_size": 1}), arrival_ms.tolist(), ONE)
    rho = rate * time_ms / 1000.0
    wait_ms = found.outcomes.latency_ms.mean() - time_ms
    assert wait_ms == pytest.approx(rho * time_ms / (2.0 * (1.0 - rho)), rel=0.05)
    assert found.busy_share[0] == pytest.approx(rho, rel=0.02)


# --- several at once


def test_work_slows_down_in_proportion_where_a_device_is_full() -> None:
    # .8 + .8 on one device: both get on at 1 / 1.6 from 5 ms on, until the first has done its 10 ms.
    found = run(system(tier("a", service(10.0, 0.8), (0, 0))), [0, 5], ONE)
    assert latency_ms(found) == [13.0, 13.0]
    assert found.busy_share.tolist() == pytest.approx([(5 * 0.8 + 8 * 1.0 + 5 * 0.8) / 18.0])


def test_work_does_not_slow_down_while_there_is_room() -> None:
    found = run(system(tier("a", service(10.0, 0.5), (0, 0))), [0, 5], ONE)
    assert latency_ms(found) == [10.0, 10.0]


@pytest.mark.parametrize(
    ("work", "end_s"),
    [
        # Two of weight 1 and one of 1/3 want 1.5 devices: they get on at 6/7 and at 2/7, which has a third
        # done when the others end at 7/6.
        ([(0.5, 1.0), (0.5, 1.0), (0.5, 1 / 3)], [7 / 6, 7 / 6, 11 / 6]),
        # What has more weight is not quicker than alone: the two others share what it leaves.
        ([(0.5, 1.0), (0.5, 0.5), (0.5, 0.5)], [1.0, 1.5, 1.5]),
        ([(0.4, 1.0), (0.6, 0.1)], [1.0, 1.0]),
    ],
)
def test_work_of_less_weight_waits_where_a_device_is_full(
    work: list[tuple[float, float]], end_s: list[float]
) -> None:
    clock, ended = Clock(), dict[int, float]()
    device = Device(clock)
    for number, (utilization, weight) in enumerate(work):
        device.start(1.0, utilization, lambda of: ended.update({of: clock.now}), number, weight)
    clock.run()
    assert [ended[number] for number in range(len(work))] == pytest.approx(end_s)
    assert device.work_s == pytest.approx(sum(utilization for utilization, _ in work))


def test_stages_are_a_pipeline() -> None:
    # Two equal stages of 5 ms each on two devices; the second row enters the first stage at 5 ms.
    found = run(
        system(tier("a", service(10.0), (0,), (1,)), devices=2, router={"max_batch_size": 1}),
        [0, 0, 0],
        ONE,
    )
    assert latency_ms(found) == [10.0, 15.0, 20.0]
    assert found.busy_share.tolist() == pytest.approx([0.75, 0.75])


def test_stages_may_be_uneven_and_cost_something() -> None:
    cut = tier("a", service(10.0, energy_j=1.0), (0,), (1,), stage_shares=(0.8, 0.4))
    found = run(system(cut, devices=2, router={"max_batch_size": 1}), [0, 0], ONE)
    assert latency_ms(found) == [12.0, 20.0]
    assert found.dynamic_j == pytest.approx(2 * 1.2)


# --- the cascade


def test_doubtful_rows_go_on_and_sure_ones_do_not_wait() -> None:
    found = run(system(tier("a", service(2.0)), tier("b", service(10.0))), [0, 0], TWO, [0, 1])
    assert found.outcomes.tier.tolist() == [0, 1]
    assert latency_ms(found) == [2.0, 22.0 - 10.0]
    assert found.asked.tolist() == [2, 1]


def test_calls_of_several_batches_are_joined() -> None:
    said = recorded([UNSURE, SURE])
    found = run(
        system(
            tier("a", service(2.0), (0, 0)),
            tier("b", service(10.0), (1,)),
            devices=2,
            router={"max_batch_size": 2},
        ),
        [0, 3, 5],
        said,
    )
    # The second tier takes the first row at 2 ms alone, then both others, which have come by 12 ms.
    assert latency_ms(found) == [12.0, 19.0, 17.0]
    assert found.mean_batch.tolist() == [1.0, 1.5]


def test_asking_adds_latency_and_takes_the_routers_device() -> None:
    asked = tier("a", service(10.0, 0.5), ask_ms=2.0, ask_cpu_ms=1.0)
    free = run(system(asked, devices=2), [0], ONE)
    assert latency_ms(free) == [12.0] and free.busy_share[1] == 0.0
    counted = run(system(asked, devices=2, router={"device": 1, "cores": 2}), [0], ONE)
    assert latency_ms(counted) == [12.0]
    assert counted.busy_share[1] == pytest.approx(0.5 * 1.0 / 12.0)


def test_a_local_tier_runs_in_execute_and_keeps_the_next_batch_waiting() -> None:
    local = tier("a", service(4.0, 1.0), local=True)
    found = run(
        system(local, router={"device": 0, "inline_entry_ms": 5.0, "own": Work(1.0, 0.5)}),
        [0, 1, 2],
        ONE,
    )
    # 1 + .5 + 4 for the first; the two others then share 1 + 2 * .5 + 4.
    assert latency_ms(found) == [5.5, 10.5, 9.5]


def test_every_party_takes_its_part_of_a_latency() -> None:
    costs = {
        "own": Work(batch_ms=1.0, request_ms=2.0, call_ms=4.0, late_ms=8.0),
        "server": Work(batch_ms=16.0, request_ms=32.0, call_ms=0.0, late_ms=64.0),
        "client": Work(batch_ms=128.0, request_ms=256.0),
        "rest_ms": (512.0,),
    }
    quick = tier("a", service(10.0), local=True)
    found = run(system(quick, router=costs | {"inline_entry_ms": 20.0}), [0, 20], ONE)
    first = 1 + 2 + 10 + 16 + 32 + 128 + 256 + 512
    # The second begins when Triton has taken the first answer.
    assert latency_ms(found) == [first, first + 1 + 2 + 10 + 16 + 32 - 20]
    # A first tier that is not quick is left to the pool, which does not wait for Triton's part of the batch.
    called = tier("a", service(10.0), ask_ms=1024.0)
    found = run(system(called, router=costs), [0, 5000, 5000], ONE)
    alone = 1 + 2 + 4 + 1024 + 10 + 8 + 32 + 64 + 128 + 256 + 512
    assert latency_ms(found)[0] == alone
    # Of two, the server takes one answer after the other; the client has read the middle one.
    assert latency_ms(found)[1:] == [alone + 2 + 8 + 32 + 64 + 0.5 * 256] * 2


def test_a_client_takes_of_the_routers_device_only_if_it_is_there() -> None:
    quick = tier("a", service(1.0), local=True)
    costs = {"device": 0, "cores": 2, "inline_entry_ms": 5.0, "own": Work(), "client": Work(request_ms=3.0)}
    for here, busy in ((False, 0.5), (True, 0.5)):
        found = run(system(quick, router=costs | {"client_here": here}), [0], ONE)
        assert latency_ms(found) == [4.0]
        assert found.busy_share[0] * found.duration_s == pytest.approx(busy * (1e-3 + 3e-3 * here))


def test_the_threads_of_a_router_take_turns() -> None:
    # Two calls that the first tier answers at once, each 3 ms of the router later: one after the other.
    called = tier("a", service(1.0), (0, 0))
    costs = {"own": Work(late_ms=3.0), "max_batch_size": 1, "device": 1, "cores": 4}
    found = run(system(called, devices=2, router=costs), [0, 0], ONE)
    assert sorted(latency_ms(found)) == [1.0 + 1.0 + 3.0, 1.0 + 1.0 + 3.0 + 3.0]
    # Two processes have a lock each.
    found = run(system(called, devices=2, router=costs | {"instances": 2}), [0, 0], ONE)
    assert latency_ms(found) == [5.0, 5.0]


def test_what_a_request_takes_besides_is_drawn() -> None:
    costs = {"rest_ms": (1.0, 2.0, 4.0)}
    found = run(system(tier("a", service(1.0)), router=costs), [10.0 * n for n in range(300)], ONE)
    values, count = np.unique(latency_ms(found), return_counts=True)
    assert values.tolist() == [2.0, 3.0, 5.0] and count.min() > 70


# --- the batch trigger, admission, gears, losses


def test_rows_wait_for_company() -> None:
    gear = SimGear(None, chain("a"), min_queue=3, max_wait_ms=6.0)
    one = system(tier("a", service(10.0)), gears=(gear,))
    assert latency_ms(run(one, [0, 1, 2], ONE)) == [12.0, 11.0, 10.0]
    assert latency_ms(run(one, [0, 1], ONE)) == [16.0, 15.0]
    assert latency_ms(run(one, [0, 1, 7], ONE)) == [16.0, 15.0, 19.0]


def test_rows_beyond_the_limit_are_refused_and_counted() -> None:
    found = run(system(tier("a", service(10.0)), router={"rows_in_flight": 2}), [0, 1, 2, 3, 30], ONE)
    assert latency_ms(found) == [10.0, 19.0, -1.0, -1.0, 10.0]
    assert found.refused == 2 and found.failed == 0
    assert found.outcomes.gear.tolist() == [0, 0, -1, -1, 0]
    assert found.outcomes.goodput(15.0) == pytest.approx(2 / 5)


def test_gears_are_those_of_a_gear_box_fed_by_hand() -> None:
    rng = np.random.default_rng(5)
    arrival_ms = np.cumsum(rng.exponential(np.repeat([10.0, 0.6, 10.0], 400)))
    gears = (SimGear(300.0, chain("b")), SimGear(None, chain("a")))
    both = system(
        tier("a", service(0.5), (0,)), tier("b", service(2.0), (1,)), devices=2, gears=gears, alpha=8.0
    )
    found = run(both, arrival_ms.tolist(), recorded([SURE, SURE]))
    # Without costs of the router, execute begins when a row comes, and takes no time.
    box, expected = GearBox([300.0, np.inf], 8.0, 100.0), []
    done = found.outcomes.arrival_s + found.outcomes.latency_ms / 1000.0
    for number, now in enumerate(found.outcomes.arrival_s.tolist()):
        queue = number - int((done[:number] <= now + 1e-12).sum())
        expected.append(box.observe(now, 1, queue))
    assert found.outcomes.gear.tolist() == expected
    assert set(expected) == {0, 1} and len(found.gears) >= 3
    assert (found.outcomes.tier == np.where(found.outcomes.gear == 0, 1, 0)).all()


def test_a_lost_device_hands_its_batch_to_the_next_larger_tier() -> None:
    two = system(
        tier("a", service(10.0), (0,)), tier("b", service(20.0), (1,)), devices=2, losses=(Loss(0.005, 0),)
    )
    found = run(two, [0, 4, 30], recorded([SURE, SURE]))
    assert found.outcomes.tier.tolist() == [1, 1, 1]
    # At 5 ms the first tier's batch and what waits for it go on to the second, one call after the other.
    assert latency_ms(found) == [25.0, 41.0, 35.0]
    assert found.failed == 0


def test_after_three_failures_the_fallback_serves() -> None:
    without = ((frozenset({"a"}), (SimGear(None, chain("c")),)),)
    three = system(
        tier("a", service(1.0), (0,)),
        tier("b", service(1.0), (1,)),
        tier("c", service(1.0), (2,)),
        devices=3,
        losses=(Loss(0.0, 0),),
        fallbacks=without,
    )
    found = run(three, [1, 3, 5, 7, 9], THREE)
    assert found.outcomes.tier.tolist() == [1, 1, 1, 2, 2]
    assert found.outcomes.gear.tolist() == [0, 0, 0, 1, 1]
    assert found.gears == ((0.001, 0), (0.007, 1))


def test_a_broken_tier_is_asked_again_if_something_of_it_is_left() -> None:
    # Three calls are on the device that is lost; the other one could have gone on at once.
    half = system(
        tier("a", service(10.0), (0, 0, 0, 1)),
        tier("b", service(1.0), (2,)),
        devices=3,
        router={"max_batch_size": 1},
        losses=(Loss(0.005, 0),),
    )
    found = run(half, [0, 0, 0, 100, 400, 600], recorded([SURE, SURE]))
    assert found.outcomes.tier.tolist() == [1, 1, 1, 1, 1, 0]


def test_rows_without_any_tier_keep_the_answer_that_they_have_or_fail() -> None:
    two = system(
        tier("a", service(1.0), (0,)), tier("b", service(1.0), (1,)), devices=3, losses=(Loss(0.0, 1),)
    )
    found = run(two, [1, 3], TWO, [0, 1])
    assert found.outcomes.tier.tolist() == [0, 0]
    assert found.outcomes.correct.tolist() == [True, False]
    gone = system(tier("a", service(1.0), (0,)), devices=1, losses=(Loss(0.0015, 0),))
    found = run(gone, [1, 3, 5, 7, 9], ONE)
    assert found.failed == 5 and found.refused == 0
    assert latency_ms(found) == [-1.0] * 5


def test_what_does_not_fit_is_named() -> None:
    with pytest.raises(ValueError, match="rows: 1 rows for 2 arrivals"):
        run(system(tier("a", service(1.0))), [0, 1], ONE, [0])
    with pytest.raises(ValueError, match="must not decrease"):
        run(system(tier("a", service(1.0))), [1, 0], ONE)
    with pytest.raises(ValueError, match=r"tiers\.a\.instances: there is no device 3"):
        run(system(tier("a", service(1.0), (3,))), [0], ONE)
    with pytest.raises(ValueError, match="is the router's"):
        run(system(tier("a", service(1.0)), router={"device": 0}, losses=(Loss(0.0, 0),)), [0], ONE)


# --- whole traces


def _random_ladder(seed: int) -> tuple[Any, Any, Any]:
    """A ladder of three with skips, a score table, and a policy."""
    rng = np.random.default_rng(seed)
    rows, tiers = 400, ("a", "b", "c")
    table = ScoreTable(
        tiers=tiers,
        confidence=rng.random((rows, 3)).astype(np.float32),
        label=rng.integers(0, 3, (rows, 3)),
        target=rng.integers(0, 3, rows),
        group=np.arange(rows),
        split=np.full(rows, "search"),
    )
    policy = PolicyTable(
        tiers=tiers,
        routes=(
            Route(cuts=(0.3, 0.6), to=(2, 1, -1)),
            Route(cuts=(0.7,), to=(2, -1)),
            Route(cuts=(), to=(-1,)),
        ),
    )
    return rng, table, policy


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_every_row_ends_once_and_accuracy_and_reach_are_the_evaluators(seed: int) -> None:
    rng, table, policy = _random_ladder(seed)
    said = Recorded(table.confidence, table.label == table.target[:, None])
    gear = SimGear(None, parse_policy(policy.model_dump(), "policy"))
    three = system(
        tier("a", service(0.3, 0.4), local=True),
        tier("b", service(1.0, 0.6), (0, 0), ask_ms=0.1, ask_cpu_ms=0.1),
        tier("c", service(2.0, 0.9), (1,), (0,), ask_ms=0.1),
        devices=2,
        gears=(gear,),
        router={
            "device": 0,
            "inline_entry_ms": 1.0,
            "own": Work(batch_ms=0.2, late_ms=0.1),
            "server": Work(batch_ms=0.05, request_ms=0.05),
        },
    )
    rows = np.concatenate([rng.permutation(400) for _ in range(5)])  # every row as often as any other
    arrival_ms = np.cumsum(rng.exponential(1.2, len(rows))).tolist()
    found = run(three, arrival_ms, said, rows.tolist())
    expected = evaluate(table, policy, Question(cost=(1.0, 1.0, 1.0)))
    assert found.outcomes.answered.all() and found.refused == found.failed == 0
    assert (found.outcomes.latency_ms > 0.0).all()
    assert found.outcomes.accuracy() == pytest.approx(expected.accuracy)
    assert found.outcomes.shares(3) == pytest.approx([expected.answers[name] for name in "abc"])
    assert found.asked / len(rows) == pytest.approx([expected.reach[name] for name in "abc"])
    assert (found.busy_share <= 1.0 + 1e-9).all()
    assert found.in_system(np.array([-1.0, found.duration_s])).tolist() == [0, 0]
    again = run(three, arrival_ms, said, rows.tolist())
    assert np.array_equal(found.outcomes.latency_ms, again.outcomes.latency_ms)


@pytest.mark.parametrize("seed", [4, 5])
def test_rows_are_conserved_when_a_device_is_lost_under_overload(seed: int) -> None:
    rng, table, policy = _random_ladder(seed)
    said = Recorded(table.confidence, table.label == table.target[:, None])
    gear = SimGear(None, parse_policy(policy.model_dump(), "policy"), min_queue=4, max_wait_ms=3.0)
    three = system(
        tier("a", service(0.5), (0,)),
        tier("b", service(2.0), (0, 1)),
        tier("c", service(6.0), (1,), (2,)),
        devices=3,
        gears=(gear,),
        losses=(Loss(0.2, 0), Loss(0.5, 2)),
        router={"rows_in_flight": 60, "escalation_threads": 3},
    )
    rows = rng.integers(0, 400, 2000)
    found = run(three, np.cumsum(rng.exponential(0.5, 2000)).tolist(), said, rows.tolist())
    outcomes = found.outcomes
    assert found.refused > 0
    assert int(outcomes.answered.sum()) + found.refused + found.failed == 2000
    assert np.isnan(outcomes.latency_ms[~outcomes.answered]).all()
    assert np.isfinite(outcomes.latency_ms[outcomes.answered]).all()
    late = outcomes.answered & (outcomes.arrival_s > 0.6)
    assert late.any() and (outcomes.tier[late] < 2).all()  # the last tier has lost a stage
