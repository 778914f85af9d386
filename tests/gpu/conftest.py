"""Skips what needs a GPU where there is none, and says so."""

from __future__ import annotations

import pytest

from cascade_tools.machine.gpus import find_gpus


@pytest.fixture
def gpu() -> str:
    """The name of the first GPU that torch can use."""
    gpus = find_gpus()
    if not gpus:
        pytest.skip("NOT TESTED ON A GPU: there is none here, or no driver")
    import torch

    if not torch.cuda.is_available():
        pytest.skip(f"NOT TESTED ON A GPU: torch {torch.__version__} cannot use {gpus[0].name}")
    return gpus[0].name
