"""What can only be seen on a machine with a GPU; skipped loudly elsewhere."""

import subprocess

import pynvml
import pytest

from cascade_tools.serving.environment import describe_environment

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def _gpu() -> None:
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        pytest.skip(f"no NVIDIA GPU here: {error}")
    pynvml.nvmlShutdown()


def test_env_lists_the_gpus_that_nvidia_smi_lists() -> None:
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    names = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    found = next(fact.value for fact in describe_environment() if fact.key == "gpus")
    assert isinstance(found, list)
    assert [entry.rpartition(",")[0] for entry in found] == [name.strip() for name in names]
