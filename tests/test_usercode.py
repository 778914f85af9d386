"""What a cascade's own folder brings: callables and labelled rows, and how their faults are told."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cascade_tools.artifacts import InputSpec
from cascade_tools.errors import ArtifactError, UsageError
from cascade_tools.models.usercode import blame_user_code, call, load_callable, load_rows
from cascade_tools.spec import Cascade
from tests.helpers import spec_content, write_cascade


@pytest.fixture(autouse=True)
def imports_stay(tmp_path: Path) -> Iterator[None]:
    """Forget what a test imported from its own folder."""
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


GOOD_ROWS = """
    import numpy as np

    def validation():
        return {"X": np.zeros((4, 3), np.float32), "target": np.array([0, 1, 2, 0])}
"""


def cascade_with_rows(folder: Path, body: str) -> Cascade:
    """A cascade whose `data.validation` returns an expression."""
    source = f"import numpy as np\ndef validation():\n    return {body}\n"
    cascade = write_cascade(folder)
    (folder / "rows.py").write_text(source)
    return cascade


def test_a_callable_gives_rows(tmp_path: Path) -> None:
    rows = load_rows(write_cascade(tmp_path, files={"rows.py": GOOD_ROWS}), "validation")
    assert len(rows) == 4
    assert list(rows.inputs) == ["X"]
    assert rows.target.dtype == np.int64
    assert rows.group.tolist() == [0, 1, 2, 3]


def test_an_npz_gives_the_same_rows(tmp_path: Path) -> None:
    content = spec_content()
    content["data"] = {"validation": "rows.npz"}
    cascade = write_cascade(tmp_path, content)
    arrays: dict[str, Any] = {
        "X": np.arange(12, dtype=np.uint8).reshape(4, 3),
        "target": np.arange(4, dtype=np.int16),
        "group": np.array([5, 5, 6, 6], np.uint32),
    }
    np.savez(tmp_path / "rows.npz", **arrays)
    rows = load_rows(cascade, "validation")
    assert rows.inputs["X"].dtype == np.uint8
    assert rows.inputs["X"].tolist() == arrays["X"].tolist()
    assert rows.target.tolist() == [0, 1, 2, 3]
    assert rows.group.tolist() == [5, 5, 6, 6]
    assert rows.group.dtype == rows.target.dtype == np.int64


def test_rows_know_names_types_and_shapes_of_their_inputs(tmp_path: Path) -> None:
    body = (
        '{"PIXELS": np.zeros((2, 1, 8, 8), np.float32), "MASK": np.zeros((2, 5), bool), '
        '"target": np.zeros(2, int)}'
    )
    assert load_rows(cascade_with_rows(tmp_path, body), "validation").specs() == (
        InputSpec(name="PIXELS", datatype="FP32", dims=(1, 8, 8)),
        InputSpec(name="MASK", datatype="BOOL", dims=(5,)),
    )


def test_some_rows_are_taken_from_all_arrays(tmp_path: Path) -> None:
    body = '{"X": np.arange(8).reshape(4, 2), "target": np.arange(4), "group": np.array([9, 8, 7, 6])}'
    rows = load_rows(cascade_with_rows(tmp_path, body), "validation")
    for part in (rows.take(slice(1, 3)), rows.take(np.array([1, 2]))):
        assert part.inputs["X"].tolist() == [[2, 3], [4, 5]]
        assert part.target.tolist() == [1, 2]
        assert part.group.tolist() == [8, 7]


X = '"X": np.zeros((4, 3), np.float32)'
TARGET = '"target": np.arange(4)'
BAD_ROWS = {
    "not a dictionary": ("[1, 2]", "must give arrays by name, one of them 'target'"),
    "no target": (f"{{{X}}}", "must give arrays by name, one of them 'target'"),
    "no rows": (
        '{"X": np.zeros((0, 3), np.float32), "target": np.zeros(0, int)}',
        "the data set is empty",
    ),
    "a target of floats": (
        f'{{{X}, "target": np.zeros(4)}}',
        "'target' must be integers [rows], or [rows, tokens], found float64 [4]",
    ),
    "a target of truth values": (
        f'{{{X}, "target": np.zeros(4, bool)}}',
        "'target' must be integers [rows], or [rows, tokens], found bool [4]",
    ),
    "a target of three dimensions": (
        f'{{{X}, "target": np.zeros((4, 1, 1), int)}}',
        "'target' must be integers [rows], or [rows, tokens], found int64 [4, 1, 1]",
    ),
    "no input": (f"{{{TARGET}}}", "holds no input array beside target and group"),
    "an input without features": (
        f'{{"X": np.zeros(4, np.float32), {TARGET}}}',
        "input 'X' must be [4, ...], found float32 [4]",
    ),
    "an input of another length": (
        f'{{"X": np.zeros((5, 3), np.float32), {TARGET}}}',
        "input 'X' must be [4, ...], found float32 [5, 3]",
    ),
    "an input of complex numbers": (
        f'{{"X": np.zeros((4, 3), complex), {TARGET}}}',
        "input 'X' has dtype complex128; Triton takes float32",
    ),
    "an input of any objects": (
        f'{{"X": np.full((4, 3), None), {TARGET}}}',
        "input 'X' holds a NoneType; an object array may only hold texts",
    ),
    "an input name that needs quoting": (
        f"{{'X\"Y': np.zeros((4, 3), np.float32), {TARGET}}}",
        "letters, digits and _ . - only",
    ),
    "a group of another length": (
        f'{{{X}, {TARGET}, "group": np.arange(3)}}',
        "'group' must be integers [4], found int64 [3]",
    ),
    "a group of floats": (
        f'{{{X}, {TARGET}, "group": np.zeros(4)}}',
        "'group' must be integers [4], found float64 [4]",
    ),
}


@pytest.mark.parametrize(("body", "problem"), BAD_ROWS.values(), ids=BAD_ROWS)
def test_bad_rows_are_refused_with_the_field(tmp_path: Path, body: str, problem: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_rows(cascade_with_rows(tmp_path, body), "validation")
    assert caught.value.message.startswith("data.validation (rows:validation): ")
    assert problem in caught.value.message


def test_a_missing_field_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"data\.test: not given in .*cascade\.yaml"):
        load_rows(write_cascade(tmp_path), "test")


def test_a_missing_npz_is_named(tmp_path: Path) -> None:
    content = spec_content()
    content["data"] = {"validation": "rows.npz"}
    with pytest.raises(ArtifactError, match=r"rows\.npz: no such file"):
        load_rows(write_cascade(tmp_path, content), "validation")


def message_of(folder: Path, reference: str) -> str:
    with pytest.raises(UsageError) as caught:
        call(folder, reference, "tiers.small.source.torch")
    assert caught.value.message.startswith(f"tiers.small.source.torch: {reference}: ")
    return caught.value.message


def test_a_missing_module_is_named(tmp_path: Path) -> None:
    message = message_of(tmp_path, "no_such_module:make")
    assert "ModuleNotFoundError: No module named 'no_such_module'" in message


def test_a_missing_callable_is_named_with_the_file(tmp_path: Path) -> None:
    (tmp_path / "models.py").write_text("large = 3\n")
    for name in ("small", "large"):
        message = message_of(tmp_path, f"models:{name}")
        assert f"{tmp_path / 'models.py'} has no callable '{name}'" in message


def test_an_exception_is_told_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "models.py").write_text("def small():\n    values = []\n    return values[3]\n")
    message = message_of(tmp_path, "models:small")
    assert "IndexError: list index out of range" in message
    assert f"({tmp_path / 'models.py'}, line 3)" in message


def test_an_exception_on_import_is_told_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "models.py").write_text("\n\n1 / 0\n")
    message = message_of(tmp_path, "models:small")
    assert "ZeroDivisionError: division by zero" in message
    assert f"({tmp_path / 'models.py'}, line 3)" in message


def test_a_syntax_error_is_told_as_one_message(tmp_path: Path) -> None:
    (tmp_path / "models.py").write_text("def small(:\n")
    message = message_of(tmp_path, "models:small")
    assert "SyntaxError" in message
    assert "models.py" in message


def test_an_exception_keeps_its_cause() -> None:
    with pytest.raises(UsageError) as caught, blame_user_code("here"):
        raise ValueError("reason")
    assert isinstance(caught.value.__cause__, ValueError)


def test_a_usage_error_of_ours_passes_as_it_is() -> None:
    with pytest.raises(UsageError) as caught, blame_user_code("here"):
        raise UsageError("already clear")
    assert caught.value.message == "already clear"


def write_models(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "models.py").write_text(f"import words\ndef small():\n    return words.TEXT + {text!r}\n")
    (folder / "words.py").write_text(f"TEXT = {text!r}\n")
    return folder


def test_modules_of_the_same_name_in_two_cascades_do_not_mix(tmp_path: Path) -> None:
    # The name of the second folder begins with that of the first.
    first, second = write_models(tmp_path / "nets", "one"), write_models(tmp_path / "nets-2", "two")
    assert call(first, "models:small", "field") == "oneone"
    assert call(second, "models:small", "field") == "twotwo"
    assert call(first, "models:small", "field") == "oneone"


def test_packages_of_the_same_name_in_two_cascades_do_not_mix(tmp_path: Path) -> None:
    for name in ("first", "second"):
        package = tmp_path / name / "nets"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("")
        (package / "make.py").write_text(f"def small():\n    return {name!r}\n")
    for name in ("first", "second", "first"):
        assert call(tmp_path / name, "nets.make:small", "field") == name


def test_a_module_is_imported_once_per_cascade(tmp_path: Path) -> None:
    (tmp_path / "models.py").write_text(
        "calls = []\ndef small():\n    calls.append(1)\n    return len(calls)\n"
    )
    assert [call(tmp_path, "models:small", "field") for _ in range(3)] == [1, 2, 3]


def test_the_folder_comes_before_installed_packages(tmp_path: Path) -> None:
    (tmp_path / "yaml.py").write_text("def small():\n    return 'ours'\n")
    installed = sys.modules.pop("yaml")
    try:
        assert call(tmp_path, "yaml:small", "field") == "ours"
    finally:
        sys.modules["yaml"] = installed


def test_installed_packages_may_be_named(tmp_path: Path) -> None:
    assert load_callable(tmp_path, "json:dumps", "field")([1]) == "[1]"


def test_the_line_of_the_user_that_failed_is_named(tmp_path: Path) -> None:
    (tmp_path / "models.py").write_text("import json\ndef small():\n    return json.loads('{')\n")
    with pytest.raises(UsageError) as caught:
        call(tmp_path, "models:small", "f")
    assert f"({tmp_path / 'models.py'}, line 3)" in caught.value.message
