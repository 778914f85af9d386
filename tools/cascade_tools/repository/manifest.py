"""What a repository says of itself: its cascade and server, its files, and its hosts if there are several."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cascade_tools.errors import ArtifactError, UsageError
from cascade_tools.repository.render import SERVERS, VERSION, Target
from cascade_tools.store import digest_bytes, digest_file

MANIFEST = "manifest.json"
PLAN_FILE = "plan/gear_plan.json"  # below the router's folder
MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")

Files = dict[str, bytes]
Content = bytes | Path  # a path: the file is copied and compared without being held in memory
Contents = Mapping[str, Content]


def host_folder(host: int) -> str:
    """Where the repository of one host is, among those of several."""
    return f"host{host}"


def make_manifest(
    cascade: str, target: Target, files: Contents, entry_shares: Mapping[int, float | None] | None = None
) -> bytes:
    """What the repository is for, and the digest of every file in it.

    Args:
        cascade: name of the router's model.
        target: the server.
        files: by relative path.
        entry_shares: by host, where this holds the repositories of several: the share of all rows that
            should enter at the router there; None for a host without one.
    """
    content = {
        "kind": "repository",
        "cascade": cascade,
        "target": target,
        "server": SERVERS[target],
        "files": {path: _digest(files[path]) for path in sorted(files)},
    }
    if entry_shares is not None:
        content["hosts"] = {host_folder(host): share for host, share in sorted(entry_shares.items())}
    return (json.dumps(content, indent=1) + "\n").encode()


def _digest(content: Content) -> str:
    return digest_file(content) if isinstance(content, Path) else digest_bytes(content)


def read_manifest(repository: Path) -> dict[str, Any]:
    """The manifest of a repository.

    Raises:
        ArtifactError: there is none, or it is not one.
    """
    path = repository / MANIFEST
    hint = "run `cascade-tools build-repo` for this cascade"
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise ArtifactError(f"{path}: missing", hint) from None
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path}: cannot be read: {error}", hint) from None
    if not isinstance(content, dict) or content.get("kind") != "repository":
        raise ArtifactError(f"{path}: not the manifest of a repository", hint)
    return content


def refuse_other_target(repository: Path, target: Target) -> dict[str, Any]:
    """The manifest, if the repository was made for this target and server.

    Raises:
        ArtifactError: it was made for another one, or for several hosts.
    """
    manifest = read_manifest(repository)
    if manifest.get("hosts"):
        raise ArtifactError(
            f"{repository}: is for several hosts: {', '.join(manifest['hosts'])}", "serve the folder of one"
        )
    if manifest.get("target") != target or manifest.get("server") != SERVERS[target]:
        raise ArtifactError(
            f"{repository}: made for target {manifest.get('target')!r} on "
            f"{manifest.get('server')!r}, this server is {target!r} on {SERVERS[target]!r}",
            f"run `cascade-tools build-repo ... --target {target}`",
        )
    return manifest


def entry_shares_of(repository: Path) -> dict[str, float | None]:
    """The hosts of a repository for several, by folder, and the share of all rows that should enter there.

    Empty where it is for one host alone; None for a host without a router.

    Raises:
        ArtifactError: there is no repository.
    """
    hosts: dict[str, float | None] = read_manifest(repository).get("hosts", {})
    return hosts


def of_host(repository: Path, host: int | None) -> Path:
    """The repository of one host.

    Args:
        repository: the current one.
        host: its number; None where there is one host alone.

    Raises:
        ArtifactError: there is no repository.
        UsageError: it is for several hosts and none is named, or for others than the named one.
    """
    hosts = entry_shares_of(repository)
    if not hosts:
        if host is None:
            return repository
        raise UsageError(f"--host {host}: {repository} is for one host alone", "leave --host out")
    if host is None or host_folder(host) not in hosts:
        named = "" if host is None else f"--host {host}: "
        raise UsageError(
            f"{named}{repository} is for several hosts: {', '.join(hosts)}",
            f"say which one this is, such as `--host {next(iter(hosts)).removeprefix('host')}`",
        )
    return repository / host_folder(host)


def has_router(repository: Path) -> bool:
    """Whether the router's model is in the repository of a host.

    Raises:
        ArtifactError: there is no repository.
    """
    manifest = read_manifest(repository)
    return f"{manifest.get('cascade')}/{PLAN_FILE}" in manifest.get("files", {})


def models_of(repository: Path, manifest: dict[str, Any]) -> list[str]:
    """Names of all models of a repository.

    Raises:
        ArtifactError: the manifest lists none, or one whose name is none.
    """
    files = manifest.get("files")
    names = sorted({path.partition("/")[0] for path in files}) if isinstance(files, dict) else []
    wrong = [name for name in names if not MODEL_NAME.fullmatch(name)]
    if not names or wrong:
        found = f"{wrong[0]!r} is not the name of a model" if wrong else "it lists no models"
        raise ArtifactError(
            f"{repository / MANIFEST}: files: {found}", "run `cascade-tools build-repo` for this cascade"
        )
    return names


def has_process(manifest: dict[str, Any], model: str) -> bool:
    """A model of the Python backend runs in processes of its own; an ensemble in none."""
    return f"{model}/{VERSION}/model.py" in manifest.get("files", {})


def files_of_model(manifest: dict[str, Any], model: str) -> dict[str, str]:
    """Digests of the files that decide what a loaded model does.

    Of the router these are the files of all models, since it goes by what the tiers are; its plan may
    change while it runs.
    """
    router = str(manifest.get("cascade"))
    folder = "" if model == router else f"{model}/"
    return {
        path: digest
        for path, digest in manifest.get("files", {}).items()
        if path.startswith(folder) and path != f"{router}/{PLAN_FILE}"
    }
