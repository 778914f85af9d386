"""New cuts: as much disagreement as planned, and not a row more escalated than that takes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascade_tools.artifacts import PolicyTable, Route
from cascade_tools.planning.drift import SampledRows
from cascade_tools.planning.evaluate import threshold_policy
from cascade_tools.planning.recalibrate import planned_answers, refit
from cascade_tools.stages.recalibrate import answered_by_all

from .tables import table_of
from .test_drift import rows_of

PAIR = threshold_policy(("base", "giant"), (0.5,))
SHARE = 0.05
END = Route(cuts=(), to=(-1,))


def cut_of(policy: PolicyTable) -> float:
    return policy.routes[0].cuts[-1]


def refitted(rows: SampledRows, policy: PolicyTable = PAIR, share: float = SHARE) -> PolicyTable:
    return refit(policy, {"base": share}, {"base": rows})[0]


def spread_rows(differs_below: float, lowest: float = 0.5, count: int = 500) -> SampledRows:
    """Evenly spread confidences; every other row below a confidence differs."""
    confidence = np.linspace(lowest, 1.0, count)
    return rows_of((confidence < differs_below) & (np.arange(count) % 2 == 0), confidence)


def test_rows_that_agree_leave_the_cut_where_it_is() -> None:
    assert refitted(spread_rows(0.0)) == PAIR


def test_a_tier_without_rows_keeps_its_cut() -> None:
    assert refit(PAIR, {"base": SHARE}, {})[0] == PAIR
    assert refitted(rows_of([])) == PAIR


def test_the_cut_rises_to_where_the_planned_share_is_kept() -> None:
    rows = spread_rows(0.7)
    policy, (change,) = refit(PAIR, {"base": SHARE}, {"base": rows})
    assert 0.6 < change.cut < 0.7
    assert change.cut == cut_of(policy)
    assert change.disagreement <= SHARE
    assert change.kept == pytest.approx((rows.confidence >= change.cut).mean())
    lower = rows.where(rows.confidence >= change.cut - 0.02)
    assert lower.disagreement > SHARE, "no lower cut would have done"


def test_rows_from_below_the_cut_may_lower_it() -> None:
    assert cut_of(refitted(spread_rows(0.0, lowest=0.3))) == pytest.approx(0.3)
    assert 0.3 < cut_of(refitted(spread_rows(0.4, lowest=0.3))) < 0.4


def test_where_no_cut_keeps_the_share_the_tier_answers_nothing() -> None:
    policy, (change,) = refit(
        PAIR, {"base": SHARE}, {"base": rows_of(np.ones(200), np.linspace(0.5, 1, 200))}
    )
    assert cut_of(policy) > 1.0
    assert change.kept == 0.0
    assert change.disagreement == 0.0


def test_few_rows_are_not_enough_to_trust_a_cut() -> None:
    """Ten rows that agree do not show that fewer than 5 % differ."""
    assert cut_of(refitted(spread_rows(0.0, count=10))) > 1.0


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
    new, _ = refit(skips, {"tiny": SHARE, "base": SHARE}, {"tiny": rows})
    assert new.routes[0].to == skips.routes[0].to
    assert new.routes[0].cuts == pytest.approx((0.3, 0.3))
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
    new, changes = refit(policy, {"base": share}, {"base": rows})
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
    assert found["base"].disagreement == 0.5
    assert found["base"].group.tolist() == [0, 1]
    assert found["base"].from_confidence(0.95).disagreement == 0.0


def test_with_several_gears_only_rows_that_all_answer_are_compared() -> None:
    careful = threshold_policy(("base", "giant"), (0.8,))
    alone = threshold_policy(("giant",), ())
    assert answered_by_all([PAIR, careful, alone]) == {"base": 0.8}
