"""Which part may import which; read from the syntax trees, so nothing heavy is imported."""

from __future__ import annotations

import ast
import inspect
import re
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

from cascade_tools import errors

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "tools" / "cascade_tools"
TEMPLATES = ROOT / "templates"

FOUNDATION = {"errors", "spec", "artifacts", "store", "resources", "runtime"}
COMMON = FOUNDATION | {"__init__", "planning", "machine", "repository"}
# Unit (module or folder below the package) -> units that it may import.
ALLOWED: dict[str, set[str]] = {
    "__init__": set(),
    "errors": set(),
    "runtime": {"runtime"},
    "backends": {"backends"},
    "starter": set(),
    "resources": FOUNDATION,
    "spec": FOUNDATION,
    "artifacts": FOUNDATION,
    "store": FOUNDATION,
    "planning": {"errors", "artifacts", "spec", "runtime", "planning"},
    "machine": FOUNDATION | {"machine"},
    "repository": FOUNDATION | {"__init__", "backends", "repository"},
    "serving": COMMON | {"serving"},
    "models": COMMON | {"backends", "models"},
    "stages": COMMON | {"models", "serving", "stages"},
    "scoring": COMMON | {"models", "serving", "stages", "scoring"},
    "report": COMMON | {"models", "serving", "stages", "scoring", "report"},
    "cli": COMMON | {"models", "serving", "stages", "scoring", "report", "cli"},
}
DISTRIBUTIONS = {
    "google": "protobuf",
    "onnx_ir": "onnx-ir",
    "pynvml": "nvidia-ml-py",
    "pytriton": "nvidia-pytriton",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}
GIVEN_BY_TRITON = "triton_python_backend_utils"
# What Python 3.10 does not have, by module; an empty set is the whole module.
AFTER_3_10 = {
    "tomllib": set[str](),
    "typing": {
        "Self",
        "Never",
        "LiteralString",
        "Unpack",
        "TypeVarTuple",
        "assert_never",
        "override",
    },
    "enum": {"StrEnum", "verify"},
    "datetime": {"UTC"},
    "asyncio": {"TaskGroup", "Runner", "timeout"},
    "contextlib": {"chdir"},
}


class Import(NamedTuple):
    """One imported name; `module` is absolute, `name` is empty for `import module`."""

    module: str
    name: str

    @property
    def top(self) -> str:
        return self.module.partition(".")[0]

    @property
    def unit(self) -> str | None:
        """The unit of ours that is imported, None for what is not ours."""
        if self.top != "cascade_tools":
            return None
        parts = [*self.module.split(".")[1:], self.name]
        if (PACKAGE / parts[0]).is_dir() or (PACKAGE / f"{parts[0]}.py").is_file():
            return parts[0]
        return "__init__"


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def unit_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def files_of(unit: str) -> list[Path]:
    return [path for path in ALL_FILES if unit_of(path) == unit]


def imports_of(path: Path) -> Iterator[Import]:
    package = ("cascade_tools", *path.relative_to(PACKAGE).parent.parts)
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, "")
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                yield Import(module, alias.name)


def calls_and_attributes(path: Path) -> set[str]:
    """Names of called functions, and dotted attributes such as `np.random.seed`."""
    found = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            found.add(node.func.id)
        if isinstance(node, ast.Attribute):
            found.add(ast.unparse(node))
    return found


ALL_FILES = sorted(PACKAGE.rglob("*.py"))
UNITS = sorted({unit_of(path) for path in ALL_FILES})
OUTSIDE_STARTER = [path for path in ALL_FILES if unit_of(path) != "starter"]


def test_imports_are_found() -> None:
    seen = set(imports_of(PACKAGE / "runtime" / "router.py"))
    assert Import("cascade_tools.runtime.policy", "route") in seen
    assert Import("cascade_tools.runtime", "metrics") in seen
    assert Import("numpy", "") in seen
    assert Import("cascade_tools", "resources").unit == "resources"
    assert Import("cascade_tools", "__version__").unit == "__init__"


