"""The answer of `place` on one screen: facts, not wording."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from cascade_tools.artifacts import Lost, PlacedDevice, PlacedInstances, Placement
from cascade_tools.cli.placement_screen import WIDTH, placement_screen
from cascade_tools.resources import shipped_cascade

from .cli_calls import Outcome, call

MOST_LINES = 45
VIT = shipped_cascade("vit-cluster")
SIXTEEN = VIT / "devices" / "8x24-8x16.yaml"
# Work per row at the planned batches: GPU time of the 24 GB type, the other one takes twice as long.
WORK_MS = sum(
    reach * ms / batch * share
    for reach, ms, batch, share in (
        (1.0, 19.77, 64, 0.751),
        (0.403767, 16.29, 32, 0.861),
        (0.354133, 8.973, 8, 0.906),
        (0.1727, 12.51, 4, 0.906),
    )
)
LARGE_MS = 12.51 / 4 * 0.906


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """In an empty build folder: the given profile is read on the way."""
    build = tmp_path_factory.mktemp("build")
    return call("place", VIT, "--devices", SIXTEEN, "--build-dir", build, "--json")


def test_the_cluster_is_answered_on_one_screen(shown: Outcome) -> None:
    assert shown.code == 0, shown.err
    lines = shown.out.splitlines()[:-1]
    assert 10 <= len(lines) <= MOST_LINES
    assert max(map(len, lines)) <= WIDTH <= 100


def test_it_says_at_which_rate_and_what_is_gained(shown: Outcome) -> None:
    content, text = shown.content, shown.out
    assert content["bound_rps"] == pytest.approx(12 / WORK_MS * 1000, rel=1e-3)
    assert content["rate_rps"] == pytest.approx(12 / WORK_MS * 1000, rel=5e-3)
    assert content["gap"] <= 0.005
    assert content["giant_only_rps"] == pytest.approx(12 / LARGE_MS * 1000, rel=1e-3)
    for rate in content["baselines"].values():
        assert rate is None or rate <= content["rate_rps"] * (1 + 1e-6)
    assert f"{content['rate_rps']:,.0f} rows/s" in text
    assert f"{content['rate_rps'] / content['giant_only_rps']:.2f}x" in text
    # The published policy: .389 against .867 J per row.
    assert content["energy_j"] == pytest.approx(0.389046, rel=1e-5)
    assert content["giant_energy_j"] == pytest.approx(0.86746682)
    assert "2.23x" in text
    assert "modelled" in text, "the times of this cascade are not measured"


def test_it_says_on_which_gpus(shown: Outcome) -> None:
    content = shown.content
    assert [device["type"] for device in content["devices"]] == ["gpu-24gb"] * 8 + ["gpu-16gb"] * 8
    assert [device["host"] for device in content["devices"]] == [h for h in range(4) for _ in range(4)]
    assert [device["gpu"] for device in content["devices"]] == [0, 1, 2, 3] * 4
    named: set[int] = set()
    for label in re.findall(r"^    gpu-\d+gb ([\d,-]+) .*busy", shown.out, re.MULTILINE):
        for part in label.split(","):
            first, _, last = part.partition("-")
            named |= set(range(int(first), int(last or first) + 1))
    assert named == set(range(16)), "every GPU is in one of the lines"


def test_it_says_what_is_left_without_each_of_them(shown: Outcome) -> None:
    content = shown.content
    lost = [(entry["what"], number) for entry in content["losses"] for number in entry["which"]]
    assert sorted(lost) == sorted([*(("device", n) for n in range(16)), *(("host", n) for n in range(4))])
    for entry in content["losses"]:
        speed = 12.0
        for number in entry["which"][:1]:
            fast = (
                content["devices"][number]["type"] == "gpu-24gb" if entry["what"] == "device" else number < 2
            )
            speed -= (1.0 if fast else 0.5) * (1 if entry["what"] == "device" else 4)
        # What is left does no more than its work, and no less than half of that.
        assert entry["rate_rps"] <= speed / WORK_MS * 1000 * (1 + 1e-3)
        assert entry["rate_rps"] >= 0.5 * speed / WORK_MS * 1000
        assert f"{entry['rate_rps']:,.0f}" in shown.out


def test_other_devices_are_for_one_call(shown: Outcome, tmp_path: Path) -> None:
    folder, build = tmp_path / "vit-cluster", tmp_path / "build"
    shutil.copytree(VIT, folder)
    other = tmp_path / "two.yaml"
    other.write_text("devices: [{type: gpu-24gb, kind: gpu, count: 2, memory_mib: 24576, reserved_mib: 600}]")
    placed = call("place", folder, "--devices", other, "--build-dir", build, "--json")
    assert placed.code == 0, placed.err
    assert len(placed.content["devices"]) == 2
    assert json.loads((build / "vit-cluster" / "placement.json").read_text()) == placed.content
    states = call("status", folder, "--build-dir", build, "--json").content
    assert states["stages"]["place"] == "stale"
    assert "devices" in states["changed"]["place"]
    same = tmp_path / "same.yaml"
    same.write_text((folder / "devices" / "8x24-8x16.yaml").read_text())
    assert call("place", folder, "--devices", same, "--build-dir", build).code == 0
    assert call("status", folder, "--build-dir", build, "--json").content["stages"]["place"] == "fresh"


def test_device_files_that_are_wrong_are_named(tmp_path: Path) -> None:
    outcome = call("place", VIT, "--devices", tmp_path / "none.yaml", "--build-dir", tmp_path / "build")
    assert outcome.code == 2
    assert "none.yaml: no such file" in outcome.err
    assert not (tmp_path / "build").exists()


def many() -> Placement:
    """Forty devices, no two of which hold the same, and as many losses."""
    numbers = range(40)
    return Placement(
        cascade="wide",
        made_from={},
        rate_rps=1234.0,
        bound_rps=1300.0,
        gap=0.05,
        status="time limit",
        giant_only_rps=None,
        baselines={"giant_only": None, "full_lp": 1200.0, "greedy": None, "dedicated": 1000.0},
        batch={f"a-tier-with-a-long-name-{k}": 4 for k in range(6)},
        devices=tuple(
            PlacedDevice(
                type="a-gpu-with-a-long-name",
                kind="gpu",
                gpu=0,
                host=number,
                memory_mib=1000,
                used_memory_mib=1.0,
                busy_share=0.5,
            )
            for number in numbers
        ),
        instances=tuple(
            PlacedInstances(
                tier=f"a-tier-with-a-long-name-{k}",
                stages=4,
                stage=1 + (number + k) % 4,
                device=number,
                count=1 + number * k,
                busy_instances=0.5,
            )
            for number in numbers
            for k in range(2)
        ),
        losses=tuple(
            Lost(what="device", which=(number,), rate_rps=None, homeless=("a-tier-with-a-long-name-5",))
            for number in numbers
        ),
    )


def test_however_much_there_is_the_screen_is_one() -> None:
    lines = placement_screen(many())
    assert len(lines) <= MOST_LINES
    assert max(map(len, lines)) <= WIDTH
    text = "\n".join(lines)
    assert "--json has all" in text
    assert "a-tier-with-a-long-name-5" in text


def trio(**changes: object) -> Placement:
    """Three tiers on three devices of one host, one on each, and the loss of the one that is named."""
    values: dict[str, object] = {
        "cascade": "trio",
        "made_from": {},
        "rate_rps": 1000.0,
        "bound_rps": 1000.0,
        "gap": 0.0,
        "status": "optimal",
        "giant_only_rps": None,
        "batch": {"small": 1, "mid": 1, "giant": 1},
        "devices": tuple(
            PlacedDevice(type="a", kind="gpu", gpu=k, memory_mib=1000, used_memory_mib=1.0, busy_share=0.5)
            for k in range(3)
        ),
        "instances": tuple(
            PlacedInstances(tier=tier, device=k, count=1, busy_instances=0.5)
            for k, tier in enumerate(("small", "mid", "giant"))
        ),
    }
    return Placement.model_validate({**values, **changes})


def without(*homeless: str, rate_rps: float | None = 500.0, **more: bool) -> str:
    lost = Lost(what="device", which=(2,), rate_rps=rate_rps, homeless=homeless, **more)
    return " ".join(" ".join(placement_screen(trio(losses=(lost,)))).split())


def test_it_says_what_becomes_of_the_rows_of_a_lost_tier() -> None:
    larger, kept = "go to the next larger tier", "keep the last answer they have"
    assert f"without small: its rows {larger}" in without("small")
    assert f"without small, mid: their rows {larger}" in without("small", "mid")
    # Nobody is larger than the giant.
    assert f"without giant: rows that ask for it {kept}" in without("giant")
    assert larger not in without("giant")
    assert f"rows that ask for mid {kept}" in without("mid", "giant")
    both = without("small", "giant")
    assert f"rows that ask for giant {kept}" in both
    assert "others' go to the next larger" in both
    assert "nothing is left that could answer" in without("small", "mid", "giant", rate_rps=None)
    assert "the router runs there" in without("small", rate_rps=None, router_gone=True)
    assert "rows reach none of the tiers that are left" in without("small", rate_rps=None)
    unasked = trio().instances[0].model_copy(update={"busy_instances": 0.0})
    lost = Lost(what="device", which=(0,), rate_rps=500.0, homeless=("small",))
    shown = " ".join(placement_screen(trio(losses=(lost,), instances=(unasked, *trio().instances[1:]))))
    assert "without small: no rows reach it" in shown


def test_it_says_when_the_router_binds_and_what_is_not_counted() -> None:
    def text(**changes: object) -> str:
        return " ".join(" ".join(placement_screen(trio(**changes))).split())

    assert "router binds" not in text(router_rps=1001.0)
    binds = text(router_rps=1000.0, notes=("nothing is known of it",))
    assert "The router binds: its processes take at most 1,000 rows/s" in binds
    assert "serving.router_instances" in binds
    assert "Note: nothing is known of it" in binds


def test_where_a_lost_host_takes_a_tier_along_the_other_closure_is_named() -> None:
    devices = tuple(device.model_copy(update={"host": k}) for k, device in enumerate(trio().devices))
    lost = Lost(what="host", which=(2,), rate_rps=500.0, homeless=("giant",))

    def text(**changes: object) -> str:
        return " ".join(placement_screen(trio(devices=devices, **changes)))

    assert "`closure: host` keeps every tier" in text(losses=(lost,))
    assert "closure: host" not in text(losses=(lost,), closure="host")
    assert "closure: host" not in text(losses=(lost.model_copy(update={"homeless": ()}),))
