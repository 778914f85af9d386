"""A plan for two hosts: two real servers, and the router of one asks tiers on the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import yaml
from tritonclient.utils import InferenceServerException

from cascade_tools.artifacts import GearPlan, PlacedInstances, Placement
from cascade_tools.errors import CascadeError, UsageError
from cascade_tools.models.usercode import Rows
from cascade_tools.repository.manifest import entry_shares_of, read_manifest
from cascade_tools.runtime.batch import DEGRADED, FALLBACK
from cascade_tools.serving.embedded import Ports, Server, embedded_triton, free_ports
from cascade_tools.spec import load_cascade
from cascade_tools.stages.build_repo import build_repo
from cascade_tools.stages.place import PLACEMENT_FILE
from cascade_tools.stages.progress import Reporter
from cascade_tools.store import Workspace

from ..cli_calls import assert_refused, call
from .helpers import INPUT, MODEL, Client, plan_path, predict, stubs, to_bytes, wait_until

TIERS = ("near", "linear", "kernel")


def on_two_hosts(work: Workspace, addresses: tuple[str, ...]) -> Workspace:
    """The same cascade planned on two CPUs: `near` on the first, `linear` on both, `kernel` on the second."""
    found = work.load(PLACEMENT_FILE, Placement, "place")
    devices = tuple(found.devices[0].model_copy(update={"host": host}) for host in (0, 1))
    rows = (("near", 0, 100.0), ("linear", 0, 10.0), ("linear", 1, 30.0), ("kernel", 1, 20.0))
    instances = tuple(
        PlacedInstances(tier=tier, device=host, count=1, busy_instances=0.1, rows_rps=rps)
        for tier, host, rps in rows
    )
    work.save(PLACEMENT_FILE, found.model_copy(update={"devices": devices, "instances": instances}))
    path = work.cascade.folder / "cascade.yaml"
    content = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**content, "hosts": list(addresses)}))
    return Workspace(load_cascade(work.cascade.folder), work.build)


@pytest.fixture
def ports() -> tuple[Ports, Ports]:
    first, second = free_ports(), free_ports()
    # Another loopback address stands for another host: gRPC listens there, the rest stays where it is.
    return first, Ports(second.http, second.grpc, second.metrics, grpc_address="127.0.0.2")


@pytest.fixture
def built(copied: Workspace, ports: tuple[Ports, Ports], report: Reporter, plan: GearPlan) -> Path:
    """The repositories of both hosts, with a plan that uses all tiers."""
    planned = on_two_hosts(copied, tuple(f"{some.grpc_address}:{some.grpc}" for some in ports))
    repository = build_repo(planned, "embedded", check=False, report=report)
    build_repo(planned, "embedded", check=True, report=report)
    plan_path(repository / "host0").write_bytes(to_bytes(plan))
    return repository


@pytest.fixture
def servers(
    triton: None, built: Path, ports: tuple[Ports, Ports], tmp_path: Path
) -> Iterator[tuple[Server, Server, ExitStack]]:
    """The servers of both hosts; closing the stack ends the second."""
    with ExitStack() as stack:
        second = stack.enter_context(
            embedded_triton(built / "host1", ports[1], log=tmp_path / "second.log", keep=True)
        )
        with embedded_triton(built / "host0", ports[0], log=tmp_path / "first.log") as first:
            yield first, second, stack


def test_each_host_has_the_models_of_its_part(built: Path) -> None:
    models = {
        host: {path.partition("/")[0] for path in read_manifest(built / host)["files"]}
        for host in ("host0", "host1")
    }
    assert models["host0"] == {
        MODEL,
        f"{MODEL}_near",
        f"{MODEL}_linear",
        f"{MODEL}_linear_here",
        f"{MODEL}_kernel",
    }
    assert models["host1"] == {f"{MODEL}_linear", f"{MODEL}_kernel"}
    assert entry_shares_of(built) == {"host0": 1.0, "host1": None}


def test_rows_are_answered_across_hosts_and_by_what_is_left_when_one_is_lost(
    servers: tuple[Server, Server, ExitStack], rows: Rows, tiers: tuple[Any, Any, Any], plan: GearPlan
) -> None:
    first, second, stack = servers
    pixels, expected = rows.inputs[INPUT], predict(tiers, TIERS, plan.gears[0].policy)
    with Client(first, "grpc") as client:
        answers = [client.ask(pixels[i : i + 8]) for i in range(0, 240, 8)]
        got = {name: np.concatenate([a[name] for a in answers]) for name in answers[0]}
        clear = expected.clear[:240]
        np.testing.assert_array_equal(got["TIER"][clear], expected.tier[:240][clear])
        np.testing.assert_array_equal(got["LABEL"][clear], expected.label[:240][clear])
        np.testing.assert_allclose(got["PROBS"][clear], expected.probabilities[:240][clear], atol=1e-5)
        assert not got["FLAGS"].any()
        assert set(got["TIER"]) == {0, 1, 2}
        # Both hosts had their share of the tier that is on both.
        assert 0 < inferred(first, f"{MODEL}_linear_here") < inferred(second, f"{MODEL}_linear")

        stack.close()
        wait_until(
            lambda: bool((client.ask(pixels[:8])["TIER"] < 2).all()), "the router does without the tier"
        )
        before = inferred(first, f"{MODEL}_linear_here")
        answer = client.ask(pixels[:240][expected.tier[:240] == 2][:8])
        assert (answer["FLAGS"] & (DEGRADED | FALLBACK)).all()
        assert (answer["TIER"] < 2).all()
        assert inferred(first, f"{MODEL}_linear_here") > before


def inferred(server: Server, model: str) -> int:
    with triton_grpc.InferenceServerClient(server.grpc_url) as client:
        return int(client.get_inference_statistics(model).model_stats[0].inference_count)


def test_beyond_loopback_grpc_infers_and_does_nothing_else(
    servers: tuple[Server, Server, ExitStack],
) -> None:
    _, second, _ = servers
    assert second.grpc_url.startswith("127.0.0.2:")
    with triton_grpc.InferenceServerClient(second.grpc_url) as client:
        assert client.is_model_ready(f"{MODEL}_kernel")
        allowed: Any = client
        tries: tuple[Callable[[], object], ...] = (
            lambda: allowed.load_model(f"{MODEL}_kernel"),
            lambda: allowed.unload_model(f"{MODEL}_kernel"),
            lambda: allowed.register_system_shared_memory("all", "/anything", 1),
            lambda: allowed.update_log_settings({"log_verbose_level": 9}),
        )
        for forbidden in tries:
            with pytest.raises(InferenceServerException, match="restricted"):
                forbidden()
    # The keeper uses HTTP, which is still on the loopback interface.
    (stub,) = stubs(second, f"{MODEL}_kernel")
    stub.kill()
    wait_until(
        lambda: [other for other in stubs(second, f"{MODEL}_kernel") if other.pid != stub.pid] != [],
        "the model is revived",
    )


def test_a_host_without_an_address_is_named(copied: Workspace, report: Reporter) -> None:
    with pytest.raises(
        UsageError, match=r"hosts: none given, and the plan asks tier \w+ on host 1"
    ) as caught:
        build_repo(on_two_hosts(copied, ()), "embedded", check=False, report=report)
    assert caught.value.hint is not None
    assert "10.0.0.2:8001" in caught.value.hint
    with pytest.raises(UsageError, match="host:port"):
        on_two_hosts(copied, ("http://there",))


def test_for_nvidias_server_the_configs_of_each_host_are_shown(
    copied: Workspace, report: Reporter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    planned = on_two_hosts(copied, ("10.0.0.1:8001", "10.0.0.2:8001"))
    repository = build_repo(planned, "ngc", check=False, report=report)
    build_repo(planned, "ngc", check=True, report=report)
    shown = (tmp_path / "model_repository" / MODEL / "host0" / f"{MODEL}_kernel" / "config.pbtxt").read_text()
    assert "10.0.0.2:8001" in shown
    assert (repository / "host0" / f"{MODEL}_kernel" / "1" / "model.py").is_file()
    assert (repository / "host1" / f"{MODEL}_kernel" / "1" / "model.onnx").is_file()


def test_verbs_that_need_one_server_say_how_to_start_several(copied: Workspace, report: Reporter) -> None:
    planned = on_two_hosts(copied, ("10.0.0.1:8001", "10.0.0.2:8001"))
    build_repo(planned, "embedded", check=False, report=report)
    at = (planned.cascade.folder, "--build-dir", planned.build.parent)
    assert_refused(call("serve", *at), 2, "for several hosts: host0, host1", "--host 0")
    assert_refused(call("serve", *at, "--host", 7), 2, "--host 7", "host0, host1")
    assert_refused(call("serve", *at, "--host", 1, "--grpc-address", "192.0.2.1"), 2, "--grpc-address")
    for address in ("::1", "", "example.com"):
        assert_refused(call("serve", *at, "--host", 1, "--grpc-address", address), 2, "IPv4")
    assert_refused(call("replay", *at, "--rate", 10), 2, "is for several hosts", "--host N", "--url")


def test_a_broken_addressee_is_no_reason_to_fail_at_start(
    triton: None, built: Path, ports: tuple[Ports, Ports]
) -> None:
    """The first host starts before the second does; its router answers by what it has."""
    with embedded_triton(built / "host0", ports[0]) as first, Client(first, "grpc") as client:
        with pytest.raises((InferenceServerException, CascadeError)):
            client.ask(np.zeros((1, 64), np.float32), model=f"{MODEL}_kernel")
        with triton_grpc.InferenceServerClient(first.grpc_url) as raw:
            assert raw.is_model_ready(f"{MODEL}_kernel")
