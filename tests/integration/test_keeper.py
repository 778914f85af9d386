"""Dead models of a served cascade come back by themselves, unless their files are no longer the same."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import tritonclient.http as triton_http

from cascade_tools.artifacts import GearPlan
from cascade_tools.errors import ArtifactError
from cascade_tools.models.usercode import Rows
from cascade_tools.repository.manifest import MANIFEST, PLAN_FILE, files_of_model, models_of
from cascade_tools.runtime.batch import DEGRADED
from cascade_tools.serving.embedded import Server, embedded_triton
from cascade_tools.store import write_atomically

from .helpers import INPUT, MODEL, Client, plan_path, stubs, to_bytes, wait_until

pytestmark = pytest.mark.usefixtures("triton")

ROWS = 8


@pytest.fixture
def kept_repository(served: Path, plan: GearPlan, tmp_path: Path) -> Path:
    own = shutil.copytree(served, tmp_path / "served")
    plan_path(own).write_bytes(to_bytes(plan))
    (own / MODEL / "1" / "onnx_session.py").unlink()  # every tier is asked through the server
    return own


@pytest.fixture
def kept(kept_repository: Path) -> Iterator[Server]:
    """A server of the test's own, with a keeper."""
    with embedded_triton(kept_repository, keep=True) as running:
        yield running
        os.killpg(running.process.pid, signal.SIGKILL)  # no test needs its orderly end


def kill(server: Server, model: str) -> None:
    victims = stubs(server, model)
    assert victims
    for victim in victims:
        victim.kill()


def test_what_dies_is_revived_and_asked_around_until_then(
    kept: Server,
    kept_repository: Path,
    rows: Rows,
    capfd: pytest.CaptureFixture[str],
) -> None:
    pixels: npt.NDArray[np.float32] = rows.inputs[INPUT][:ROWS]
    seen = ""

    def told(text: str) -> bool:
        nonlocal seen
        seen += capfd.readouterr().err
        return text in seen

    with Client(kept, "grpc") as client:
        before = client.ask(pixels)
        assert (before["FLAGS"] == 0).all()

        kill(kept, "small_near")
        during = client.ask(pixels)
        assert (during["FLAGS"] & DEGRADED).all()
        assert (during["TIER"] > 0).all()
        wait_until(lambda: told("small_near had died and was revived"), "the tier is revived")
        after = client.ask(pixels)
        for name in before:
            np.testing.assert_array_equal(after[name], before[name])

        kill(kept, MODEL)
        wait_until(lambda: told(f"{MODEL} had died and was revived"), "the router is revived")
        np.testing.assert_array_equal(client.ask(pixels)["LABEL"], before["LABEL"])

        # What is unloaded on purpose stays so.
        with triton_http.InferenceServerClient(kept.http_url) as control:
            control.unload_model("small_linear")
            wait_until(lambda: not stubs(kept, "small_linear"), "the tier is unloaded")
            without = client.ask(pixels)
            assert set(without["TIER"]) <= {0, 2}
            assert "small_linear" not in seen

        # Another repository was put in place: its tier must not answer for the plan of this one.
        manifest = json.loads((kept_repository / MANIFEST).read_bytes())
        manifest["files"]["small_kernel/1/model.onnx"] = "another"
        write_atomically(kept_repository / MANIFEST, json.dumps(manifest).encode())
        kill(kept, "small_kernel")
        wait_until(lambda: told("small_kernel has died and stays down"), "the revival is refused")
        assert not stubs(kept, "small_kernel")
        assert "small_linear" not in seen, "it is still left alone"


@pytest.mark.parametrize("name", ["", "..", "a b", "--help", ".hidden", "*"])
def test_a_manifest_with_a_name_that_is_no_model_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ArtifactError, match=r"files: .* is not the name of a model"):
        models_of(tmp_path, {"files": {f"{name}/config.pbtxt": "digest"}})


@pytest.mark.parametrize("files", [None, {}, ["small/config.pbtxt"]])
def test_a_manifest_without_models_is_refused(tmp_path: Path, files: object) -> None:
    with pytest.raises(ArtifactError, match="it lists no models"):
        models_of(tmp_path, {"files": files})


def test_a_new_plan_changes_no_model_and_new_weights_change_their_tier_and_the_router() -> None:
    files = {f"{MODEL}/{PLAN_FILE}": "a", "small_near/1/model.onnx": "b", "small_linear/1/model.onnx": "c"}
    before = {"cascade": MODEL, "files": files}
    for path, changed in (
        (f"{MODEL}/{PLAN_FILE}", set[str]()),
        ("small_near/1/model.onnx", {MODEL, "small_near"}),
        (f"{MODEL}/1/router.py", {MODEL}),
    ):
        after = {"cascade": MODEL, "files": {**files, path: "new"}}
        models = (MODEL, "small_near", "small_linear")
        assert {m for m in models if files_of_model(after, m) != files_of_model(before, m)} == changed
