"""The files of exported tiers: put in their place together, and held against what was recorded."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cascade_tools.artifacts import Exported, ExportedFile, ExportedTier
from cascade_tools.errors import ArtifactError
from cascade_tools.store import Workspace, digest_file

FOLDER = "export"
EXPORTED_FILE = "exported.json"


def changed_file(work: Workspace, tier: ExportedTier) -> Path | None:
    """The first file of a tier that is missing or not the one that was exported."""
    changed = (work.path(e.file) for e in tier.files if digest_file(work.path(e.file)) != e.sha256)
    return next(changed, None)


def recorded(path: Path) -> ExportedFile:
    """A file of the staging folder as it will stand in `build/<cascade>/`."""
    return ExportedFile(file=f"{FOLDER}/{path.name}", sha256=digest_file(path))


@contextmanager
def staged(work: Workspace) -> Iterator[Path]:
    """A folder for new files beside their place; gone after the block, whatever happened."""
    work.build.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{FOLDER}-", dir=work.build))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def put_in_place(work: Workspace, folder: Path, exported: Exported) -> None:
    """Rename the recorded files of a staging folder over the old ones, write the record, remove older files.

    All are on the disk before the first is renamed.
    """
    before = _old_files(work)
    names = [entry.file for tier in exported.tiers for entry in tier.files]
    for name in names:
        with (folder / Path(name).name).open("rb") as file:
            os.fsync(file.fileno())
    work.path(FOLDER).mkdir(exist_ok=True)
    for name in names:
        (folder / Path(name).name).replace(work.path(name))
    work.save(EXPORTED_FILE, exported)
    for name in before - set(names):
        work.path(name).unlink(missing_ok=True)


def _old_files(work: Workspace) -> set[str]:
    try:
        old = work.load(EXPORTED_FILE, Exported, "export")
    except ArtifactError:
        return set()
    return {entry.file for tier in old.tiers for entry in tier.files}
