"""Which host serves what, and where a router's host sends the rows of each tier."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import types
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import model_config_pb2 as pb

from cascade_tools.artifacts import GearPlan, PlacedDevice, PlacedInstances, Placement
from cascade_tools.errors import ArtifactError, UsageError
from cascade_tools.repository import place
from cascade_tools.repository.hosts import HostPart, Shares, host_parts
from cascade_tools.repository.manifest import (
    Content,
    entry_shares_of,
    make_manifest,
    of_host,
    refuse_other_target,
)
from cascade_tools.repository.proxies import plan_here, proxy_configs, proxy_files
from cascade_tools.repository.rules import check_config
from cascade_tools.stages.build_repo import _check_adopted
from tests.helpers import plan_content

ADDRESSES = ("10.0.0.1:8001", "10.0.0.2:8001", "10.0.0.3:8001")
Rows = dict[str, dict[int, float]]  # rows/s by tier and host


def placement(rows: Rows, *, cpu: bool = True, closure: str = "pool", hosts: int = 3) -> Placement:
    """One device per host, the first a CPU if there is one; two instances of a tier where it has rows."""
    devices = [
        PlacedDevice(
            type="cpu" if cpu and host == 0 else "gpu",
            kind="cpu" if cpu and host == 0 else "gpu",
            gpu=None if cpu and host == 0 else 0,
            host=host,
            memory_mib=1000,
            used_memory_mib=0.0,
            busy_share=0.0,
        )
        for host in range(hosts)
    ]
    return Placement.model_validate(
        {
            "cascade": "digits",
            "made_from": {},
            "closure": closure,
            "rate_rps": 100.0,
            "bound_rps": 100.0,
            "gap": 0.0,
            "status": "optimal",
            "giant_only_rps": None,
            "batch": dict.fromkeys(rows, 1),
            "devices": devices,
            "instances": [
                PlacedInstances(tier=tier, device=host, count=2, busy_instances=1.0, rows_rps=rps)
                for tier, by_host in rows.items()
                for host, rps in by_host.items()
            ],
        }
    )


def ways(part: HostPart) -> dict[str, dict[int, Any]]:
    return {tier: {way.host: pytest.approx(way.share) for way in some} for tier, some in part.ways.items()}


def test_a_single_host_has_everything_and_sends_nothing_elsewhere() -> None:
    (part,) = host_parts(placement({"tiny": {0: 100.0}, "giant": {0: 20.0}}))
    assert (part.host, part.entry_share, part.ways) == (0, 1.0, {})
    assert len(part.placement.instances) == 2


def test_with_a_cpu_the_router_is_on_its_host_and_asks_the_others() -> None:
    first, second, third = host_parts(
        placement({"tiny": {0: 100.0}, "base": {0: 10.0, 1: 30.0}, "giant": {1: 5.0, 2: 15.0}})
    )
    assert first.entry_share == 1.0
    assert ways(first) == {"base": {0: 0.25, 1: 0.75}, "giant": {1: 0.25, 2: 0.75}}
    assert (second.entry_share, second.ways, third.entry_share, third.ways) == (None, {}, None, {})
    assert [instances.tier for instances in second.placement.instances] == ["base", "giant"]
    assert [instances.device for instances in second.placement.instances] == [0, 0]


def test_without_a_cpu_rows_enter_where_the_first_tier_is() -> None:
    first, second, third = host_parts(
        placement({"tiny": {0: 60.0, 1: 40.0}, "giant": {0: 4.0, 2: 16.0}}, cpu=False)
    )
    assert (first.entry_share, second.entry_share, third.entry_share) == (0.6, 0.4, None)
    assert ways(first) == {"giant": {0: pytest.approx(1 / 3), 2: pytest.approx(2 / 3)}}
    assert ways(second) == {"giant": {2: 1.0}}


def test_with_closure_host_nothing_is_asked_across_hosts() -> None:
    parts = host_parts(placement({"tiny": {0: 60.0, 1: 40.0}, "giant": {0: 4.0, 1: 16.0}}, closure="host"))
    assert [(part.entry_share, part.ways) for part in parts] == [(0.6, {}), (0.4, {})]


def test_many_equal_hosts_are_no_crumbs() -> None:
    parts = host_parts(placement({"tiny": dict.fromkeys(range(250), 1.0)}, cpu=False, hosts=250))
    assert [part.entry_share for part in parts] == [pytest.approx(0.004)] * 250


def test_a_tier_that_no_row_reaches_is_asked_by_its_instances() -> None:
    first, *_ = host_parts(placement({"tiny": {0: 100.0}, "giant": {1: 0.0, 2: 0.0}}))
    assert ways(first) == {"giant": {1: 0.5, 2: 0.5}}


def test_an_older_plan_for_several_hosts_is_to_be_made_again() -> None:
    def older(rows: Rows) -> Placement:
        made = placement(rows)
        instances = tuple(one.model_copy(update={"rows_rps": None}) for one in made.instances)
        return made.model_copy(update={"instances": instances})

    with pytest.raises(ArtifactError, match="older version") as caught:
        host_parts(older({"tiny": {0: 100.0}, "giant": {1: 5.0}}))
    assert "place" in str(caught.value.hint)
    (part,) = host_parts(older({"tiny": {0: 100.0}, "giant": {0: 5.0}}))
    assert part.entry_share == 1.0


@given(
    st.lists(
        st.dictionaries(st.integers(0, 3), st.floats(1.0, 100.0), min_size=1, max_size=4),
        min_size=1,
        max_size=4,
    ),
    st.booleans(),
)
def test_every_host_gets_the_rows_that_the_plan_gives_it(by_tier: list[Shares], cpu: bool) -> None:
    """What enters where it should and goes the ways of its host ends as planned, but for a few per cent."""
    rows = {f"tier{number}": by_host for number, by_host in enumerate(by_tier)}
    parts = host_parts(placement(rows, cpu=cpu, hosts=4))
    assert sum(part.entry_share or 0.0 for part in parts) == pytest.approx(1.0)
    for tier, by_host in rows.items():
        got = dict.fromkeys(range(4), 0.0)
        for part in parts:
            if part.entry_share is None:
                continue
            for way in part.ways.get(tier, ()):
                got[way.host] += part.entry_share * way.share
                # Who is sent rows from elsewhere has no proxy: nothing goes round in circles.
                there = next(other for other in parts if other.host == way.host)
                assert way.host == part.host or tier not in there.ways
            if tier not in part.ways:
                got[part.host] += part.entry_share
        whole = sum(by_host.values())
        for host, share in got.items():
            assert share == pytest.approx(by_host.get(host, 0.0) / whole, abs=0.05)


# The models of a host


def gear_plan() -> GearPlan:
    return GearPlan.model_validate(plan_content(("tiny", "base", "giant")))


def rendered_first() -> tuple[GearPlan, HostPart, dict[str, str]]:
    plan = gear_plan()
    whole = placement({"tiny": {0: 100.0}, "base": {0: 10.0, 1: 30.0}, "giant": {1: 5.0, 2: 15.0}})
    part = host_parts(whole)[0]
    return plan, part, proxy_configs(plan, whole, part, ADDRESSES)


def test_a_proxy_has_the_tiers_name_and_the_instances_beside_it_another() -> None:
    plan, part, configs = rendered_first()
    names = {tier.tier: tier.model for tier in plan.ladder}
    assert [tier.model for tier in plan_here(plan, part).ladder] == [names["tiny"], names["base"] + "_here"]
    assert set(configs) == {f"{names[tier]}/config.pbtxt" for tier in ("base", "giant")}
    assert set(proxy_files(plan, part)) == {
        f"{names[tier]}/1/{file}" for tier in ("base", "giant") for file in ("model.py", "joined.py")
    }


def test_the_config_of_a_proxy_passes_tritons_rules_and_names_the_hosts() -> None:
    plan, _, configs = rendered_first()
    for path, text in configs.items():
        check_config(path, text, router=False)
    base = text_format.Parse(configs[f"{plan.ladder[1].model}/config.pbtxt"], pb.ModelConfig())
    assert json.loads(base.parameters["ways"].string_value) == [
        {"model": plan.ladder[1].model + "_here", "share": 0.25},
        {"address": "10.0.0.2:8001", "model": plan.ladder[1].model, "share": 0.75},
    ]
    assert base.instance_group[0].count == 8  # two for each of the four instances behind it
    assert base.instance_group[0].kind == pb.ModelInstanceGroup.KIND_CPU


def test_an_adopted_model_is_on_the_routers_host_or_the_plan_is_refused() -> None:
    adopted = SimpleNamespace(adopted=[SimpleNamespace(name="giant")])
    work: Any = SimpleNamespace(cascade=adopted, command=lambda verb: f"cascade-tools {verb} mine")
    _check_adopted(work, host_parts(placement({"tiny": {0: 100.0, 1: 100.0}, "giant": {0: 20.0}})))
    for giant in ({1: 20.0}, {0: 10.0, 1: 10.0}):
        parts = host_parts(placement({"tiny": {0: 100.0}, "giant": giant}))
        with pytest.raises(UsageError, match=r"tiers\.giant: is adopted, and the plan has it on host"):
            _check_adopted(work, parts)


# Which repository a host serves


def put(root: Path, hosts: dict[int, float | None] | None) -> Path:
    files: dict[str, Content] = {"digits/config.pbtxt": b""}
    return place.put(root, files, make_manifest("digits", "embedded", files, hosts))


def test_a_host_is_named_where_there_are_several_and_only_there(tmp_path: Path) -> None:
    one, several = put(tmp_path / "one", None), put(tmp_path / "several", {0: 1.0, 2: None})
    assert of_host(one, None) == one
    assert of_host(several, 2) == several / "host2"
    assert entry_shares_of(several) == {"host0": 1.0, "host2": None}
    for repository, host in ((one, 0), (several, None), (several, 1)):
        with pytest.raises(UsageError) as caught:
            of_host(repository, host)
        assert "--host" in f"{caught.value.message} {caught.value.hint}"
    with pytest.raises(ArtifactError, match="missing"):
        of_host(tmp_path, None)
    with pytest.raises(ArtifactError, match="for several hosts: host0, host2"):
        refuse_other_target(several, "embedded")


# The order in which a proxy tries its hosts


def make_proxy(patch: pytest.MonkeyPatch) -> Any:
    """A proxy whose hosts are never asked; the module is Triton's to give."""
    patch.setitem(sys.modules, "triton_python_backend_utils", types.ModuleType("pb_utils"))
    from cascade_tools.backends.remote_tier import TritonPythonModel

    made: Any = TritonPythonModel()
    made._shares, made._ways = [0.2, 0.3, 0.5], [None, None, None]
    made._owed, made._rests_until_s, made._rest_s = [0.0] * 3, [0.0] * 3, [0.0] * 3
    made._inputs = ["ROW"]
    return made


