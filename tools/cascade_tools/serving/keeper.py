"""Revives the models of a running server whose processes have died.

Triton 2.51 reports a Python model whose process was killed as ready for ever and does not restart it; each
call to it costs about a second. Unload and load does revive it, in less than that. The keeper watches the
process of every instance and asks for both when one is gone and nobody has unloaded the model on purpose.
Triton never finishes that unload, so processes of other instances of the old version would stay for ever;
they are ended once nothing can be under way in them any more.

A model is loaded from the repository as it is then. Where its files are no longer those that the server was
started with (a new repository was put in their place), a revived tier would run other weights than the plan
of the running router has its cuts for, so it stays down: the rows go around it, and only a restart helps.
"""

from __future__ import annotations

import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import tritonclient.http as triton_http

from cascade_tools.errors import ArtifactError
from cascade_tools.repository.manifest import files_of_model, read_manifest
from cascade_tools.serving.stubs import is_live, live_stubs

PERIOD_S = 0.25
CALL_TIMEOUT_S = 60.0
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0
LAST_WORK_S = 15.0  # what instances of an unloaded version get to finish
STABLE_S = 60.0  # a model that lived this long begins again without a pause


@dataclass
class _Kept:
    """What is known of one model.

    Attributes:
        stubs: the processes of its instances.
        suspect: one was gone at the last look; an unload on purpose passes through that, too.
        down: it was unloaded here and could not be loaded again.
        refused: it has died and its files are not those that were served.
        old: processes of the version before the revival, to be ended at `end_old_at_s`.
    """

    stubs: set[int] = field(default_factory=set)
    suspect: bool = False
    down: bool = False
    refused: bool = False
    pause_s: float = 0.0
    revived_at_s: float = -STABLE_S
    not_before_s: float = 0.0
    old: list[psutil.Process] = field(default_factory=list)
    end_old_at_s: float = 0.0


