"""Settings that all tests share."""

from __future__ import annotations

import functools
import importlib
import os
import sys
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

# The same examples on every machine and every run; `HYPOTHESIS_PROFILE=search` looks for new ones.
settings.register_profile(
    "same",
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("search", settings.get_profile("same"), derandomize=False)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))

LONGEST = ("test_demo.py", "test_cli.py", "test_train.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first, so that of two processes none still works on one when the other has nothing left."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


@pytest.fixture(scope="session")
def one_hop() -> Iterator[None]:
    """The first profile measures a call between models on a real server; the others take what it found."""
    profile = importlib.import_module("cascade_tools.stages.profile")  # most tests need none of its imports
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(profile, "measure_hop_and_router", functools.cache(profile.measure_hop_and_router))
        yield


@pytest.fixture(scope="session", autouse=True)
def _one_registry() -> Iterator[None]:
    """torch reads its table of ONNX operators anew for every export: most of the time of a small model."""
    with pytest.MonkeyPatch.context() as patch:
        if "torch" in sys.modules:  # otherwise nothing here exports
            registry = importlib.import_module("torch.onnx._internal.exporter._registration").ONNXRegistry
            patch.setattr(registry, "from_torchlib", staticmethod(functools.cache(registry.from_torchlib)))
        yield
