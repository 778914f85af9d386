"""Which policies become gears, and up to which rate each serves."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cascade_tools.artifacts import PredictedPolicy
from cascade_tools.planning.evaluate import threshold_policy
from cascade_tools.planning.gears import GearChoice, choose_gears


def predicted(cut: float, bound: float, cost: float, accuracy: float = 0.9) -> PredictedPolicy:
    return PredictedPolicy(
        table=threshold_policy(("tiny", "giant"), (cut,)),
        accuracy=accuracy,
        accuracy_drop=0.0,
        accuracy_drop_bound=bound,
        cost=cost,
        latency_mean_ms=1.0,
        reach={"tiny": 1.0, "giant": 0.5},
        answers={"tiny": 0.5, "giant": 0.5},
    )


CAREFUL = predicted(0.9, bound=0.0, cost=10.0)
MIDDLE = predicted(0.6, bound=0.5, cost=5.0)
CHEAP = predicted(0.3, bound=1.0, cost=2.0)
TOO_CHEAP = predicted(0.1, bound=1.1, cost=1.0)
ALL = (TOO_CHEAP, CHEAP, MIDDLE, CAREFUL)


def rate_of(policy: PredictedPolicy) -> float:
    """The cheaper a policy, the more a placement sustains."""
    return 1000.0 / policy.cost


def choose(
    policies: tuple[PredictedPolicy, ...] = ALL,
    allowance: float = 1.0,
    count: int = 2,
    reserve: float = 0.5,
    share: float = 0.8,
) -> tuple[GearChoice, ...]:
    return choose_gears(policies, allowance, count, reserve, share, rate_of)


def policies(gears: tuple[GearChoice, ...]) -> list[PredictedPolicy]:
    return [gear.policy for gear in gears]


def test_the_first_gear_keeps_the_reserve_and_the_last_spends_all() -> None:
    assert policies(choose(reserve=0.5)) == [MIDDLE, CHEAP]


def test_the_reserve_is_a_share_of_what_the_last_gear_spends() -> None:
    assert policies(choose(allowance=2.0, reserve=0.05)) == [CHEAP, TOO_CHEAP]
    assert policies(choose((MIDDLE, CAREFUL), reserve=0.1)) == [CAREFUL, MIDDLE]


def test_a_full_reserve_leaves_the_first_gear_nothing_to_spend() -> None:
    assert policies(choose(reserve=1.0)) == [CAREFUL, CHEAP]


def test_gears_between_lie_evenly_between() -> None:
    assert policies(choose(count=3, reserve=1.0)) == [CAREFUL, MIDDLE, CHEAP]


def test_a_single_gear_spends_the_whole_allowance() -> None:
    assert choose(count=1) == (GearChoice(CHEAP, None),)


def test_a_gear_serves_up_to_the_target_share_of_what_is_sustained() -> None:
    assert [gear.up_to_rps for gear in choose(share=0.8)] == [0.8 * 200.0, None]
    assert [gear.up_to_rps for gear in choose(share=0.5)] == [0.5 * 200.0, None]


def test_policies_that_coincide_are_merged() -> None:
    assert choose(policies=(CAREFUL, TOO_CHEAP), count=4) == (GearChoice(CAREFUL, None),)


def test_a_policy_above_the_allowance_is_never_used() -> None:
    for count in range(1, 6):
        assert TOO_CHEAP not in policies(choose(count=count, reserve=0.9))


def test_of_equal_cost_the_more_accurate_policy_is_taken() -> None:
    better = predicted(0.4, bound=1.0, cost=2.0, accuracy=0.95)
    assert policies(choose((CHEAP, better, CAREFUL), count=1)) == [better]


def test_a_gear_that_sustains_no_more_than_the_one_before_is_left_out() -> None:
    chosen = choose_gears(ALL, 1.0, 2, 0.5, 0.8, lambda policy: 100.0)
    assert chosen == (GearChoice(MIDDLE, None),)


candidates = st.lists(
    st.tuples(st.integers(0, 20), st.integers(-5, 20), st.integers(1, 50)), min_size=1, max_size=20
).map(lambda drawn: [predicted(c / 20, b / 10, float(cost)) for c, b, cost in drawn])


@given(
    candidates,
    st.floats(0.0, 2.0),
    st.integers(1, 8),
    st.floats(0.0, 1.0),
    st.integers(0, 100),
)
def test_gears_are_within_the_allowance_and_their_rates_rise(
    drawn: list[PredictedPolicy], allowance: float, count: int, reserve: float, seed: int
) -> None:
    reference = predicted(1.0, bound=0.0, cost=60.0)

    def rate(policy: PredictedPolicy) -> float:
        return float(hash((policy.cost, policy.table.routes[0].cuts, seed)) % 1000)

    gears = choose_gears([*drawn, reference], allowance, count, reserve, 0.8, rate)
    assert 1 <= len(gears) <= count
    assert all(gear.policy.accuracy_drop_bound <= allowance for gear in gears)
    assert gears[-1].up_to_rps is None
    limits = [gear.up_to_rps for gear in gears[:-1]]
    assert limits == [0.8 * rate(gear.policy) for gear in gears[:-1]]
    rising = [limit for limit in limits if limit is not None]
    assert rising == sorted(set(rising))
    assert len({gear.policy.table for gear in gears}) == len(gears)
    costs = [gear.policy.cost for gear in gears]
    assert costs == sorted(costs, reverse=True)
