"""One small real cascade, planned once and served once per session."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cascade_tools.artifacts import GearPlan
from cascade_tools.errors import EnvironmentLacks
from cascade_tools.models.usercode import Rows, load_rows
from cascade_tools.serving.embedded import Server, embedded_triton
from cascade_tools.serving.triton_wheel import find_triton
from cascade_tools.spec import load_cascade
from cascade_tools.stages.gears import GEARS_FILE
from cascade_tools.stages.pipeline import run_all
from cascade_tools.stages.progress import Reporter
from cascade_tools.stages.train import train
from cascade_tools.store import Workspace

from ..cli_calls import forgotten_user_code
from .helpers import (
    plan_path,
    policy_of_all_tiers,
    run_tiers,
    to_bytes,
    with_policies,
)

HERE = Path(__file__).parent
ANY_RATE = 1e9


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.integration)


@pytest.fixture(scope="session")
def report() -> Reporter:
    return Reporter(Console(quiet=True))


@pytest.fixture(scope="session")
def small(one_hop: None, tmp_path_factory: pytest.TempPathFactory, report: Reporter) -> Workspace:
    """The small cascade, trained, planned and built; tests that change it use `copied`.

    Where tests run in several processes, the first makes it and the others wait for it.
    """
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    folder = root / "small" / "cascade"
    with (root / "small.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (root / "small.made").exists():
            shutil.rmtree(folder.parent, ignore_errors=True)  # of a process that failed halfway
            shutil.copytree(HERE / "small", folder, ignore=shutil.ignore_patterns("__pycache__"))
            make(folder, report)
            (root / "small.made").touch()
    cascade = load_cascade(folder)
    return Workspace(cascade, folder.parent / "build" / cascade.name)


def make(folder: Path, report: Reporter) -> None:
    """Train a cascade and run every stage."""
    cascade = load_cascade(folder)
    with forgotten_user_code():
        train(cascade, [], 0, None, report)
        run_all(Workspace(cascade, folder.parent / "build" / cascade.name), "embedded", report)


@pytest.fixture
def copied(small: Workspace, tmp_path: Path) -> Iterator[Workspace]:
    """A copy of the small cascade and of everything derived from it, to be changed."""
    folder, build = tmp_path / "cascade", tmp_path / "build" / small.cascade.name
    shutil.copytree(small.cascade.folder, folder)
    shutil.copytree(small.build, build, symlinks=True)
    with forgotten_user_code():
        yield Workspace(load_cascade(folder), build)


@pytest.fixture
def repository(small: Workspace, tmp_path: Path) -> Path:
    """A copy of the built repository, to be served or broken."""
    return shutil.copytree(small.path("repository") / "current", tmp_path / "repository")


@pytest.fixture(scope="session")
def triton() -> None:
    """The real server, without which nothing here can be tested."""
    try:
        find_triton()
    except EnvironmentLacks as error:
        pytest.skip(f"NOT TESTED AGAINST A REAL TRITON: {error.message}; {error.hint}")


@pytest.fixture(scope="session")
def rows(small: Workspace) -> Rows:
    """The test rows of the small cascade."""
    with forgotten_user_code():
        return load_rows(small.cascade, "test")


@pytest.fixture(scope="session")
def tiers(small: Workspace, rows: Rows) -> tuple[Any, Any, Any]:
    """What every tier says of every test row: label, confidence, probabilities."""
    return run_tiers(small, rows)


@pytest.fixture(scope="session")
def built_plan(small: Workspace) -> GearPlan:
    """The gear plan as the chain made it; which tiers it uses depends on measured times."""
    return small.load(GEARS_FILE, GearPlan, "gears")


@pytest.fixture(scope="session")
def plan(built_plan: GearPlan, small: Workspace, tiers: tuple[Any, Any, Any]) -> GearPlan:
    """A plan whose gear uses all three tiers, with a skip, at any rate that a test can send."""
    policy = policy_of_all_tiers(small.cascade.tier_names, tiers[1])
    return with_policies(built_plan, (policy, ANY_RATE), (policy, None))


@pytest.fixture(scope="session")
def served(small: Workspace, plan: GearPlan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository of the session's server: the built one with the plan of all tiers."""
    copy = tmp_path_factory.mktemp("served") / "repository"
    shutil.copytree(small.path("repository") / "current", copy)
    plan_path(copy).write_bytes(to_bytes(plan))
    return copy


@pytest.fixture(scope="session")
def server(triton: None, served: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The session's server."""
    log = tmp_path_factory.mktemp("log") / "triton.log"
    with embedded_triton(served, log=log) as running:
        yield running
