"""What `watch` says at its end: why nothing was applied, and when an alarm that has gone was raised."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

import pytest

from cascade_tools.cli.watch import Called, _last_words, _why_not_applied
from cascade_tools.planning.rate_test import RatePlan
from cascade_tools.spec import Histogram

from .test_watch import watched

AT = datetime(2026, 1, 2, 3, 4, 5)


class Seen(NamedTuple):
    """Of a `Watcher`, what the last words are made of."""

    windows: int = 40
    replans: int = 0
    replan_windows: int = 10

    def measured(self) -> Histogram:
        return Histogram(edges_rps=(0.0, 110.0), shares=(1.0,))


@pytest.mark.parametrize(
    ("seen", "called", "apply", "words"),
    [
        (Seen(replans=1), {"rates": AT}, True, None),
        (Seen(), {"rates": AT}, False, "--apply was not given"),
        (Seen(), {}, True, "no alarm"),
        (Seen(), {"compute:giant": AT, "utilization:cpu": AT}, True, "place or profile again"),
        (Seen(windows=4), {"rates": AT}, True, "4 windows are too few"),
    ],
)
def test_it_says_why_nothing_was_applied(seen: Seen, called: Called, apply: bool, words: str | None) -> None:
    why = _why_not_applied(seen, called, apply)  # type: ignore[arg-type]
    assert why is None if words is None else words in (why or "")


def last_words(rows: float, called: Called) -> str:
    findings = watched(40, RatePlan.below(200.0), rows=rows)
    return "\n".join(_last_words(Seen(), findings, called, True))  # type: ignore[arg-type]


def test_without_traffic_nothing_is_as_planned() -> None:
    assert "nothing arrived" in last_words(0.0, {})
    assert "as planned" not in last_words(0.0, {})
    assert last_words(100.0, {}) == "all is as planned"


def test_an_alarm_that_has_gone_is_told_with_its_time() -> None:
    words = last_words(100.0, {"utilization:gpu 0": AT})
    assert "utilization:gpu 0 was raised at 03:04:05" in words
    assert "not applied: " in words
    assert "was raised at" not in last_words(600.0, {"rates": AT}), "that one stands in the tables"
