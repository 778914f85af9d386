"""Test rows are kept as long as nothing that they come from has changed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cascade_tools.spec import load_cascade
from cascade_tools.stages.kept_rows import TEST_ROWS_FILE, load_test_rows
from cascade_tools.store import Workspace

from .cli_calls import forgotten_user_code
from .token_pair import write_token_pair


@pytest.fixture
def work(tmp_path: Path) -> Workspace:
    return Workspace(load_cascade(write_token_pair(tmp_path / "tokens")), tmp_path / "build" / "tokens")


def load(work: Workspace) -> dict[str, object]:
    with forgotten_user_code():
        rows = load_test_rows(work)
    return {**rows.inputs, "target": rows.target, "group": rows.group}


def assert_same(one: dict[str, object], other: dict[str, object]) -> None:
    assert one.keys() == other.keys()
    for name, values in one.items():
        np.testing.assert_array_equal(values, other[name])  # type: ignore[arg-type]


def test_kept_rows_are_those_of_the_data_code(work: Workspace) -> None:
    first = load(work)
    kept = work.path(TEST_ROWS_FILE).stat().st_mtime_ns
    assert_same(load(work), first)
    assert work.path(TEST_ROWS_FILE).stat().st_mtime_ns == kept


def test_changed_data_code_makes_them_anew(work: Workspace) -> None:
    first = load(work)
    module = work.cascade.folder / "token_pair.py"
    module.write_text(module.read_text().replace("drawn(1, 100)", "drawn(1, 50)"))
    assert len(load(work)["target"]) == 50 < len(first["target"])  # type: ignore[arg-type]


def test_a_broken_file_is_made_again(work: Workspace) -> None:
    first = load(work)
    work.path(TEST_ROWS_FILE).write_bytes(b"nothing")
    assert_same(load(work), first)
