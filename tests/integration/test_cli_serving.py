"""`cascade-tools serve` and `cascade-tools infer` against a real Triton."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cascade_tools.artifacts import GearPlan
from cascade_tools.models.usercode import Rows
from cascade_tools.repository.manifest import MANIFEST
from cascade_tools.serving.embedded import Server
from cascade_tools.store import Workspace

from ..cli_calls import Outcome, assert_refused, call
from .helpers import INPUT, MODEL, Protocol, predict, swapped_plan, with_slow_tiers

TIERS = ("near", "linear", "kernel")
ROWS = 21  # more than two batches, and more than the table shows

pytestmark = pytest.mark.usefixtures("triton")


@pytest.fixture
def rows_file(rows: Rows, tmp_path: Path) -> Path:
    path = tmp_path / "rows.npz"
    np.savez(path, PIXELS=rows.inputs[INPUT][:ROWS], target=rows.target[:ROWS])
    return path


def infer(server: Server, file: Path, *arguments: object, protocol: Protocol = "grpc") -> Outcome:
    url = server.grpc_url if protocol == "grpc" else server.http_url
    options = ("--url", url, "--protocol", protocol, "--json")
    return call("infer", file, *(arguments or ("--model", MODEL)), *options)


# infer


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_infer_prints_every_answer_in_order(
    server: Server, protocol: Protocol, rows_file: Path, plan: GearPlan, tiers: tuple[Any, Any, Any]
) -> None:
    expected = predict(tiers, TIERS, plan.gears[0].policy)
    outcome = infer(server, rows_file, protocol=protocol)
    assert outcome.code == 0, outcome.err
    answers = outcome.content["answers"]
    clear = expected.clear[:ROWS]
    for field, values in (("label", expected.label), ("tier", expected.tier)):
        np.testing.assert_array_equal(np.array([a[field] for a in answers])[clear], values[:ROWS][clear])
    np.testing.assert_allclose([a["confidence"] for a in answers], expected.confidence[:ROWS], atol=1e-4)
    assert {a["flags"] for a in answers} == {""}
    assert f"{ROWS} answers of {MODEL}" in outcome.out
    assert "and 1 more" in outcome.out


def test_infer_with_a_deadline_names_the_flag(
    server: Server, served: Path, plan: GearPlan, rows_file: Path
) -> None:
    with swapped_plan(server, served, with_slow_tiers(plan, 60_000.0)):
        outcome = infer(server, rows_file, "--model", MODEL, "--deadline-ms", 10_000)
    assert outcome.code == 0, outcome.err
    answers = outcome.content["answers"]
    assert {a["tier"] for a in answers} == {0}
    assert {a["flags"] for a in answers} == {"", "deadline"}


PIXELS = np.zeros((3, 64), np.float32)
WRONG_ROWS: dict[str, tuple[dict[str, Any], int, tuple[str, ...]]] = {
    "another name": ({"IMAGE": PIXELS}, 2, ("['IMAGE']", "['PIXELS']", "numpy.savez")),
    "one array too many": ({"PIXELS": PIXELS, "MASK": PIXELS}, 2, ("['MASK', 'PIXELS']",)),
    "no array": ({"target": np.zeros(3)}, 2, ("has arrays []", "['PIXELS']")),
    "no rows": ({"PIXELS": PIXELS[:0]}, 2, ("at least one",)),
    "a single number": ({"PIXELS": np.float32(1.0)}, 2, ("rows.npz", "rows")),
    "another type": ({"PIXELS": PIXELS.astype(np.float64)}, 2, ("rows.npz", "PIXELS", "FP32")),
    "another width": ({"PIXELS": PIXELS[:, :5]}, 2, ("'PIXELS'", "[64]", "[5]")),
    "another rank": ({"PIXELS": PIXELS[:, None]}, 2, ("'PIXELS'", "[64]", "[1, 64]")),
}


@pytest.mark.parametrize("protocol", ["grpc", "http"])
@pytest.mark.parametrize("what", WRONG_ROWS)
def test_infer_says_how_rows_do_not_fit_the_model(
    server: Server, protocol: Protocol, what: str, tmp_path: Path
) -> None:
    arrays, code, words = WRONG_ROWS[what]
    np.savez(tmp_path / "rows.npz", **arrays)
    outcome = infer(server, tmp_path / "rows.npz", protocol=protocol)
    assert_refused(outcome, code, *words)
    assert "error" in outcome.content


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_infer_says_that_a_tier_is_no_cascade(server: Server, protocol: Protocol, rows_file: Path) -> None:
    outcome = infer(server, rows_file, "--model", f"{MODEL}_near", protocol=protocol)
    assert_refused(outcome, 2, f"{MODEL}_near", "is no cascade")


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_infer_names_a_model_that_is_not_served(server: Server, protocol: Protocol, rows_file: Path) -> None:
    outcome = infer(server, rows_file, "--model", "nobody", protocol=protocol)
    assert_refused(outcome, 1, "nobody", "--model")


@pytest.mark.parametrize(
    ("protocol", "port"), [("grpc", "http"), ("http", "grpc"), ("http", "metrics"), ("grpc", "metrics")]
)
def test_infer_on_the_wrong_port_of_a_server_is_one_message(
    server: Server, protocol: Protocol, port: str, rows_file: Path
) -> None:
    url = f"127.0.0.1:{getattr(server.ports, port)}"
    outcome = call("infer", rows_file, "--model", MODEL, "--url", url, "--protocol", protocol)
    assert_refused(outcome, 1, url)


# serve


@pytest.fixture
def taken() -> Iterator[int]:
    """A port on which somebody listens."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


def serve(work: Workspace, *arguments: object) -> Outcome:
    free = ("--http-port", 0, "--grpc-port", 0, "--metrics-port", 0)
    return call("serve", work.cascade.folder, "--build-dir", work.build.parent, *free, *arguments, "--json")


@pytest.mark.parametrize("option", ["--http-port", "--grpc-port", "--metrics-port"])
def test_serve_names_a_port_in_use_with_its_option(small: Workspace, taken: int, option: str) -> None:
    outcome = serve(small, option, taken)
    assert_refused(outcome, 2, f"{option} {taken}: in use by another process", f"another with {option}")
    assert "error" in outcome.content


@pytest.mark.parametrize("port", [-1, 65536, "http"])
def test_serve_refuses_a_port_that_is_none(small: Workspace, port: object) -> None:
    outcome = serve(small, "--http-port", port)
    assert outcome.code == 2
    assert "--http-port" in outcome.err
    assert "Traceback" not in outcome.err


def test_serve_before_anything_is_built_says_what_to_run(small: Workspace, tmp_path: Path) -> None:
    outcome = serve(Workspace(small.cascade, tmp_path / "nothing" / "small"))
    assert_refused(outcome, 2, f"{MANIFEST}: missing", "cascade-tools build-repo")


def test_serve_refuses_a_repository_for_the_other_target(copied: Workspace) -> None:
    manifest = copied.path("repository") / "current" / MANIFEST
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "target": "ngc"}))
    assert_refused(serve(copied), 2, "made for target 'ngc'", "'embedded'", "--target embedded")
