"""`cascade-tools bench` on the session's server."""

from __future__ import annotations

from pathlib import Path

import pytest

from cascade_tools.errors import CascadeError
from cascade_tools.serving.embedded import Server, free_ports
from cascade_tools.serving.perf_analyzer import VARIABLE, find_perf_analyzer
from cascade_tools.store import Workspace

from ..cli_calls import Outcome, assert_refused, call

TIERS = ["near", "linear", "kernel"]


def bench(work: Workspace, *arguments: object) -> Outcome:
    return call("bench", work.cascade.folder, "--build-dir", work.build.parent, *arguments, "--json")


def at(server: Server) -> tuple[object, ...]:
    return ("--url", server.grpc_url, "--metrics-url", server.metrics_url)


@pytest.fixture
def without_perf_analyzer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working folder and a PATH that hold none."""
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.mark.usefixtures("without_perf_analyzer")
def test_the_built_in_client_sends_the_wanted_share_of_hard_rows(server: Server, small: Workspace) -> None:
    outcome = bench(small, *at(server), "--clients", "8", "--hard-share", 0.9)
    assert outcome.code == 0, outcome.err
    content = outcome.content
    assert content["generator"] == "built-in"
    assert content["rows_from"] == "data.test"
    assert "the built-in client sends every row once" in " ".join(outcome.err.split())
    (row,) = content["table"]
    assert row["clients"] == 8
    # The embedded server on a machine without a GPU has no meter, so there is no figure.
    assert (row["energy_j"] is None) == (content["no_energy"] is not None)
    assert row["throughput_rps"] > 0
    assert 0 < row["p50_ms"] <= row["p99_ms"]
    assert [tier["tier"] for tier in row["tiers"]] == TIERS
    shares = [tier["answered_share"] for tier in row["tiers"]]
    assert sum(shares) == pytest.approx(1.0)
    assert shares[0] == pytest.approx(0.1, abs=0.05)
    # The router runs tiers as small as these itself, so Triton has no times of them.
    assert all(tier["queue_ms"] is None and tier["compute_ms"] is None for tier in row["tiers"])


def test_perf_analyzer_measures_every_number_of_clients(server: Server, small: Workspace) -> None:
    try:
        find_perf_analyzer()
    except CascadeError as error:
        pytest.skip(f"{error.message}; {error.hint}")
    outcome = bench(small, *at(server), "--clients", "1,4", "--seconds", 0.6)
    assert outcome.code == 0, outcome.err
    assert outcome.content["generator"] == "perf_analyzer"
    assert [row["clients"] for row in outcome.content["table"]] == [1, 4]
    for row in outcome.content["table"]:
        assert row["throughput_rps"] > 0
        assert sum(tier["answered_share"] for tier in row["tiers"]) == pytest.approx(1.0)
    assert "data's own mix, sent by perf_analyzer" in " ".join(outcome.out.split())


def test_nobody_at_the_address_is_one_message(small: Workspace) -> None:
    url = f"127.0.0.1:{free_ports().grpc}"
    assert_refused(bench(small, "--url", url), 1, url)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--clients", "0"), ("--clients 0", "1,8,32")),
        (("--clients", "1,many"), ("--clients 1,many",)),
        (("--url", "http://here"), ("--url http://here", "host:port")),
        (("--metrics-url", "http://here"), ("--metrics-url", "--url")),
    ],
)
def test_wrong_options_are_named(
    small: Workspace, arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    assert_refused(bench(small, *arguments), 2, *words)


def test_before_anything_is_built_it_says_what_to_run(small: Workspace, tmp_path: Path) -> None:
    outcome = bench(Workspace(small.cascade, tmp_path / "nothing" / "small"))
    assert_refused(outcome, 2, "no repository is built there", "cascade-tools run")
