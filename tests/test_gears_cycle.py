"""The cycle that plans gears: it ends, it is as good as trying everything, and it says why it cannot."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascade_tools.artifacts import PredictedPolicy
from cascade_tools.errors import Infeasible, UsageError
from cascade_tools.planning.evaluate import threshold_policy
from cascade_tools.planning.gears import (
    Forecast,
    GearQuestion,
    PlannedGears,
    RateBins,
    Trigger,
    highest,
    plan_gears,
    zipf_bins,
)
from cascade_tools.planning.gears.descent import Descents
from cascade_tools.planning.gears.front import with_reach
from cascade_tools.planning.gears.refused import Refused
from cascade_tools.planning.gears.scenarios import Common
from cascade_tools.planning.placement.balance import balance
from cascade_tools.planning.placement.problem import Device, IntArray, Problem, TierLoad, Variant
from cascade_tools.spec import Slo

TIERS = ("tiny", "giant")
MS = {"tiny": {"A": 1.0, "B": 2.0}, "giant": {"A": 10.0, "B": 24.0}}


def variant(tier: str, memory_mib: int) -> Variant:
    return Variant(
        stages=1,
        batch=1,
        seconds_per_row={kind: ms / 1000.0 for kind, ms in MS[tier].items()},
        utilization={"A": 0.5, "B": 0.9},
        memory_mib=memory_mib,
        further_mib=memory_mib,
        energy_j={kind: ms / 100.0 for kind, ms in MS[tier].items()},
    )


def problem(room: tuple[int, ...] = (100, 60)) -> Problem:
    tiers = (TierLoad("tiny", 1.0, (variant("tiny", 20),)), TierLoad("giant", 1.0, (variant("giant", 40),)))
    return Problem(tiers, tuple(Device("AB"[g % 2], mib) for g, mib in enumerate(room)))


def policy(cut: float, reach: float, accuracy: float) -> PredictedPolicy:
    """A share `reach` of the rows goes on to the giant."""
    return PredictedPolicy(
        table=threshold_policy(TIERS, (cut,)),
        accuracy=accuracy,
        accuracy_drop=0.0,
        accuracy_drop_bound=0.0,
        cost=1.0 + 10.0 * reach,
        latency_p95_ms=1.0 + 10.0 * min(1.0, 10.0 * reach),
        energy_j=0.01 + 0.1 * reach,
        reach={"tiny": 1.0, "giant": reach},
        answers={"tiny": 1.0 - reach, "giant": reach},
    )


POLICIES = (policy(0.9, 0.8, 0.97), policy(0.6, 0.4, 0.95), policy(0.3, 0.1, 0.90), policy(0.1, 0.02, 0.80))


def reach_of(one: PredictedPolicy) -> tuple[float, ...]:
    return tuple(one.reach[tier] for tier in TIERS)


class Queueing:
    """A closed form in the place of the simulator: times stretch as the busiest device fills up."""

    def __init__(self, asked: Problem) -> None:
        self._asked = asked
        self._rated: dict[tuple[bytes, tuple[float, ...]], float] = {}
        self.calls = 0

    def rated(self, count: IntArray, one: PredictedPolicy) -> float:
        key = (count.tobytes(), reach_of(one))
        if key not in self._rated:
            self._rated[key] = balance(with_reach(self._asked, reach_of(one)), count)[0]
        return self._rated[key]

    def __call__(self, count: IntArray, one: PredictedPolicy, rate: float, trigger: Trigger) -> Forecast:
        self.calls += 1
        rated = self.rated(count, one)
        share = rate / rated / min(1.4, 1.0 + 0.1 * (trigger.min_queue - 1)) if rated > 0.0 else np.inf
        work = [MS[tier]["A"] if count[i, 0] else MS[tier]["B"] for i, tier in enumerate(TIERS)]
        alone = work[0] + (work[1] if one.reach["giant"] > 0.05 else 0.0)
        p95 = alone / max(1.0 - share, 0.01) + trigger.max_wait_ms / 4.0
        energy = 0.01 + 0.1 * one.reach["giant"] * (1.0 if count[1, 0] else 2.4)
        return Forecast(rate, min(rate, rate / share), p95 / 2.0, p95, 1.5 * p95, energy, min(1.0, share))


def question(
    slo: Slo,
    max_rps: float = 400.0,
    policies: tuple[PredictedPolicy, ...] = POLICIES,
    asked: Problem | None = None,
    rates: RateBins | None = None,
    placement: IntArray | None = None,
) -> GearQuestion:
    asked = asked or problem()
    return GearQuestion(
        policies=policies,
        reach_of=reach_of,
        problem=asked,
        rates=rates or zipf_bins(max_rps, 3, 1.0),
        slo=slo,
        target_busy_share=0.9,
        forecast=Queueing(asked),
        largest_trigger=4,
        placement=placement,
    )


def holds(asked: GearQuestion, count: IntArray, one: PredictedPolicy, rate: float) -> Forecast | None:
    """The forecast with the first batch trigger that holds this rate and the latency SLO, if there is one."""
    assert isinstance(asked.forecast, Queueing)
    if asked.forecast.rated(count, one) * asked.target_busy_share < rate:
        return None
    for queue in (1, 2, 3, 4):
        wait = 0.0 if queue == 1 else 2000.0 * (queue - 1) / rate
        if queue > 1 and asked.slo.name.startswith("p9"):
            wait = min(wait, asked.slo.bound / 4.0)
        found = asked.forecast(count, one, rate, Trigger(queue, wait))
        latency = {"p95_ms": found.p95_ms, "p99_ms": found.p99_ms}.get(asked.slo.name, 0.0)
        if found.throughput_rps >= 0.95 * rate and latency <= asked.slo.bound:
            return found
    return None


def placements(asked: Problem, most: int = 2) -> Iterator[IntArray]:
    """All of them, up to so many instances of a tier on a device."""
    memory = np.array([tier.variants[0].memory_mib for tier in asked.tiers])
    room = np.array([device.memory_mib for device in asked.devices])
    for drawn in product(range(most + 1), repeat=len(asked.tiers) * len(asked.devices)):
        count = np.array(drawn, np.int64).reshape(len(asked.tiers), len(asked.devices))
        if (memory @ count <= room).all() and (count.sum(axis=1) > 0).all():
            yield count


def best_of_all(asked: GearQuestion) -> float | None:
    """The best objective over every placement and every assignment with falling accuracy."""
    weights, top = asked.rates.weights, asked.rates.top_rps.tolist()
    best = None
    for count in placements(asked.problem):
        held = [[holds(asked, count, one, rate) for one in asked.policies] for rate in top]
        for chosen in product(range(len(asked.policies)), repeat=len(top)):
            found = [held[b][k] for b, k in enumerate(chosen)]
            accuracy = np.array([asked.policies[k].accuracy for k in chosen])
            if any(one is None for one in found) or (np.diff(accuracy) > 0.0).any():
                continue
            energy = float(weights @ [one.energy_j or 0.0 for one in found if one is not None])
            latency = float(weights @ [one.p95_ms for one in found if one is not None])
            if asked.slo.name == "accuracy" and weights @ accuracy < asked.slo.bound - 1e-9:
                continue
            if asked.slo.name == "energy_j" and energy > asked.slo.bound + 1e-9:
                continue
            value = -latency if asked.slo.name == "accuracy" else float(weights @ accuracy)
            best = value if best is None else max(best, value)
    return best


def value_of(asked: GearQuestion, plan: PlannedGears) -> float:
    return -plan.p95_ms if asked.slo.name == "accuracy" else plan.accuracy


slos = st.one_of(
    st.builds(lambda ms: Slo(p95_ms=ms), st.floats(2.0, 120.0)),
    st.builds(lambda ms: Slo(p99_ms=ms), st.floats(2.0, 120.0)),
    st.builds(lambda a: Slo(accuracy=a), st.floats(0.7, 1.0)),
    st.builds(lambda j: Slo(energy_j=j), st.floats(0.005, 0.2)),
)


@st.composite
def questions(draw: st.DrawFn) -> GearQuestion:
    drawn = draw(st.lists(st.tuples(st.integers(0, 50), st.integers(60, 99)), min_size=1, max_size=4))
    policies = tuple(
        policy(cut / 10.0, share / 50.0, accuracy / 100.0) for cut, (share, accuracy) in enumerate(drawn)
    )
    room = draw(st.tuples(st.integers(30, 130), st.integers(0, 130)))
    edges = np.cumsum([0.0, *draw(st.lists(st.floats(5.0, 300.0), min_size=1, max_size=3))])
    shares = np.array(draw(st.lists(st.integers(0, 9), min_size=len(edges) - 1, max_size=len(edges) - 1)))
    shares = (shares + (shares.sum() == 0)) / (shares + (shares.sum() == 0)).sum()
    return question(
        draw(slos), policies=policies, asked=problem(room), rates=RateBins(edges, shares, "histogram")
    )


@given(questions())
@settings(max_examples=15, deadline=None)
def test_it_always_ends_with_gears_that_hold_or_with_a_cause(asked: GearQuestion) -> None:
    try:
        plan = plan_gears(asked)
    except Infeasible as error:
        assert error.constraint
        assert error.hint
        return
    limits = [gear.up_to_rps for gear in plan.gears]
    assert limits[-1] is None
    rising = [limit for limit in limits if limit is not None]
    assert rising == sorted(set(rising))
    accuracies = [gear.policy.accuracy for gear in plan.gears]
    assert accuracies == sorted(accuracies, reverse=True)
    assert plan.busy_share <= asked.target_busy_share + 1e-6
    memory = np.array([tier.variants[0].memory_mib for tier in asked.problem.tiers])
    assert (memory @ plan.count <= [device.memory_mib for device in asked.problem.devices]).all()
    for gear, limit in zip(plan.gears, [*rising, float(asked.rates.top_rps[-1])], strict=True):
        again = asked.forecast(plan.count, gear.policy, limit, gear.trigger)
        assert again == gear.forecast
        assert again.throughput_rps >= 0.95 * limit
        if asked.slo.name == "p95_ms":
            assert again.p95_ms <= asked.slo.bound
        if asked.slo.name == "p99_ms":
            assert again.p99_ms <= asked.slo.bound
    if asked.slo.name == "accuracy":
        assert plan.accuracy >= asked.slo.bound - 1e-6
    if asked.slo.name == "energy_j":
        assert plan.energy_j is not None
        assert plan.energy_j <= asked.slo.bound + 1e-6


@pytest.mark.parametrize(
    "asked",
    [
        question(Slo(p95_ms=20.0), 400.0, asked=problem((80, 40))),
        question(Slo(accuracy=0.93), 400.0, asked=problem((80, 60))),
        question(Slo(energy_j=0.03), 300.0, asked=problem((80, 60))),
        # The two tiers have to change places after the first placement.
        question(
            Slo(accuracy=0.74),
            policies=(policy(0.0, 0.82, 0.87), policy(0.1, 0.66, 0.73), policy(0.2, 0.08, 0.97)),
            asked=problem((52, 90)),
            rates=RateBins(np.array([0.0, 51.0, 290.0]), np.array([1 / 3, 2 / 3]), "histogram"),
        ),
    ],
    ids=["p95", "accuracy", "energy", "exchange"],
)
def test_on_tiny_spaces_it_is_as_good_as_trying_everything(asked: GearQuestion) -> None:
    best = best_of_all(asked)
    assert best is not None
    assert value_of(asked, plan_gears(asked)) >= best - 0.01 * abs(best)


def test_what_trying_everything_finds_infeasible_is_infeasible() -> None:
    asked = question(Slo(p95_ms=2.0), 400.0, asked=problem((80, 60)), policies=POLICIES[:2])
    assert best_of_all(asked) is None
    with pytest.raises(Infeasible):
        plan_gears(asked)


def test_low_rates_get_the_accurate_policy_and_high_rates_the_fast_one() -> None:
    plan = plan_gears(question(Slo(p95_ms=60.0), 400.0))
    assert [gear.policy.accuracy for gear in plan.gears] == [0.97, 0.95]
    assert [gear.up_to_rps for gear in plan.gears] == [pytest.approx(400.0 / 3.0), None]
    # Weights are requests: shares 6/11, 3/11, 2/11 of the time at middle rates 1 : 3 : 5.
    assert plan.accuracy == pytest.approx((6 * 0.97 + 9 * 0.95 + 10 * 0.95) / 25.0)


def test_a_bin_in_which_no_time_is_spent_still_gets_the_best_policy_that_holds() -> None:
    rates = RateBins(np.array([0.0, 10.0, 100.0]), np.array([0.0, 1.0]), "histogram")
    plan = plan_gears(question(Slo(p95_ms=60.0), rates=rates))
    assert plan.gears[0].policy.accuracy == 0.97


def test_a_batch_trigger_is_raised_only_where_the_rate_needs_it() -> None:
    plan = plan_gears(question(Slo(p95_ms=20.0), 400.0))
    assert plan.gears[0].trigger.min_queue > 1
    slow = plan_gears(question(Slo(p95_ms=60.0), 60.0))
    assert [gear.trigger for gear in slow.gears] == [Trigger()]


def test_a_given_placement_stays() -> None:
    placement = np.array([[1, 0], [0, 1]], np.int64)
    plan = plan_gears(question(Slo(p95_ms=60.0), 60.0, placement=placement))
    assert (plan.count == placement).all()
    assert plan.accuracy < plan_gears(question(Slo(p95_ms=60.0), 60.0)).accuracy


CAUSES = [
    (question(Slo(p95_ms=60.0), 9000.0), "rate", "at 3000 rows/s: tiny > giant sustains at most"),
    (
        question(Slo(p95_ms=1.0), 60.0),
        "p95_ms",
        "no policy keeps p95_ms 1 up to 60 rows/s; at 60 rows/s the p95 is 2.3 ms",
    ),
    (
        question(Slo(accuracy=0.99), 60.0),
        "accuracy",
        "the mean accuracy over the planned rates is at best 0.97",
    ),
    (
        question(Slo(energy_j=0.001), 60.0),
        "energy_j",
        "the mean energy_j over the planned rates is at best 0.012",
    ),
    (question(Slo(p95_ms=60.0), 60.0, asked=problem((30, 30))), "memory", "giant"),
]


@pytest.mark.parametrize(("asked", "constraint", "message"), CAUSES, ids=[cause for _, cause, _ in CAUSES])
def test_what_cannot_be_had_is_said_with_its_cause(
    asked: GearQuestion, constraint: str, message: str
) -> None:
    with pytest.raises(Infeasible) as caught:
        plan_gears(asked)
    assert caught.value.constraint == constraint
    assert message in caught.value.message


def test_energy_that_nobody_knows_cannot_be_an_slo() -> None:
    asked = question(Slo(energy_j=1.0), 60.0)
    known = asked.forecast

    def without(count: IntArray, one: PredictedPolicy, rate: float, trigger: Trigger) -> Forecast:
        return replace(known(count, one, rate, trigger), energy_j=None)

    with pytest.raises(UsageError, match=r"gears\.slo\.energy_j: the energy of the tiers is not known"):
        plan_gears(replace(asked, forecast=without))


TWELVE = tuple(policy(cut / 100.0, 0.9 - 0.07 * cut, 0.98 - 0.01 * cut) for cut in range(12))


def test_many_bins_that_go_down_many_policies_take_few_rounds() -> None:
    """There are far more refusals than rounds."""
    placement = np.array([[1, 0], [1, 1]], np.int64)
    rates = zipf_bins(150.0, 24, 0.0)
    descents = Descents(question(Slo(p95_ms=13.0), rates=rates, policies=TWELVE))
    found = descents.descend({}, placement)
    assert len(found.refused) - len(descents.hopeless) > 100
    assert found.plan is not None
    assert found.plan.assigned[-1] == 11
    assert descents.rounds <= 50


def test_a_bin_keeps_a_policy_that_it_sustains_beside_one_that_just_does_not() -> None:
    """Both margins are within a percent of each other: one bin is refused, not its neighbour."""
    placement = np.array([[1, 0], [1, 1]], np.int64)
    asked = question(Slo(p95_ms=900.0))
    most = Queueing(asked.problem).rated(placement, POLICIES[0]) * asked.target_busy_share
    edges = np.array([0.0, 0.997 * most, 1.003 * most])
    asked = replace(asked, rates=RateBins(edges, np.array([0.1, 0.9]), "histogram"))
    descents = Descents(asked)
    found = descents.descend({}, placement)
    assert found.plan is not None
    assert set(found.refused) - set(descents.hopeless) == {(1, 0)}
    assert found.plan.assigned == (0, 1)


def test_what_is_refused_to_a_bin_is_refused_to_higher_rates() -> None:
    placement = np.array([[1, 0], [1, 0]], np.int64)
    descents = Descents(question(Slo(p95_ms=60.0), 400.0))
    found = descents.descend({}, placement)
    assert set(found.refused) - set(descents.hopeless)
    for number, one in found.refused:
        assert all((above, one) in found.refused for above in range(number, 3))


@pytest.mark.parametrize(
    ("assigned", "fixed", "pairs"),
    [
        ((0, 1), False, {(1, 1)}),  # the others' rates decide: what the lower bin could have is not known
        ((1, 1), False, {(0, 1), (1, 1)}),
        ((0, 1), True, {(0, 1), (1, 1)}),  # on this placement it would be too much for it, too
    ],
)
def test_a_lower_bin_is_refused_only_what_is_known_of_it(
    assigned: tuple[int, int], fixed: bool, pairs: set[tuple[int, int]]
) -> None:
    rates = RateBins(np.array([0.0, 90.0, 100.0]), np.array([0.5, 0.5]), "histogram")
    descents = Descents(question(Slo(p95_ms=60.0), rates=rates))
    refused = Refused(descents.question, descents.candidates, descents.worth, {}, {})
    # 76 rows/s are sustained in the higher bin.
    margins = np.array([1.2 if assigned[0] == 0 else 0.76 / 0.9 / 0.9, 0.76 / 0.9])
    refused.load(assigned, Common(np.array([[1, 0], [1, 0]]), margins), fixed)
    assert set(refused.causes) == pairs


@pytest.mark.parametrize("slo", [Slo(p95_ms=60.0), Slo(accuracy=0.9)], ids=["p95", "accuracy"])
def test_the_highest_rate_that_is_said_is_feasible_and_little_more_is_not(slo: Slo) -> None:
    with pytest.raises(Infeasible, match="the highest rate that is feasible is") as caught:
        plan_gears(question(slo, 9000.0))
    rate = caught.value.details["feasible_rps"]
    assert isinstance(rate, float)
    assert plan_gears(question(slo, rate)).gears
    with pytest.raises(Infeasible):
        plan_gears(question(slo, 1.1 * rate))


def test_an_slo_that_no_rate_keeps_is_said_to_be_one() -> None:
    with pytest.raises(
        Infeasible, match=r"no lower rate is feasible either \(down to 0.0585 rows/s\)"
    ) as caught:
        plan_gears(question(Slo(p95_ms=0.9), 60.0))
    assert caught.value.details["feasible_rps"] is None


def test_the_highest_rate_is_found_however_much_was_asked_for() -> None:
    found = {asked: highest.highest_rate(question(Slo(p95_ms=3.0), asked)) for asked in (9e3, 1e7)}
    assert found[1e7] is not None
    assert found[1e7] == pytest.approx(found[9e3], rel=0.03)


def test_no_rate_is_tried_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three bins 100 rows/s hold, of the highest alone 200: what is refused to the three stays so."""
    asked = question(Slo(p95_ms=60.0), 9000.0)
    tried: list[tuple[int, float]] = []

    def held(tried_for: GearQuestion, rate: float) -> bool:
        bins = len(tried_for.rates.shares)
        tried.append((bins, rate))
        return rate <= (200.0 if bins == 1 else 100.0)

    monkeypatch.setattr(highest, "_is_feasible", held)
    found = highest.highest_rate(asked)
    assert found is not None
    assert 97.0 <= found <= 100.0
    assert {bins for bins, _ in tried} == {1, 3}
    assert len(set(tried)) == len(tried)


def test_many_bins_and_policies_are_planned_in_few_rounds() -> None:
    plan = plan_gears(question(Slo(p95_ms=60.0), rates=zipf_bins(300.0, 9, 1.0), policies=TWELVE))
    assert plan.rounds <= 500
    assert len(plan.gears) > 3
