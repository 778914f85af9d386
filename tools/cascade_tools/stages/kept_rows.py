"""The test rows, kept in `build/` so that a fresh demo does not run the user's data code again."""

from __future__ import annotations

import io

import numpy as np

from cascade_tools.errors import ArtifactError
from cascade_tools.models.usercode import Rows, load_rows
from cascade_tools.stages.digests import source_digests
from cascade_tools.store import (
    Workspace,
    bytes_as_plain,
    load_npz,
    readable_disk_errors,
    text_as_bytes,
    write_atomically,
)

TEST_ROWS_FILE = "test_rows.npz"
INPUT = "input:"


def load_test_rows(work: Workspace) -> Rows:
    """The rows of `data.test`; from `build/` as long as nothing that they come from has changed.

    Raises:
        UsageError: as `load_rows`.
    """
    cascade = work.cascade
    made_from = "".join(sorted(source_digests(cascade, cascade.data.test).values()))
    path = work.path(TEST_ROWS_FILE)
    try:
        kept = load_npz(path)
        if str(kept.get("made_from")) == made_from:
            inputs = {
                name.removeprefix(INPUT): text_as_bytes(values)
                for name, values in kept.items()
                if name.startswith(INPUT)
            }
            return Rows(inputs, kept["target"], kept["group"])
    except (ArtifactError, KeyError):  # missing or broken: it is made again
        pass
    rows = load_rows(cascade, "test")
    buffer = io.BytesIO()
    inputs = {f"{INPUT}{name}": bytes_as_plain(values) for name, values in rows.inputs.items()}
    np.savez(buffer, made_from=np.array(made_from), target=rows.target, group=rows.group, **inputs)
    with readable_disk_errors(path):
        write_atomically(path, buffer.getvalue())
    return rows