class Keeper:
    """A thread that keeps the models of one server alive; a line on stderr for each revival.

    Args:
        server: process id of the server, in explicit mode.
        url: its HTTP address.
        repository: what it serves; read again before every revival.
        manifest: of the repository when the server was started.
        models: all models that it was started with.
    """

    def __init__(
        self, server: int, url: str, repository: Path, manifest: dict[str, Any], models: list[str]
    ) -> None:
        self._server = server
        self._url = url
        self._repository = repository
        self._manifest = manifest
        self._kept = {model: _Kept() for model in models}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="keeper", daemon=True)

    def start(self) -> None:
        """Begin to watch; every model must be loaded."""
        for stub, model in live_stubs(self._server).items():
            if model in self._kept:
                self._kept[model].stubs.add(stub)
        self._thread.start()

    def announce_stop(self) -> None:
        """Revive nothing from now on; to be called before the server is ended."""
        self._stopping.set()

    def join(self) -> None:
        """Wait for the thread, once the server has ended."""
        if self._thread.ident is not None:
            self._thread.join(CALL_TIMEOUT_S)

    def _watch(self) -> None:
        while not self._stopping.wait(PERIOD_S):
            for model in self._kept:
                self._look_at(model)

    def _look_at(self, model: str) -> None:
        kept = self._kept[model]
        self._end_old(kept)
        whole = kept.stubs and all(is_live(stub, model) for stub in kept.stubs)
        if whole and not kept.down:
            kept.suspect = False
            return
        if not kept.suspect:
            kept.suspect = True
            return
        if time.monotonic() < kept.not_before_s:
            return
        # Made when needed: an idle connection would keep a server that is to end waiting.
        client = triton_http.InferenceServerClient(
            self._url, connection_timeout=CALL_TIMEOUT_S, network_timeout=CALL_TIMEOUT_S
        )
        try:
            if self._is_to_be_revived(model, client) and not self._stopping.is_set():
                self._revive(model, client)
        except ConnectionError:
            pass  # the server is ending, or has ended
        except Exception as error:  # whatever a call ends in, the others are watched on
            self._failed(model, error)
        finally:
            client.close()

    def _is_to_be_revived(self, model: str, client: Any) -> bool:
        """Its process has died under a server that is up, and nobody else has unloaded or reloaded it."""
        kept = self._kept[model]
        if not client.is_server_ready():
            return False
        if not kept.down:
            if not _is_ready(model, client):  # somebody has unloaded it
                kept.not_before_s = time.monotonic() + FIRST_PAUSE_S
                return False
            live = self._live(model)
            fresh = live - kept.stubs
            if fresh:  # somebody else has loaded it again, or is about to
                if len(fresh) >= len(kept.stubs) or not live & kept.stubs:
                    self._take_over(kept, fresh, _processes(live - fresh))
                return False
        if self._is_changed(model):
            if not kept.refused:
                _say(f"{model} has died and stays down: the repository holds another; restart the server")
            kept.refused = True
            kept.not_before_s = time.monotonic() + LONGEST_PAUSE_S
            return False
        return True

    def _revive(self, model: str, client: Any) -> None:
        kept = self._kept[model]
        begun_s = time.monotonic()
        if begun_s - kept.revived_at_s > STABLE_S:
            kept.pause_s = 0.0
        kept.pause_s = min(LONGEST_PAUSE_S, 2.0 * kept.pause_s or FIRST_PAUSE_S)
        kept.not_before_s = begun_s + kept.pause_s
        before = self._live(model)
        old = _processes(before)
        kept.down = True
        client.unload_model(model)
        client.load_model(model)
        if self._is_changed(model):  # between the look and the load
            client.unload_model(model)
            kept.refused = True
            kept.not_before_s = time.monotonic() + LONGEST_PAUSE_S
            _say(f"{model} stays down: the repository was changed while it was revived; restart the server")
            return
        kept.revived_at_s = time.monotonic()
        self._take_over(kept, self._live(model) - before, old)
        _say(f"{model} had died and was revived in {kept.revived_at_s - begun_s:.1f} s")

    def _live(self, model: str) -> set[int]:
        """Processes of the loaded version of a model."""
        old = {process.pid for process in self._kept[model].old}
        return {stub for stub, name in live_stubs(self._server).items() if name == model} - old

    def _take_over(self, kept: _Kept, stubs: set[int], old: list[psutil.Process]) -> None:
        kept.stubs, kept.down, kept.suspect, kept.refused = stubs, False, False, False
        kept.old += old
        kept.end_old_at_s = time.monotonic() + LAST_WORK_S

    def _end_old(self, kept: _Kept) -> None:
        if kept.old and time.monotonic() >= kept.end_old_at_s:
            for process in kept.old:
                with suppress(psutil.NoSuchProcess):  # psutil notices where its number was given to another
                    process.kill()
            kept.old = []

    def _failed(self, model: str, error: Exception) -> None:
        if self._stopping.is_set() or not self._has_server():
            return
        again_s = max(0.0, self._kept[model].not_before_s - time.monotonic())
        _say(f"{model} has died and could not be revived: {error}; the next try is in {again_s:.0f} s")

    def _has_server(self) -> bool:
        try:
            return psutil.Process(self._server).status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    def _is_changed(self, model: str) -> bool:
        """The model's files in the repository are not those that the server was started with."""
        try:
            now = read_manifest(self._repository)
        except ArtifactError:
            return True
        return files_of_model(now, model) != files_of_model(self._manifest, model)


def _processes(stubs: set[int]) -> list[psutil.Process]:
    found = []
    for stub in stubs:
        with suppress(psutil.NoSuchProcess):
            found.append(psutil.Process(stub))
    return found


def _is_ready(model: str, client: Any) -> bool:
    index = client.get_model_repository_index()
    return any(entry["name"] == model and entry.get("state") == "READY" for entry in index)


def _say(text: str) -> None:
    print(f"keeper: {text}", file=sys.stderr, flush=True)