@given(st.lists(st.integers(1, 32), min_size=40, max_size=80))
def test_batches_go_to_the_hosts_in_their_shares(sizes: list[int]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        made = make_proxy(patch)
        got = np.zeros(3)
        for size in sizes:
            order = made._order(size)
            assert sorted(order) == [0, 1, 2]
            got[order[0]] += size
    assert np.abs(got - sum(sizes) * np.array([0.2, 0.3, 0.5])).max() <= 3 * max(sizes)


def test_a_host_that_rests_comes_last_and_is_owed_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = make_proxy(monkeypatch)
    proxy._rests_until_s[2] = float("inf")
    first = [proxy._order(1)[0] for _ in range(50)]
    assert (first.count(0), first.count(1), proxy._owed[2]) == (20, 30, 0.0)
    assert proxy._order(1)[-1] == 2
    proxy._rests_until_s = [float("inf")] * 3
    assert sorted(proxy._order(1)) == [0, 1, 2]


class Host:
    """Answers with its number, or does what it is told."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.fault: type[Exception] | None = None
        self.asked = 0

    def ask(self, outputs: object, rows: object) -> list[int]:
        self.asked += 1
        if self.fault is not None:
            raise self.fault(f"host {self.number}")
        return [self.number]


def test_rows_of_a_host_that_is_gone_go_to_the_others_and_it_rests_longer_each_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = make_proxy(monkeypatch)
    from cascade_tools.backends import remote_tier

    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    hosts = made._ways = [Host(number) for number in range(3)]
    hosts[2].fault = remote_tier._Unreachable
    rows = {"ROW": np.zeros((1, 1))}
    rests = []
    for _ in range(7):
        assert all(made._ask(["LABEL"], rows) in ([0], [1]) for _ in range(20))
        rests.append(made._rest_s[2])
        now[0] += 31.0
    assert rests == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    assert hosts[2].asked == 7
    hosts[2].fault = None
    assert [2] in [made._ask(["LABEL"], rows) for _ in range(20)]
    assert made._rest_s[2] == 0.0
    for host in hosts:
        host.fault = remote_tier._Unreachable
    with pytest.raises(RuntimeError, match=r"host \d; host \d; host \d"):
        made._ask(["LABEL"], rows)


def test_rows_that_a_host_does_not_answer_in_time_are_not_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    made = make_proxy(monkeypatch)
    from cascade_tools.backends import remote_tier

    hosts = made._ways = [Host(number) for number in range(3)]
    for host in hosts:
        host.fault = remote_tier._Late
    for asked in (1, 2, 3):
        with pytest.raises(remote_tier._Late):
            made._ask(["LABEL"], {"ROW": np.zeros((1, 1))})
        assert sum(host.asked for host in hosts) == asked
    assert made._rest_s == [1.0, 1.0, 1.0]


def test_without_tritonclient_a_proxy_says_what_to_install() -> None:
    code = """
import sys, types
sys.modules["triton_python_backend_utils"] = types.ModuleType("pb_utils")
sys.modules["tritonclient.grpc"] = None
from cascade_tools.backends.remote_tier import _Remote
try:
    _Remote("10.0.0.2:8001", "m", {}, 5.0)
except RuntimeError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "pip install tritonclient[grpc]" in done.stdout
