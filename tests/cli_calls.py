"""Calls of the command line inside the test's process, each as if it were a process of its own."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import Any

from cascade_tools.cli.app import main


@dataclass(frozen=True)
class Outcome:
    """What a call left: its exit code and what it printed."""

    code: int
    out: str
    err: str

    @property
    def content(self) -> dict[str, Any]:
        """The object on the last line of stdout."""
        content = json.loads(self.out.splitlines()[-1])
        assert isinstance(content, dict)
        return content


@contextmanager
def forgotten_user_code() -> Iterator[None]:
    """Leave no module of a cascade's folder behind, as a new process would."""
    path = list(sys.path)
    try:
        yield
    finally:
        added = tuple(f"{folder}{os.sep}" for folder in sys.path if folder not in path)
        sys.path[:] = path
        for name, module in list(sys.modules.items()):
            if str(getattr(module, "__file__", None) or "").startswith(added):
                del sys.modules[name]


def call(*arguments: object) -> Outcome:
    """Run `cascade-tools ARGUMENTS`; an exception that a user would see as a traceback comes through."""
    before, sys.argv = sys.argv, ["cascade-tools", *map(str, arguments)]
    out, err = io.StringIO(), io.StringIO()
    code: object = None
    try:
        with redirect_stdout(out), redirect_stderr(err), forgotten_user_code():
            main()
    except SystemExit as end:
        code = end.code
    finally:
        sys.argv = before
    assert code is None or isinstance(code, int)
    return Outcome(code or 0, out.getvalue(), err.getvalue())


def assert_refused(outcome: Outcome, code: int, *words: str) -> None:
    """One message for people on stderr that names everything given, and no traceback."""
    assert outcome.code == code, outcome.err
    assert len([line for line in outcome.err.splitlines() if line.startswith("error: ")]) == 1, outcome.err
    assert "Traceback" not in outcome.err
    for word in words:
        assert word in outcome.err
