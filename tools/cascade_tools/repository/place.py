"""Puts a repository in its place: a new version beside the old, then one rename.

<root>/versions/<digest>/...     complete repositories
<root>/current -> versions/...   renamed over the old link, so a reader sees one or the other

One for several hosts has a complete repository for each in a folder of its own.
"""

from __future__ import annotations

import filecmp
import os
import shutil
import tempfile
from pathlib import Path

from cascade_tools.errors import CheckFailed
from cascade_tools.repository.manifest import MANIFEST, Content, Contents, Files
from cascade_tools.store import digest_bytes, readable_disk_errors

KEPT_VERSIONS = 2
COPY_BYTES = 2**20


def put(root: Path, files: Contents, manifest: bytes) -> Path:
    """Write a repository and make it the current one; on any failure the old one stays.

    Raises:
        CascadeError: the disk is full or cannot be written.
    """
    with readable_disk_errors(root):
        versions = root / "versions"
        versions.mkdir(parents=True, exist_ok=True)
        final = versions / digest_bytes(manifest)[:16]
        if differences(final, files, manifest):
            _write_version(versions, final, files, manifest)
        os.utime(final)  # times tell in which order versions were current
        _point(root, final)
    _forget_old(versions, final)
    return root / "current"


def differences(repository: Path, files: Contents, manifest: bytes) -> list[str]:
    """Relative paths that are missing, changed or too many in a repository."""
    wanted: dict[str, Content] = {**files, MANIFEST: manifest}
    found = set()
    for path in repository.rglob("*"):
        name = str(path.relative_to(repository))
        # Servers leave compiled Python beside the code.
        if path.is_file() and "__pycache__" not in path.parts:
            found.add(name)
    changed = [n for n in wanted if n in found and not _holds(repository / n, wanted[n])]
    return sorted({*changed, *(set(wanted) ^ found)})


def _holds(path: Path, content: Content) -> bool:
    if isinstance(content, Path):
        return filecmp.cmp(path, content, shallow=False)
    return path.stat().st_size == len(content) and path.read_bytes() == content


def check(root: Path, files: Contents, manifest: bytes) -> None:
    """Write nothing; compare the current repository with what would be written.

    Raises:
        CheckFailed: they differ; the files are named.
    """
    different = differences(root / "current", files, manifest)
    if different:
        shown = ", ".join(different[:5]) + (" ..." if len(different) > 5 else "")
        raise CheckFailed(
            f"{root / 'current'}: {len(different)} file(s) differ from the plan: {shown}",
            "run `cascade-tools build-repo` without --check",
        )


def check_shown(folder: Path, configs: Files) -> None:
    """Compare the configs that are kept for people with what would be written.

    Raises:
        CheckFailed: they differ; the files are named.
    """
    different = [
        name
        for name, content in sorted(configs.items())
        if not (folder / name).is_file() or (folder / name).read_bytes() != content
    ]
    if different:
        raise CheckFailed(
            f"{folder}: differs from the plan: {', '.join(different)}",
            "run `cascade-tools build-repo ... --target ngc` and commit what it writes",
        )


def _write_version(versions: Path, final: Path, files: Contents, manifest: bytes) -> None:
    new = Path(tempfile.mkdtemp(prefix=".new-", dir=versions))
    try:
        new.chmod(0o755)
        for name, content in {**files, MANIFEST: manifest}.items():
            path = new / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                if isinstance(content, Path):
                    with content.open("rb") as source:
                        shutil.copyfileobj(source, file, COPY_BYTES)
                else:
                    file.write(content)
                file.flush()
                os.fsync(file.fileno())
        if final.exists():  # somebody changed it by hand
            shutil.rmtree(final)
        new.rename(final)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise


def _point(root: Path, final: Path) -> None:
    link = root / f".current-{os.getpid()}"
    link.unlink(missing_ok=True)
    link.symlink_to(final.relative_to(root))
    link.replace(root / "current")


def _forget_old(versions: Path, current: Path) -> None:
    """Keep the current version and the one before, which a server may still read."""
    others = [path for path in versions.iterdir() if path != current]
    others.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    for path in others[KEPT_VERSIONS - 1 :]:
        shutil.rmtree(path, ignore_errors=True)
