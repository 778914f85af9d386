"""Where artifacts stand, how they are written, and the digests that say whether they are fresh.

Everything that a machine derives from `cascade.yaml` is in `build/<cascade>/`. A file is written beside its
place and renamed over it, so a reader sees the old one or the new one and a full disk leaves the old one.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from numpy.lib.npyio import NpzFile
from pydantic import BaseModel, ValidationError

from cascade_tools.artifacts import Artifact, Labels, ScoreTable
from cascade_tools.errors import ArtifactError, CascadeError
from cascade_tools.spec import Cascade, describe

_A = TypeVar("_A", bound=Artifact)
DEFAULT_BUILD = Path("build")  # below the folder where a verb is called


@dataclass(frozen=True)
class Workspace:
    """One cascade and the folder of its derived files.

    Args:
        cascade: what the person wrote.
        build: `build/<cascade>/`.
    """

    cascade: Cascade
    build: Path

    def path(self, name: str) -> Path:
        """Path of a derived file, such as `profile.json`."""
        return self.build / name

    def command(self, verb: str) -> str:
        """What a user types to run a verb on this cascade."""
        elsewhere = "" if self.build.parent == DEFAULT_BUILD else f" --build-dir {self.build.parent}"
        return f"cascade-tools {verb} {self.cascade.folder}{elsewhere}"

    def save(self, name: str, artifact: Artifact) -> Path:
        """Write one artifact atomically."""
        path = self.path(name)
        write_atomically(path, artifact.model_dump_json(indent=1).encode() + b"\n")
        return path

    def load(self, name: str, kind: type[_A], made_by: str) -> _A:
        """Read one artifact.

        Args:
            name: file name below `build/<cascade>/`.
            kind: the type it must have.
            made_by: the verb that writes it, for the hint.

        Raises:
            ArtifactError: missing, corrupt, of another kind or of another cascade.
        """
        path = self.path(name)
        hint = f"run `{self.command(made_by)}`"
        try:
            raw = path.read_bytes()
        except FileNotFoundError:
            raise ArtifactError(f"{path}: missing", hint) from None
        except OSError as error:
            raise ArtifactError(f"{path}: cannot be read: {error}", hint) from None
        try:
            artifact = kind.model_validate_json(raw)
        except ValidationError as error:
            raise ArtifactError(f"{path}: not a {kind.__name__}: {describe(error)}", hint) from None
        if artifact.cascade != self.cascade.name:
            raise ArtifactError(
                f"{path}: belongs to cascade {artifact.cascade!r}, not {self.cascade.name!r}", hint
            )
        return artifact


def load_score_table(path: Path, hint: str = "", labels: Labels = "target") -> ScoreTable:
    """Read an .npz score table.

    Args:
        path: the file.
        hint: for the message if it does not do.
        labels: `giant` puts the last tier's answers in the place of the target.

    Raises:
        ArtifactError: missing, not an .npz, or arrays that do not fit together; the field is named.
    """
    arrays = load_npz(path, hint)
    if labels == "giant" and arrays.get("label", np.zeros(0)).ndim == 2:
        arrays["target"] = arrays["label"][:, -1]
    needed = {"confidence", "label", "target"} - set(arrays)
    if needed:
        raise ArtifactError(f"{path}: no array {sorted(needed)[0]!r}", hint)
    try:
        label = arrays["label"]
        rows = len(arrays["target"])
        tiers = arrays.get("tier")
        if tiers is None:
            tiers = np.array([f"tier{i}" for i in range(label.shape[-1])])
        return ScoreTable(
            tiers=tuple(str(tier) for tier in tiers),
            confidence=arrays["confidence"].astype(np.float32),
            label=_whole(label, "label"),
            target=_whole(arrays["target"], "target"),
            group=_numbered(arrays.get("group", np.arange(rows))),
            split=arrays.get("split", np.full(rows, "search")).astype(np.str_),
        )
    except ValidationError as error:
        raise ArtifactError(f"{path}: {describe(error)}", hint) from None
    except (ValueError, TypeError, IndexError) as error:
        raise ArtifactError(f"{path}: not a score table: {error}", hint) from None


def _numbered(group: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Whole numbers as they are, any other values numbered."""
    if group.dtype.kind in "iub":
        return group.astype(np.int64)
    numbers: npt.NDArray[np.int64] = np.unique(group, return_inverse=True)[1].astype(np.int64)
    return numbers


def _whole(values: npt.NDArray[Any], name: str) -> npt.NDArray[np.int64]:
    if values.dtype.kind not in "iub":
        raise ValueError(f"{name} must be integers, found {values.dtype}")
    return values.astype(np.int64)


def save_score_table(path: Path, table: ScoreTable) -> None:
    """Write a score table as .npz, atomically."""
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        tier=np.array(table.tiers),
        confidence=table.confidence,
        label=table.label,
        target=table.target,
        group=table.group,
        split=table.split,
    )
    write_atomically(path, buffer.getvalue())


def load_npz(path: Path, hint: str = "") -> dict[str, Any]:
    """Read an .npz of plain arrays; pickled objects are refused.

    Raises:
        ArtifactError: missing or not such a file.
    """
    try:
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, NpzFile):
                raise ValueError("a single array")
            with archive:
                return {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        raise ArtifactError(f"{path}: no such file", hint) from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ArtifactError(f"{path}: not an .npz of plain arrays: {error}", hint) from None


def text_as_bytes(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Texts as Triton wants them: an object array of bytes, UTF-8; anything else as it is.

    Raises:
        ValueError: an object array that holds anything but texts and bytes.
    """
    if values.dtype.kind not in "USO":
        return values
    found = np.empty(values.shape, np.object_)
    for place, value in np.ndenumerate(values):
        if not isinstance(value, str | bytes):
            raise ValueError(f"holds a {type(value).__name__}; an object array may only hold texts")
        found[place] = value.encode() if isinstance(value, str) else bytes(value)
    return found


def bytes_as_plain(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """What `text_as_bytes` made, as an array that goes into an .npz without a pickle."""
    return values.astype(np.bytes_) if values.dtype.kind == "O" else values


def write_atomically(path: Path, content: bytes) -> None:
    """Write beside the place, flush to disk, rename over it; nothing half-written stays behind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


@contextmanager
def readable_disk_errors(path: Path) -> Iterator[None]:
    """Turn a full or read-only disk into one clear message.

    Raises:
        CascadeError: writing below `path` failed; what was there before is untouched.
    """
    try:
        yield
    except OSError as error:
        raise CascadeError(
            f"{path}: could not be written: {error.strerror or error}",
            "nothing was changed; free space or mend the permissions, then run it again",
        ) from error


def digest_bytes(content: bytes) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(content).hexdigest()


def digest_file(path: Path) -> str:
    """SHA-256 of a file's content, or `missing`."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return "missing"


def digest_files(paths: Iterable[Path], root: Path) -> str:
    """One digest of several files: their names relative to `root`, and their contents."""
    lines = [f"{os.path.relpath(path, root)} {digest_file(path)}" for path in sorted(paths)]
    return digest_bytes("\n".join(lines).encode())


def digest_value(*values: BaseModel | str | int | float | None) -> str:
    """One digest of spec sections and plain values."""
    plain = [v.model_dump(mode="json") if isinstance(v, BaseModel) else v for v in values]
    return digest_bytes(json.dumps(plain, sort_keys=True).encode())
