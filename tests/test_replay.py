"""What a replay says of itself: lateness, the course over time, the gear at a time, the page."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import numpy as np
import pytest

from cascade_tools.planning.outcomes import Outcomes
from cascade_tools.planning.traces.course import course, window_for
from cascade_tools.planning.traces.lateness import judge
from cascade_tools.report.replay_page import write_replay
from cascade_tools.serving.alarm import Alarm
from cascade_tools.serving.gear_samples import GearSamples
from cascade_tools.stages.replay import ReplayReport

NAN = float("nan")


def test_a_generator_that_keeps_its_times_is_valid() -> None:
    lateness = judge(np.full(100, 0.2), np.full(100, 5.0))
    assert lateness.valid
    assert (lateness.p50_ms, lateness.max_ms, lateness.allowed_ms) == (0.2, 0.2, 2.0)


def test_a_few_late_requests_are_allowed_but_not_many() -> None:
    latency = np.full(1000, 5.0)
    few, many = np.full(1000, 0.1), np.full(1000, 0.1)
    few[:9], many[:20] = 9.0, 9.0
    assert judge(few, latency).valid
    assert not judge(many, latency).valid


def test_more_lateness_is_allowed_where_answers_take_long() -> None:
    late = np.full(100, 9.0)
    assert not judge(late, np.full(100, 80.0)).valid
    assert judge(late, np.full(100, 120.0)).valid
    # Requests without an answer say nothing about how long answers take.
    assert not judge(late, np.full(100, NAN)).valid


@pytest.fixture
def outcomes() -> Outcomes:
    return Outcomes(
        arrival_s=np.array([0.1, 0.2, 0.9, 2.0, 2.5]),
        latency_ms=np.array([10.0, 30.0, NAN, 5.0, 50.0]),
        tier=np.array([0, 1, -1, 0, 1]),
        correct=np.array([True, False, False, True, True]),
        gear=np.array([0, 0, 1, 1, -1]),
    )


def test_the_course_tells_every_window(outcomes: Outcomes) -> None:
    first, second, third = course(outcomes, slo_ms=20.0)
    assert (first.second, first.arrived, first.answered) == (0.0, 3.0, 2.0)
    assert first.goodput == pytest.approx(1 / 3)
    assert (first.accuracy, first.p50_ms, first.gear) == (0.5, 20.0, 0)
    assert (second.arrived, second.goodput, second.p50_ms, second.gear) == (0.0, None, None, None)
    assert (third.second, third.goodput, third.accuracy, third.gear) == (2.0, 0.5, 1.0, 1)
    (whole,) = course(outcomes, slo_ms=20.0, window_s=5.0)
    assert (whole.arrived, whole.goodput) == (1.0, 0.4)


def test_long_traces_have_longer_windows() -> None:
    assert [window_for(seconds) for seconds in (0.5, 600.0, 601.0, 86_400.0)] == [1.0, 1.0, 2.0, 144.0]


def test_the_gear_at_a_time_is_the_last_one_seen() -> None:
    seen = GearSamples([1.0, 2.0, 3.0], [0, 1, 0])
    assert seen.at(np.array([0.5, 1.0, 1.9, 2.5, 9.0])).tolist() == [-1, 0, 0, 1, 0]
    assert seen.since(1.0).time_s == [0.0, 1.0, 2.0]
    assert GearSamples().at(np.array([1.0])).tolist() == [-1]


def test_a_fallback_is_none_of_the_gears() -> None:
    seen = GearSamples([0.0, 1.0], [0, -1]).at(np.array([0.5, 1.5]))
    assert seen.tolist() == [0, -1]
    served = Outcomes(np.array([0.5, 1.5]), np.ones(2), np.zeros(2, np.int64), np.ones(2, bool), seen)
    assert [moment.gear for moment in course(served, slo_ms=20.0)] == [0, None]


def test_the_alarm_never_rings_early() -> None:
    async def ring() -> list[float]:
        rang: list[float] = []
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        begin_s = time.perf_counter()
        due_s = iter([begin_s + 0.004, begin_s - 1.0])  # the second has passed: it rings at once

        def on_ring() -> None:
            rang.append(time.perf_counter() - begin_s)
            following = next(due_s, None)
            if following is None:
                done.set_result(None)
            else:
                alarm.set(following)

        alarm = Alarm(loop, on_ring)
        try:
            alarm.set(begin_s + 0.002)
            await asyncio.wait_for(done, 30)
        finally:
            alarm.close()
        return rang

    rang = asyncio.run(ring())
    assert len(rang) == 3
    assert rang[0] >= 0.002
    assert rang[1] >= 0.004


def test_the_page_holds_the_figures_and_the_picture(outcomes: Outcomes, tmp_path: Path) -> None:
    lateness = judge(np.full(5, 9.0), outcomes.latency_ms)
    report = ReplayReport(
        cascade="digits",
        requests=5,
        rows_from="data.test",
        seed=0,
        seconds=2.5,
        mean_rps=2.0,
        peak_rps=3.0,
        slo_ms=20.0,
        slo_from="given",
        goodput=0.4,
        throughput_rps=2.0,
        accuracy=0.75,
        p50_ms=20.0,
        p95_ms=47.0,
        p99_ms=49.4,
        shares={"tiny": 0.5, "giant": 0.5},
        refused=1,
        failed=0,
        errors=(),
        energy_j=None,
        energy_origin=None,
        no_meter="no meter here",
        server_cpu_ms=None,
        generator_cpu_ms=0.4,
        lateness=lateness,
        valid=lateness.valid,
        window_s=1.0,
        over_time=course(outcomes, 20.0),
    )
    page = write_replay(tmp_path / "out", report, "trace <b>bold</b>.csv")
    text = page.read_text()
    assert "the generator lagged" in text
    assert "no meter here" in text
    assert "<b>bold</b>" not in text  # names of files are no markup
    assert "SLO 20 ms" in text
    picture = (tmp_path / "out" / "replay.svg").read_text()
    assert picture.startswith("<svg")
    assert ">gear<" in picture
    content = json.loads((tmp_path / "out" / "replay.json").read_text())
    assert content["goodput"] == 0.4
    assert content["over_time"][1]["p50_ms"] is None
    again = write_replay(tmp_path / "again", report, "trace <b>bold</b>.csv")
    assert again.read_text() == text
