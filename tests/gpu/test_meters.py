"""Energy and utilization of a GPU under a load of matrix products; skipped loudly elsewhere."""

from __future__ import annotations

import time

import pytest

from cascade_tools.errors import EnvironmentLacks
from cascade_tools.machine.meters import EnergyWatch, find_meter, measure_idle_watts
from cascade_tools.machine.nvml import NvmlPower, open_gpus
from cascade_tools.machine.utilization import measured_utilization
from cascade_tools.spec import DeviceGroup

pytestmark = pytest.mark.gpu

GPU = DeviceGroup(type="here", kind="gpu", memory_mib=1000)
LOAD_S = 3.0


@pytest.fixture(autouse=True)
def _gpu() -> None:
    import torch

    try:
        open_gpus(0)
    except EnvironmentLacks as error:
        pytest.skip(error.message)
    if not torch.cuda.is_available():
        pytest.skip(f"torch {torch.__version__} sees no GPU")


def load(seconds: float, pause_s: float = 0.0) -> None:
    """Matrix products, one after the other, each waited for."""
    import torch

    matrix = torch.ones(4096, 4096, device="cuda")
    ends_s = time.monotonic() + seconds
    while time.monotonic() < ends_s:
        torch.mm(matrix, matrix)
        torch.cuda.synchronize()
        time.sleep(pause_s)


def test_the_counter_rises_under_load_by_more_than_the_idle_power() -> None:
    meter = find_meter("gpu", gpu=0)
    assert meter is not None
    load(0.5)
    time.sleep(1.0)
    idle_watts = measure_idle_watts(meter)
    watch = EnergyWatch(meter, idle_watts)
    load(LOAD_S)
    spent = watch.stop()
    meter.close()
    assert idle_watts > 0.0
    assert spent.total_j > spent.dynamic_j > 0.0
    assert spent.idle_share is not None
    assert 0.0 < spent.idle_share < 1.0


def test_integrated_power_agrees_with_the_counter() -> None:
    counter = find_meter("gpu", gpu=0)
    if counter is None or counter.name != "nvml":
        pytest.skip("this GPU has no energy counter")
    power = NvmlPower(open_gpus(0))
    load(0.5)
    by_counter, by_power = EnergyWatch(counter, 0.0), EnergyWatch(power, 0.0)
    load(LOAD_S)
    counted, integrated = by_counter.stop().total_j, by_power.stop().total_j
    power.close()
    counter.close()
    assert integrated == pytest.approx(counted, rel=0.25)


def test_utilization_by_cupti_and_nvml_agree_roughly() -> None:
    load(0.5)
    with measured_utilization(GPU) as traced:
        load(LOAD_S)
    with measured_utilization(GPU, by="nvml") as sampled:
        load(LOAD_S)
    assert (traced.by, sampled.by) == ("cupti", "nvml")
    assert 0.0 < traced.share <= 1.0
    assert 0.0 < sampled.share <= 1.0
    assert traced.share == pytest.approx(sampled.share, abs=0.25)


def test_a_gpu_that_waits_is_less_utilized() -> None:
    load(0.5)
    with measured_utilization(GPU) as busy:
        load(1.0)
    with measured_utilization(GPU) as waiting:
        load(1.0, pause_s=0.1)
    assert waiting.share < busy.share
