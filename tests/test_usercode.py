"""Labelled rows and callables of the user's own: loaded, checked, and blamed by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cascade_tools.artifacts import InputSpec
from cascade_tools.errors import UsageError
from cascade_tools.stages.usercode import Rows, load_callable, load_rows

from .helpers import write_cascade


def rows_from(folder: Path, body: str) -> Rows:
    """Rows of a callable whose body is given; numpy is `np`."""
    content = {
        "name": "one",
        "tiers": [{"name": "only", "source": {"torch": "nets:only"}}],
        "data": {"validation": "own_rows:validation"},
        "devices": "devices.yaml",
    }
    code = f"import numpy as np\n\ndef validation():\n    {body}\n"
    return load_rows(write_cascade(folder, content, {"own_rows.py": code}), "validation")


def test_rows_come_with_their_specs_and_a_group_each(tmp_path: Path) -> None:
    rows = rows_from(
        tmp_path,
        "return {'X': np.ones((3, 2), np.float32), 'IDS': np.ones((3, 5), np.int64), 'target': np.arange(3)}",
    )
    assert len(rows) == 3
    assert rows.group.tolist() == [0, 1, 2]
    assert rows.specs() == (
        InputSpec(name="X", datatype="FP32", dims=(2,)),
        InputSpec(name="IDS", datatype="INT64", dims=(5,)),
    )
    assert rows.take(slice(1, 3)).target.tolist() == [1, 2]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return [1, 2]", "must give arrays by name, one of them 'target'"),
        ("return {'X': np.ones((3, 2), np.float32)}", "one of them 'target'"),
        ("return {'X': np.ones((0, 2), np.float32), 'target': np.arange(0)}", "the data set is empty"),
        ("return {'target': np.arange(3)}", "holds no input array"),
        (
            "return {'X': np.ones((3, 2), np.float32), 'target': np.ones(3)}",
            r"'target' must be integers \[rows\], found float64 \[3\]",
        ),
        (
            "return {'X': np.ones((2, 2), np.float32), 'target': np.arange(3)}",
            r"input 'X' must be \[3, ...\], found float32 \[2, 2\]",
        ),
        (
            "return {'X': np.ones(3, np.float32), 'target': np.arange(3)}",
            r"input 'X' must be \[3, ...\], found float32 \[3\]",
        ),
        ("return {'X': np.ones((3, 2), complex), 'target': np.arange(3)}", "input 'X' has dtype complex128"),
        ("return {'X\\n}': np.ones((3, 2), np.float32), 'target': np.arange(3)}", "letters, digits"),
        (
            "return {'X': np.ones((3, 2), np.float32), 'target': np.arange(3), 'group': np.arange(2)}",
            r"'group' must be integers \[3\], found int64 \[2\]",
        ),
        ("raise RuntimeError('no disk')", r"RuntimeError: no disk \(.*own_rows.py, line 4\)"),
    ],
)
def test_rows_that_do_not_fit_are_refused_by_name(tmp_path: Path, body: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        rows_from(tmp_path, body)
    assert "data.validation" in str(caught.value)


def test_rows_from_an_npz_refuse_pickled_objects(tmp_path: Path) -> None:
    content = {
        "name": "one",
        "tiers": [{"name": "only", "source": {"torch": "nets:only"}}],
        "data": {"validation": "rows.npz"},
        "devices": "devices.yaml",
    }
    cascade = write_cascade(tmp_path, content)
    with pytest.raises(UsageError, match=r"rows\.npz: no such file"):
        load_rows(cascade, "validation")
    np.savez(tmp_path / "rows.npz", X=np.ones((3, 2), np.float32), target=np.arange(3))
    assert len(load_rows(cascade, "validation")) == 3
    np.savez(tmp_path / "rows.npz", X=np.array([{}, {}]), target=np.arange(2))
    with pytest.raises(UsageError, match=r"rows\.npz: not an \.npz of plain arrays"):
        load_rows(cascade, "validation")
    with pytest.raises(UsageError, match=r"data\.test: not given"):
        load_rows(cascade, "test")


def test_a_missing_module_and_a_missing_callable_are_named(tmp_path: Path) -> None:
    (tmp_path / "some_nets.py").write_text("def only(): return 1\nnumber = 3\n")
    with pytest.raises(UsageError, match=r"train: no_such_module:f: ModuleNotFoundError"):
        load_callable(tmp_path, "no_such_module:f", "train")
    for name in ("absent", "number"):
        with pytest.raises(UsageError, match=rf"some_nets\.py has no callable '{name}'"):
            load_callable(tmp_path, f"some_nets:{name}", "train")


def test_equal_module_names_of_two_cascades_do_not_mix(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "same_helper.py").write_text(f"NAME = {name!r}\n")
        (tmp_path / name / "same_nets.py").write_text(
            "import same_helper\ndef who(): return same_helper.NAME\n"
        )
    for name in ("a", "b", "a"):
        assert load_callable(tmp_path / name, "same_nets:who", "train")() == name
