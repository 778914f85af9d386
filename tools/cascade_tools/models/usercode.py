"""Loads what a cascade's own folder brings: callables and labelled rows.

A reference `module:callable` is looked up in the cascade's folder first and then among the installed
packages. The user's code is trusted as the user's own Python is; data files are not (no pickle).
"""

from __future__ import annotations

import importlib
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cascade_tools.artifacts import InputSpec, IntArray
from cascade_tools.errors import CascadeError, UsageError
from cascade_tools.spec import NOT_INPUTS, Cascade
from cascade_tools.store import load_npz, text_as_bytes

# Where code stands that a user did not write: this package, Python and what is installed.
NOT_THE_USERS = ("<", sys.prefix, sys.base_prefix, str(Path(__file__).resolve().parents[1]))
# The exporter of torch speaks of its steps first; what failed stands below this.
EXPORTER_HEADING = "## Exception summary"
EXPORTER_END = "(Refer to the full stack trace"
LONGEST_REASON = 600
DATATYPES = {
    "float32": "FP32",
    "float16": "FP16",
    "float64": "FP64",
    "int64": "INT64",
    "int32": "INT32",
    "int8": "INT8",
    "uint8": "UINT8",
    "bool": "BOOL",
    "object": "BYTES",  # texts, once `load_rows` has read them
}
OUTPUTS = ("LABEL", "CONFIDENCE", "PROBS", "TIER", "FLAGS")
INPUT_NAME = re.compile(r"[A-Za-z_][\w.-]*")  # it ends up in config.pbtxt


@dataclass(frozen=True)
class Rows:
    """Labelled rows: `inputs` name -> [rows, ...], `target` int64 [rows], `group` int64 [rows].

    Where tokens are labelled, `target` is [rows, tokens], -1 for a token that does not count.
    """

    inputs: dict[str, npt.NDArray[Any]]
    target: IntArray
    group: IntArray

    def __len__(self) -> int:
        return len(self.target)

    def take(self, index: npt.NDArray[Any] | slice) -> Rows:
        """The rows of an index, mask or slice."""
        inputs = {name: values[index] for name, values in self.inputs.items()}
        return Rows(inputs, self.target[index], self.group[index])

    def specs(self) -> tuple[InputSpec, ...]:
        """Name, Triton datatype and dims (without the batch) of every input."""
        return tuple(
            InputSpec(name=name, datatype=DATATYPES[values.dtype.name], dims=values.shape[1:])
            for name, values in self.inputs.items()
        )


def _row_count(arrays: dict[str, Any]) -> int:
    """Rows of data without labels."""
    first = next((np.asarray(v) for name, v in arrays.items() if name not in NOT_INPUTS), np.zeros(0))
    return len(first) if first.ndim else 0


def load_rows(cascade: Cascade, field: str) -> Rows:
    """Read `data.validation` or `data.test`.

    Raises:
        UsageError: the reference does not load, an array has the wrong shape or kind, or there are no rows.
    """
    reference = getattr(cascade.data, field)
    where = f"data.{field} ({reference})"
    if reference is None:
        raise UsageError(f"data.{field}: not given in {cascade.folder / 'cascade.yaml'}")
    if reference.endswith(".npz"):
        arrays = load_npz(cascade.folder / reference)
    else:
        arrays = call(cascade.folder, reference, f"data.{field}")
    if not isinstance(arrays, dict):
        raise UsageError(f"{where}: must give arrays by name, one of them 'target'")
    if "target" not in arrays:
        if field != "validation" or cascade.data.labels == "target":
            raise UsageError(f"{where}: must give arrays by name, one of them 'target'")
        arrays = {**arrays, "target": np.zeros(_row_count(arrays), np.int64)}
    with blame_user_code(where):
        arrays = {str(name): np.asarray(values) for name, values in arrays.items()}
    target = arrays["target"]
    if target.ndim not in (1, 2) or target.dtype.kind not in "iu":
        raise UsageError(
            f"{where}: 'target' must be integers [rows], or [rows, tokens], found {_shape(target)}"
        )
    if len(target) == 0:
        raise UsageError(f"{where}: the data set is empty")
    inputs = {name: values for name, values in arrays.items() if name not in NOT_INPUTS}
    inputs = {name: _with_texts(name, values, where) for name, values in inputs.items()}
    _check_inputs(inputs, len(target), where)
    group = arrays.get("group", np.arange(len(target)))
    if group.shape != target.shape[:1] or group.dtype.kind not in "iu":
        raise UsageError(f"{where}: 'group' must be integers [{len(target)}], found {_shape(group)}")
    return Rows(inputs, target.astype(np.int64), group.astype(np.int64))


