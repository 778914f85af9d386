"""Digests of what a person wrote and a stage reads: models, data, and the packages behind them."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from cascade_tools.spec import SPEC_FILE, Cascade
from cascade_tools.stages.adopted import model_digest
from cascade_tools.store import digest_files, digest_value


def source_digests(cascade: Cascade, rows: str | None) -> dict[str, str]:
    """Digests of the models and of everything that they and the rows may come from.

    That is every file of the cascade's folder but prose, given profiles, and the spec, whose sections are
    digested where they are read, the files of the installed packages that a reference names, and the adopted
    models.

    Args:
        cascade: with its folder.
        rows: the reference of the rows that count, `data.validation` or `data.test`.
    """
    folder = cascade.folder
    given = cascade.profile.given and folder / cascade.profile.given
    paths = {
        path
        for path in folder.rglob("*")
        if path.is_file()
        and path.suffix != ".md"
        and path != folder / SPEC_FILE
        and not (given and path.is_relative_to(given))
        and not _is_derived(path.relative_to(folder))
    } - {folder / cascade.devices}
    paths |= _model_files(cascade)
    for reference in (*(t.source.torch for t in cascade.tiers), rows):
        paths |= _package_files(folder, reference)
    adopted = {
        f"model {name}": model_digest(cascade, name)
        for name in {cascade.model_name(tier.name) for tier in cascade.adopted}
    }
    # What a model is exported to changes nothing of what it says.
    tiers = [tier.model_copy(update={"format": "onnx", "stages": 1}) for tier in cascade.tiers]
    return {
        "sources": digest_files(paths, folder),
        "tiers": digest_value(*tiers, cascade.triton, rows, cascade.data.labels),
        **adopted,
    }


def _model_files(cascade: Cascade) -> set[Path]:
    """Files of the models that are named; those below a linked folder are not found otherwise."""
    named = [
        cascade.folder / path
        for source in (tier.source for tier in cascade.tiers)
        for path in (source.weights, source.onnx, source.hf)
        if path is not None
    ]
    # Weights beside a graph are in its folder.
    named += [path.parent for path in named if path.suffix == ".onnx" and path.parent != cascade.folder]
    files = [file for path in named for file in ([path] if path.is_file() else path.rglob("*"))]
    return {file for file in files if file.is_file()}


def _is_derived(path: Path) -> bool:
    return any(part == "build" or part == "__pycache__" or part.startswith(".") for part in path.parts)


def _package_files(folder: Path, reference: str | None) -> set[Path]:
    """Python files of the installed package that a reference names, found without importing it."""
    if reference is None or ":" not in reference:
        return set()
    top = reference.partition(":")[0].partition(".")[0]
    if (folder / f"{top}.py").is_file() or (folder / top).is_dir():
        return set()  # the folder's own files are digested anyhow
    try:
        found = find_spec(top)
    except (ImportError, ValueError):
        return set()
    if found is None or found.origin is None or not found.has_location:
        return set()
    origin = Path(found.origin)
    return set(origin.parent.rglob("*.py")) if origin.name == "__init__.py" else {origin}
