"""Whether a TensorRT plan will load: its record against GPUs and a server image."""

from __future__ import annotations

import pytest

from cascade_tools.artifacts import TensorRTPlan
from cascade_tools.machine import server_image
from cascade_tools.machine.gpus import Gpu
from cascade_tools.machine.server_image import tensorrt_of, version_in
from cascade_tools.stages.plans import mismatches

RECORD = TensorRTPlan(
    tensorrt="10.13.3.9",
    gpu="NVIDIA A30",
    compute_capability="8.0",
    flags=("STRONGLY_TYPED",),
    onnx_sha256="0" * 64,
    min_batch=1,
    opt_batch=16,
    max_batch=32,
)
A30, H200 = Gpu("NVIDIA A30", "8.0"), Gpu("NVIDIA H200", "9.0")


def test_a_plan_fits_the_gpus_and_the_server_that_it_was_built_for() -> None:
    assert mismatches(RECORD, [A30, A30], "10.13.3.9", 32) == []
    assert mismatches(RECORD, [A30], "10.13.3.9", 8) == []


@pytest.mark.parametrize(
    ("gpus", "server", "most", "problem"),
    [
        ([A30, H200], "10.13.3.9", 32, "built on NVIDIA A30 (8.0), placed on NVIDIA H200 (9.0)"),
        (
            [Gpu("NVIDIA A30", "8.6")],
            "10.13.3.9",
            32,
            "built on NVIDIA A30 (8.0), placed on NVIDIA A30 (8.6)",
        ),
        ([A30], "10.13.3.10", 32, "built by TensorRT 10.13.3.9, the server has 10.13.3.10"),
        ([A30], "10.13.3.9", 33, "built for 32 rows, serving.max_batch_size is 33"),
    ],
)
def test_what_does_not_fit_is_said(gpus: list[Gpu], server: str, most: int, problem: str) -> None:
    assert mismatches(RECORD, gpus, server, most) == [problem]


def test_all_problems_are_said_at_once_and_each_gpu_once() -> None:
    assert len(mismatches(RECORD, [H200, H200], "11.0.0.1", 64)) == 3


@pytest.mark.parametrize(
    ("lines", "version"),
    [
        (["PATH=/bin", "TRT_VERSION=10.9.0.34+cuda12.8"], "10.9.0.34"),
        (["TRT_VERSION=10.13.3.9"], "10.13.3.9"),
        (["TRT_VERSION="], None),
        (["broken", "PATH=/bin"], None),
    ],
)
def test_an_image_says_its_tensorrt(lines: list[str], version: str | None) -> None:
    assert version_in(lines) == version


def test_a_user_can_say_the_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(server_image.OWN, "10.13.3.9+cuda13.0")
    assert tensorrt_of("any") == "10.13.3.9"


def test_without_docker_and_without_a_word_it_cannot_be_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(server_image.OWN, raising=False)
    monkeypatch.setenv("PATH", "")
    assert tensorrt_of("any") is None