def _check_inputs(inputs: dict[str, npt.NDArray[Any]], rows: int, where: str) -> None:
    if not inputs:
        raise UsageError(f"{where}: holds no input array beside {' and '.join(NOT_INPUTS)}")
    for name, values in inputs.items():
        if not INPUT_NAME.fullmatch(name):
            raise UsageError(f"{where}: input {name!r}: letters, digits and _ . - only")
        if name in OUTPUTS:
            raise UsageError(f"{where}: input {name!r}: the name of an output of the cascade; choose another")
        if values.ndim < 2 or len(values) != rows:
            raise UsageError(f"{where}: input {name!r} must be [{rows}, ...], found {_shape(values)}")
        if values.dtype.name not in DATATYPES:
            raise UsageError(
                f"{where}: input {name!r} has dtype {values.dtype}; Triton takes "
                f"{', '.join(name for name in DATATYPES if name != 'object')}, or texts"
            )


def _with_texts(name: str, values: npt.NDArray[Any], where: str) -> npt.NDArray[Any]:
    try:
        return text_as_bytes(values)
    except ValueError as error:
        raise UsageError(f"{where}: input {name!r} {error}") from None


def _shape(values: npt.NDArray[Any]) -> str:
    return f"{values.dtype} {list(values.shape)}"


def call(folder: Path, reference: str, field: str) -> Any:
    """Call a callable without arguments.

    Raises:
        UsageError: it does not load or it raises; the last line of the user's own code is named.
    """
    function = load_callable(folder, reference, field)
    with blame_user_code(f"{field}: {reference}"):
        return function()


def load_callable(folder: Path, reference: str, field: str) -> Callable[..., Any]:
    """Import `module:callable`.

    Raises:
        UsageError: no such module or callable, or importing it fails.
    """
    module_name, _, name = reference.partition(":")
    with blame_user_code(f"{field}: {reference}"):
        module = _import_from(folder, module_name)
    function = getattr(module, name, None)
    if not callable(function):
        raise UsageError(
            f"{field}: {reference}: {getattr(module, '__file__', module_name)} has no callable {name!r}"
        )
    return function  # type: ignore[no-any-return]


def _import_from(folder: Path, module_name: str) -> Any:
    """Import a module, the cascade's folder first; modules of another cascade do not shadow it."""
    here = str(folder.resolve())
    if here in sys.path:
        sys.path.remove(here)
    sys.path.insert(0, here)
    own = {path.stem for path in folder.glob("*.py")} | {
        path.parent.name for path in folder.glob("*/__init__.py")
    }
    for name in list(sys.modules):
        file = getattr(sys.modules[name], "__file__", None)
        if name.partition(".")[0] in own and file and not Path(file).is_relative_to(here):
            del sys.modules[name]
    importlib.invalidate_caches()
    return importlib.import_module(module_name)


@contextmanager
def blame_user_code(what: str, hint: str = "") -> Iterator[None]:
    """Report an exception of the user's code as one line that names its place.

    Raises:
        UsageError: the block raised.
    """
    try:
        yield
    except CascadeError:
        raise
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if not frame.filename.startswith(NOT_THE_USERS)]
        last = (own or frames)[-1]
        raise UsageError(
            f"{what}: {type(error).__name__}: {one_line(error)} ({last.filename}, line {last.lineno})", hint
        ) from error


def one_line(error: Exception) -> str:
    """What an exception of foreign code says, short enough for a message."""
    _, heading, reason = str(error).partition(EXPORTER_HEADING)
    reason = reason.partition(EXPORTER_END)[0]
    return " ".join((reason if heading else str(error)).split())[:LONGEST_REASON] or type(error).__name__
