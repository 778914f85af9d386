"""Routes for the cascade without a tier, or without a device."""

from __future__ import annotations

import numpy as np
import pytest

from cascade_tools.planning.evaluate import Evaluator
from cascade_tools.planning.fallbacks import losses, policy_without
from cascade_tools.planning.search import search
from tests.tables import NAMES, question_of, random_table

TABLE = random_table(seed=3, rows=400)
QUESTION = question_of(1.0, 3.0, 20.0, drop=2.0)


@pytest.mark.parametrize("lost", NAMES)
def test_a_lost_tier_is_never_asked(lost: str) -> None:
    policy = policy_without(TABLE, QUESTION, {lost})
    assert policy is not None
    assert lost not in policy.table.tiers


@pytest.mark.parametrize("lost", ["tiny", "base"])
def test_without_a_smaller_tier_the_allowance_is_kept_at_a_price(lost: str) -> None:
    whole = search(TABLE, QUESTION).best
    policy = policy_without(TABLE, QUESTION, {lost})
    assert whole is not None and policy is not None
    assert policy.accuracy_drop <= 2.0
    assert Evaluator(TABLE, QUESTION)(whole).cost <= policy.cost < 20.0


def test_without_the_last_tier_the_drop_is_still_told_against_it() -> None:
    policy = policy_without(TABLE, QUESTION, {"giant"})
    assert policy is not None
    right = TABLE.label == TABLE.target[:, None]
    assert policy.table.tiers[-1] == "base"
    assert policy.accuracy_drop == pytest.approx(100.0 * (right[:, 2].mean() - policy.accuracy))
    assert policy.accuracy >= right[:, 1].mean() - 0.02


def test_where_the_bounds_cannot_be_kept_the_largest_of_the_others_answers_alone() -> None:
    tight = question_of(1.0, 3.0, 20.0, drop=-50.0)
    policy = policy_without(TABLE, tight, {"giant"})
    assert policy is not None
    assert policy.table.tiers == ("base",)


def test_without_any_tier_there_is_no_policy() -> None:
    assert policy_without(TABLE, QUESTION, set(NAMES)) is None


def test_every_used_tier_can_be_lost_and_an_unused_one_does_not_matter() -> None:
    assert losses({"tiny", "giant"}, [(), ("base",)]) == (frozenset({"giant"}), frozenset({"tiny"}))


def test_what_loses_its_home_together_is_planned_for_together() -> None:
    homeless = [("tiny",), (), ("medium", "large"), ("tiny", "base")]
    found = losses({"tiny", "large", "medium"}, homeless)
    assert found[3:] == (frozenset({"base", "tiny"}), frozenset({"large", "medium"}))
    assert len(found) == 5


def test_the_question_keeps_its_order_of_tiers() -> None:
    """A restricted table must be searched with the costs of its own tiers."""
    dear_middle = question_of(1.0, 100.0, 20.0, drop=2.0)
    policy = policy_without(TABLE, dear_middle, {"tiny"})
    assert policy is not None
    assert policy.table.tiers == ("giant",)
    assert np.isclose(policy.cost, 20.0)
