"""From pages of Triton's metrics to findings: what is as planned, and what is an alarm."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from cascade_tools.planning.rate_test import RatePlan
from cascade_tools.planning.watch import (
    FEWEST_WINDOWS,
    Findings,
    Planned,
    PlannedDevice,
    PlannedTier,
    Reading,
    Watch,
    window_between,
)
from cascade_tools.serving.load_page import load_of
from cascade_tools.stages.watch import measured_rates

TIERS = {"small": "c_small", "giant": "c_giant"}
GPU = "GPU-1"


def page(
    *,
    rows: float = 0.0,
    refused: float = 0.0,
    waiting: float = 0.0,
    small: float = 0.0,
    giant: float = 0.0,
    batches: float = 0.0,
    compute_s: float = 0.0,
    gpu: float | None = None,
    giant_models: tuple[str, ...] = ("c_giant",),
) -> str:
    """What Triton 2.51 shows; `small` is run by the router itself."""
    lines = [
        "# HELP nv_inference_count Number of inferences performed (does not include cached requests)",
        "# TYPE nv_inference_count counter",
        f'nv_inference_count{{model="c",version="1"}} {rows}',
        'nv_inference_count{model="other",version="1"} 1e9',
        f'nv_inference_request_success{{model="c",version="1"}} {rows / 2 - refused}',
        f'nv_inference_request_failure{{model="c",reason="OTHER",version="1"}} {refused}',
        f'nv_inference_pending_request_count{{model="c",version="1"}} {waiting}',
        'nv_inference_count{model="c_small",version="1"} 0',
        'nv_inference_exec_count{model="c_small",version="1"} 0',
        f'cascade_answers{{model="c",tier="small"}} {small - giant}',
        f'cascade_answers{{model="c",tier="giant"}} {giant}',
        f'cascade_escalations{{model="c",source="small",target="giant"}} {giant}',
        'cascade_answers{model="d",tier="small"} 1e9',
        'cascade_gear{model="c"} 1',
    ]
    for model in giant_models:
        lines += [
            f'nv_inference_count{{model="{model}",version="1"}} {giant}',
            f'nv_inference_exec_count{{model="{model}",version="1"}} {batches}',
            f'nv_inference_compute_infer_duration_us{{model="{model}",version="1"}} {compute_s * 1e6}',
        ]
    if gpu is not None:
        lines.append(f'nv_gpu_utilization{{gpu_uuid="{GPU}"}} {gpu}')
    return "\n".join(lines) + "\n"


def planned(rates: RatePlan) -> Planned:
    """A giant of 8 ms a row, 10 and 16 ms for batches of 2 and 4, that keeps half of the device busy."""
    giant = PlannedTier(np.array([8.0, 10.0, 13.0, 16.0]), 0.004, {0: 1.0}, {0: 0.5})
    small = PlannedTier(np.array([0.1, 0.1, 0.1, 0.1]), 0.0001, {0: 1.0}, {0: 0.5})
    return Planned(rates, {"small": small, "giant": giant}, (PlannedDevice("gpu 0", GPU),))


def watched(
    seconds: int,
    rates: RatePlan | None = None,
    *,
    rows: float = 100.0,
    batch_ms: float = 8.0,
    gpu: float | None = None,
) -> Findings:
    """Pages of a server that answers `rows` a second, a quarter of them by the giant, one by one."""
    watch = Watch(planned(rates or RatePlan.below(200.0)), 1.0, 1.0, 0.01)
    before: Reading | None = None
    for second in range(seconds + 1):
        giant = second * rows / 4
        text = page(
            rows=second * rows,
            small=second * rows,
            giant=giant,
            batches=giant,
            compute_s=giant * batch_ms / 1e3,
            gpu=gpu,
        )
        now = load_of(text, "c", TIERS, float(second))
        window = None if before is None else window_between(before, now)
        before = now
        if window is not None:
            watch.add(window)
    return watch.findings()


def test_a_page_gives_what_came_and_who_worked() -> None:
    text = page(
        rows=60.0, refused=4.0, waiting=3.0, small=50.0, giant=20.0, batches=5.0, compute_s=0.25, gpu=0.5
    )
    reading = load_of(text, "c", TIERS, 7.0)
    assert reading.rows == 66.0  # two rows a request, refused ones and three waiting requests included
    assert reading.requests == 33.0
    assert reading.asked == {"small": 50.0, "giant": 20.0}
    assert reading.work["giant"].executions == 5.0
    assert reading.work["giant"].compute_s == pytest.approx(0.25)
    assert reading.gpu_utilization == {GPU: 0.5}
    assert reading.gear == 1


def test_stages_of_a_tier_are_added_up() -> None:
    text = page(
        rows=8.0, giant=8.0, batches=2.0, compute_s=0.1, giant_models=("c_giant_s1of2", "c_giant_s2of2")
    )
    work = load_of(text, "c", TIERS, 0.0).work["giant"]
    assert (work.rows, work.executions) == (8.0, 2.0)
    assert work.compute_s == pytest.approx(0.2)


def test_a_page_of_another_server_is_refused() -> None:
    with pytest.raises(KeyError):
        load_of(page(), "d", {}, 0.0)


def test_a_server_that_was_started_again_gives_no_window() -> None:
    before, after = (load_of(page(rows=rows), "c", TIERS, at) for rows, at in ((100.0, 0.0), (30.0, 1.0)))
    assert window_between(before, after) is None
    window = window_between(after, replace(before, at_s=3.0))
    assert window is not None
    assert window.rate_rps == pytest.approx(35.0)


def test_a_quiet_window_behind_a_burst_is_no_restart() -> None:
    """Waiting rows are in execution at the second reading: they wait no more and are not counted yet."""
    burst, quiet, later = (
        load_of(page(rows=rows, waiting=waiting), "c", TIERS, at)
        for at, (rows, waiting) in enumerate([(100.0, 30.0), (110.0, 0.0), (180.0, 0.0)])
    )
    assert quiet.rows < burst.rows
    window = window_between(burst, quiet)
    assert window is not None
    assert (window.rows, window.requests) == (0.0, 0.0)
    # What waited has been seen: it does not come a second time.
    window = window_between(quiet.after(burst), later)
    assert window is not None
    assert window.rows == later.rows - burst.rows == 20.0


def test_what_is_as_planned_gives_no_alarm() -> None:
    findings = watched(40, gpu=0.12)
    assert findings.alarms == ()
    (giant,) = findings.tiers
    assert (giant.tier, giant.batch) == ("giant", 1.0)
    assert giant.compute_ms == pytest.approx(8.0)
    assert giant.planned_ms == 8.0
    (device,) = findings.devices
    # 25 batches of 8 ms on half of the device, and 100 rows of the small tier of .1 ms.
    assert device.planned == pytest.approx(25 * 0.008 * 0.5 + 100 * 0.0001 * 0.5)
    assert device.asked == pytest.approx(device.planned)
    assert device.shown == 0.12


def test_a_rate_above_the_planned_maximum_is_an_alarm() -> None:
    findings = watched(5, rows=600.0)
    assert "rates" in findings.alarms
    assert findings.rates.exceeded
    assert findings.rates.largest_rps == 600.0


def test_rates_below_the_maximum_that_lie_otherwise_are_an_alarm() -> None:
    mostly_low = RatePlan(200.0, np.array([0.0, 50.0, 200.0]), np.array([0.97, 0.03]))
    findings = watched(40, mostly_low, rows=150.0)
    assert findings.alarms == ("rates",)
    assert not findings.rates.exceeded
    assert findings.rates.share == (0.0, 1.0, 0.0)


def test_a_tier_that_takes_longer_is_an_alarm() -> None:
    assert watched(10, batch_ms=11.5).alarms == ()
    findings = watched(10, batch_ms=13.0)
    assert findings.alarms == ("compute:giant",)


def test_a_moment_says_nothing_of_compute_times() -> None:
    findings = watched(FEWEST_WINDOWS - 1, batch_ms=80.0)
    assert findings.tiers == ()
    assert findings.devices == ()


def test_kernels_that_ask_for_more_than_the_device_are_an_alarm() -> None:
    findings = watched(10, RatePlan.below(4000.0), rows=1200.0)  # 300 batches of 8 ms on half of it
    assert findings.alarms == ("utilization:gpu 0",)
    assert findings.devices[0].asked > 1.0


def test_a_gpu_that_is_busier_than_its_work_is_an_alarm_unless_by_little() -> None:
    assert watched(10, gpu=0.2).alarms == ()  # twice the plan, but a tenth of the device
    findings = watched(10, gpu=0.4)
    assert findings.alarms == ("utilization:gpu 0",)
    assert findings.devices[0].shown == 0.4


def test_without_traffic_nothing_is_an_alarm_and_all_are_numbers() -> None:
    findings = watched(50, rows=0.0)
    assert findings.alarms == ()
    assert math.isfinite(findings.rates.above)
    assert findings.rates.mean_rps == 0.0


def test_measured_rates_are_a_distribution_to_plan_for() -> None:
    found = measured_rates(np.array([0.0, 10.0, 90.0, 100.0]), 4)
    assert found.edges_rps == pytest.approx((0.0, 27.5, 55.0, 82.5, 110.0))
    assert found.shares == (0.5, 0.0, 0.0, 0.5)
