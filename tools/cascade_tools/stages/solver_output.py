"""Keeps what HiGHS prints by itself out of our results, and its traces of functions from the user."""

from __future__ import annotations

import ctypes
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

TRACE = re.compile(rb"Highs\w*::.*")  # such as `HighsMipSolverData::transformNew... tmpSolver.run();`


@contextmanager
def solver_output_on_stderr() -> Iterator[None]:
    """Whatever goes to file descriptors 1 and 2 meanwhile is on stderr afterwards, less HiGHS's traces.

    Descriptor 1 belongs to our own results. Where the block raises, all of it is shown.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    with tempfile.TemporaryFile() as written:
        os.dup2(written.fileno(), 1)
        os.dup2(written.fileno(), 2)
        whole = True
        try:
            yield
            whole = False
        finally:
            ctypes.CDLL(None).fflush(None)  # a file gets what C has buffered only then
            sys.stderr.flush()
            for number, own in enumerate(kept, 1):
                os.dup2(own, number)
                os.close(own)
            _show(written, whole)


def _show(written: BinaryIO, whole: bool) -> None:
    written.seek(0)
    lines = [line for line in written if whole or not TRACE.match(line)]
    with open(2, "wb", closefd=False) as stderr:
        stderr.write(b"".join(lines))