def test_every_unit_has_a_place_in_the_table() -> None:
    assert set(UNITS) <= set(ALLOWED)


@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_imports_only_what_it_may(unit: str) -> None:
    found = {
        (path.name, entry.unit)
        for path in files_of(unit)
        for entry in imports_of(path)
        if entry.unit is not None and entry.unit not in ALLOWED[unit]
    }
    assert not found


def test_units_form_no_cycle() -> None:
    graph = {
        unit: {e.unit for p in files_of(unit) for e in imports_of(p) if e.unit not in (None, unit)}
        for unit in UNITS
    }
    assert list(TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("path", files_of("planning"), ids=lambda path: path.name)
def test_planning_does_not_touch_the_world(path: Path) -> None:
    forbidden = {"os", "pathlib", "time", "subprocess", "random", "io", "socket", "datetime"}
    assert not {entry.top for entry in imports_of(path)} & forbidden
    used = calls_and_attributes(path)
    assert "open" not in used
    random = {name for text in used for name in re.findall(r"^(?:np|numpy)\.random\.(\w+)", text)}
    assert random <= {"default_rng", "Generator"}
    assert "np.random.default_rng()" not in ast.unparse(tree(path))


@pytest.mark.parametrize("path", files_of("runtime"), ids=lambda path: path.name)
def test_runtime_needs_only_the_standard_library_and_numpy(path: Path) -> None:
    outside = {
        entry.top
        for entry in imports_of(path)
        if entry.unit is None and entry.top not in sys.stdlib_module_names
    }
    allowed = {"numpy", GIVEN_BY_TRITON} if path.name == "model.py" else {"numpy"}
    assert outside <= allowed


@pytest.mark.parametrize("path", files_of("runtime"), ids=lambda path: path.name)
def test_runtime_imports_itself_only_relatively(path: Path) -> None:
    absolute = [
        node.lineno
        for node in ast.walk(tree(path))
        if (isinstance(node, ast.ImportFrom) and not node.level and "cascade" in str(node.module))
        or (isinstance(node, ast.Import) and any("cascade" in a.name for a in node.names))
    ]
    assert not absolute


@pytest.mark.parametrize("path", files_of("runtime") + files_of("backends"), ids=lambda path: path.name)
def test_what_runs_inside_triton_is_python_3_10(path: Path) -> None:
    ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 10))
    too_new = [
        entry
        for entry in imports_of(path)
        if entry.module in AFTER_3_10
        and (not AFTER_3_10[entry.module] or entry.name in AFTER_3_10[entry.module])
    ]
    assert not too_new


def declared() -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    # Optional ones too: what needs them says so when they are missing.
    optional = project["optional-dependencies"]
    lines = [*project["dependencies"], *optional["embedded"], *optional["tensorrt"]]
    names = [re.match(r"[A-Za-z0-9._-]+", line) for line in lines]
    return {match.group().lower() for match in names if match}


@pytest.mark.parametrize("path", OUTSIDE_STARTER, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_declared_distributions_are_imported(path: Path) -> None:
    foreign = {
        entry.top
        for entry in imports_of(path)
        if entry.unit is None and entry.top not in sys.stdlib_module_names and entry.top != GIVEN_BY_TRITON
    }
    assert {DISTRIBUTIONS.get(name, name) for name in foreign} <= declared()


@pytest.mark.parametrize(
    "error",
    [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if kind.__module__ == errors.__name__],
    ids=lambda kind: kind.__name__,
)
def test_every_error_is_a_cascade_error_with_an_exit_code(error: type[errors.CascadeError]) -> None:
    assert issubclass(error, errors.CascadeError)
    assert 1 <= error.exit_code <= 4


def test_every_template_is_used() -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for path in ALL_FILES)
    left = {path.relative_to(TEMPLATES).as_posix(): path for path in TEMPLATES.rglob("*.j2")}
    assert left
    # A template is used by the code, or by a template that is used.
    while used := {name for name in left if f'"{name}"' in text}:
        text += "\n".join(left.pop(name).read_text(encoding="utf-8") for name in used)
    assert not left
