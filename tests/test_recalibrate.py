"""New cuts: as much disagreement as planned, and not a row more escalated than that takes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascade_tools.artifacts import PolicyTable, Recalibrated, Route, RoutingPolicy, ScoreTable, Spread
from cascade_tools.errors import UsageError
from cascade_tools.planning.drift import SampledRows
from cascade_tools.planning.drift_of_plan import answered_by_all, compare, served_by
from cascade_tools.planning.evaluate import evaluate, follow, threshold_policy
from cascade_tools.planning.recalibrate import planned_answers, refit

from .tables import question_of, table_of
from .test_drift import rows_of

PAIR = threshold_policy(("base", "giant"), (0.5,))
SHARE = 0.05
END = Route(cuts=(), to=(-1,))


def cut_of(policy: PolicyTable) -> float:
    return policy.routes[0].cuts[-1]


def refitted(
    rows: SampledRows,
    policy: PolicyTable = PAIR,
    share: float = SHARE,
    searched: PolicyTable | None = None,
) -> PolicyTable:
    return refit(policy, searched or policy, {"base": share}, {"base": rows})[0]


def spread_rows(differs_below: float, lowest: float = 0.5, count: int = 500) -> SampledRows:
    """Evenly spread confidences; every other row below a confidence differs."""
    confidence = np.linspace(lowest, 1.0, count)
    return rows_of((confidence < differs_below) & (np.arange(count) % 2 == 0), confidence)


def test_rows_that_agree_leave_the_cut_where_it_is() -> None:
    assert refitted(spread_rows(0.0)) == PAIR


def test_a_tier_without_rows_keeps_its_cut() -> None:
    assert refit(PAIR, PAIR, {"base": SHARE}, {})[0] == PAIR
    assert refitted(rows_of([])) == PAIR


def test_the_cut_rises_to_where_the_planned_share_is_kept() -> None:
    rows = spread_rows(0.7)
    policy, (change,) = refit(PAIR, PAIR, {"base": SHARE}, {"base": rows})
    assert 0.6 < change.cut < 0.7
    assert change.cut == cut_of(policy)
    assert change.disagreement <= SHARE
    assert change.kept == pytest.approx((rows.confidence >= change.cut).mean())
    lower = rows.where(rows.confidence >= change.cut - 0.02)
    assert lower.disagreement > SHARE, "no lower cut would have done"


def test_rows_from_below_the_cut_may_lower_it_to_what_was_searched() -> None:
    low, middle = threshold_policy(("base", "giant"), (0.1,)), threshold_policy(("base", "giant"), (0.4,))
    rows = spread_rows(0.0, lowest=0.3)
    assert cut_of(refitted(rows, searched=low)) == pytest.approx(0.3)
    assert cut_of(refitted(rows, searched=middle)) == pytest.approx(0.4, abs=0.005)
    assert refitted(rows, searched=PAIR) == PAIR
    assert 0.3 < cut_of(refitted(spread_rows(0.4, lowest=0.3), searched=low)) < 0.4


def test_where_no_cut_keeps_the_share_the_tier_answers_nothing() -> None:
    policy, (change,) = refit(
        PAIR, PAIR, {"base": SHARE}, {"base": rows_of(np.ones(200), np.linspace(0.5, 1, 200))}
    )
    assert cut_of(policy) > 1.0
    assert change.kept == 0.0
    assert change.disagreement == 0.0


def test_few_rows_that_agree_are_no_reason_to_move() -> None:
    assert refitted(spread_rows(0.0, count=10)) == PAIR
    assert refitted(spread_rows(0.0, count=10), share=0.0) == PAIR


def test_few_rows_are_not_enough_to_trust_a_higher_cut() -> None:
    """Five agreeing rows above many that differ do not show that fewer than 5 % differ there."""
    assert cut_of(refitted(spread_rows(0.99, count=250))) > 1.0


def test_equal_confidences_stay_together() -> None:
    confidence = np.repeat([0.6, 0.9], 100)
    rows = rows_of((confidence < 0.8) & (np.arange(200) % 4 == 0), confidence)
    assert cut_of(refitted(rows)) == pytest.approx(0.9)


def test_lower_bands_stay_below_the_new_cut_and_keep_their_destinations() -> None:
    skips = PolicyTable(
        tiers=("tiny", "base", "giant"),
        routes=(Route(cuts=(0.4, 0.5), to=(2, 1, -1)), Route(cuts=(0.5,), to=(2, -1)), END),
    )
    rows = spread_rows(0.0, lowest=0.3)
    lower = skips.model_copy(update={"routes": (Route(cuts=(0.2, 0.3), to=(2, 1, -1)), *skips.routes[1:])})
    new, _ = refit(skips, lower, {"tiny": SHARE, "base": SHARE}, {"tiny": rows})
    assert new.routes[0].to == skips.routes[0].to
    assert new.routes[0].cuts == pytest.approx((0.3, 0.3), abs=0.005)
    assert new.routes[1:] == skips.routes[1:]


@given(
    st.lists(st.tuples(st.booleans(), st.floats(0.0, 1.0, width=32)), max_size=60),
    st.floats(0.0, 0.5),
    st.floats(0.0, 1.0, width=32),
)
def test_any_log_gives_a_legal_policy_within_the_planned_share(
    drawn: list[tuple[bool, float]], share: float, cut: float
) -> None:
    policy = threshold_policy(("base", "giant"), (cut,))
    rows = rows_of([differs for differs, _ in drawn], [confidence for _, confidence in drawn])
    new, changes = refit(policy, policy, {"base": share}, {"base": rows})
    for change in changes:
        assert change.disagreement <= share
        assert change.cut == cut_of(new)
        assert 0.0 <= change.kept <= 1.0


def test_only_what_a_tier_answered_is_planned_for_it() -> None:
    table = table_of(
        confidence=[[0.9, 1.0], [0.9, 1.0], [0.2, 1.0], [np.nan, 1.0]],
        label=[[1, 1], [2, 1], [0, 1], [0, 1]],
        target=[1, 1, 1, 1],
        group=[0, 1, 2, 3],
    )
    found = planned_answers(table, PAIR)
    assert set(found) == {"base"}
    assert found["base"].agrees.tolist() == [True, False]
    assert found["base"].group.tolist() == [0, 1]
    assert found["base"].from_confidence(0.95).agrees.tolist() == []


def test_with_several_gears_only_rows_that_all_answer_are_compared() -> None:
    careful = threshold_policy(("base", "giant"), (0.8,))
    assert answered_by_all([PAIR, careful]) == {"base": pytest.approx(0.8)}
    assert answered_by_all([PAIR, threshold_policy(("giant",), ())]) == {}


def test_a_tier_that_other_rows_reach_in_another_gear_is_not_compared() -> None:
    def chain(tiny: float, base: float) -> PolicyTable:
        return threshold_policy(("tiny", "base", "giant"), (tiny, base))

    assert set(answered_by_all([chain(0.5, 0.6), chain(0.5, 0.8)])) == {"tiny", "base"}
    assert set(answered_by_all([chain(0.5, 0.6), chain(0.7, 0.6)])) == {"tiny"}
    assert set(answered_by_all([chain(0.5, 0.6), PAIR])) == set()


def test_a_tier_that_never_answers_is_not_compared() -> None:
    assert answered_by_all([threshold_policy(("base", "giant"), (1.5,))]) == {}


def test_where_the_log_says_the_gear_its_most_used_is_compared() -> None:
    careful = threshold_policy(("base", "giant"), (0.8,))
    rows = SampledRows(
        time=np.arange(5.0),
        confidence=np.full(5, 0.9),
        agrees=np.ones(5, bool),
        weight=np.ones(5),
        gear=np.array([1, 1, 0, 1, 0]),
        largest_weight=1.0,
    )
    used, logged = served_by([PAIR, careful], {"base": rows})
    assert used == [careful]
    assert len(logged["base"]) == 3
    with pytest.raises(UsageError, match=r"rows of gear 1, the plan has 1 gear\(s\)"):
        served_by([PAIR], {"base": rows})
    unknown = rows_of(np.zeros(4))
    assert served_by([PAIR, careful], {"base": unknown}) == ([PAIR, careful], {"base": unknown})


# Against a plan with several gears

ROWS = 4000
CAREFUL = threshold_policy(("tiny", "base", "giant"), (0.9, 0.8))
CHOSEN = threshold_policy(("tiny", "base", "giant"), (0.7, 0.8))


def plan_rows(seed: int) -> ScoreTable:
    """Tiers that differ from the giant where their confidence is low."""
    rng = np.random.default_rng(seed)
    confidence = rng.beta(4, 1, (ROWS, 3))
    differs = rng.random((ROWS, 3)) > confidence**0.1
    label = np.where(differs, 1, 0)
    label[:, 2] = 0
    return table_of(confidence, label, np.zeros(ROWS))


def routing_policy(table: ScoreTable, chosen: PolicyTable, *others: PolicyTable) -> RoutingPolicy:
    predicted = [evaluate(table, policy, question_of(1, 2, 9)) for policy in (chosen, *others)]
    return RoutingPolicy(
        cascade="c",
        made_from={},
        chosen=predicted[0],
        reference=evaluate(table, threshold_policy(("giant",), ()), question_of(1, 2, 9)),
        alternatives=tuple(predicted),
        certified=False,
        max_accuracy_drop=1.0,
        confidence=0.95,
        cost_unit="ms per row",
        search_rows=ROWS,
        verify_rows=ROWS,
    )


def log_of(table: ScoreTable, served: PolicyTable, gear: int) -> dict[str, SampledRows]:
    answered = follow(table, served).answered
    return {
        tier: rows_of(table.label[mine, own] != table.label[mine, 2], table.confidence[mine, own], gear=gear)
        for own, tier in enumerate(("tiny", "base"))
        for mine in [answered[:, own]]
    }


@pytest.mark.parametrize("says_gear", [True, False])
@pytest.mark.parametrize(("served", "gear"), [(CHOSEN, 1), (CAREFUL, 0)])
def test_traffic_like_the_plan_s_has_not_drifted_whichever_gear_served_it(
    served: PolicyTable, gear: int, says_gear: bool
) -> None:
    planned, now = plan_rows(0), plan_rows(1)
    policy = routing_policy(planned, CHOSEN, CAREFUL)
    log = log_of(now, served, gear if says_gear else -1)
    used, logged = served_by([CAREFUL, CHOSEN], log)
    tiers = {tier.tier: tier for tier in compare(planned, policy, used, logged, 0.01)}
    assert not any(tier.drifted for tier in tiers.values())
    assert tiers["tiny"].agreement is not None
    assert tiers["base"].comparable is says_gear


def test_a_tier_that_the_first_log_hardly_held_is_compared_with_the_plan_later() -> None:
    planned = plan_rows(0)
    policy = routing_policy(planned, CHOSEN)
    once = Recalibrated(
        shadow_sha256="",
        rows={"tiny": 60},
        first_time=0.0,
        last_time=1.0,
        searched=(CHOSEN, CHOSEN),
        spread={"tiny": Spread(confidence=tuple(np.linspace(0.7, 1.0, 50).tolist()), rows=60.0)},
    )
    policy = policy.model_copy(update={"recalibrated": once})
    found = compare(planned, policy, [CHOSEN], log_of(plan_rows(1), CHOSEN, 0), 0.01)
    assert {tier.tier: tier.drifted for tier in found}["base"] is False
