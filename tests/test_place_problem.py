"""`place --problem`: what may be written, what becomes of it, and both forms of the answer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from cascade_tools.errors import UsageError
from cascade_tools.spec import ProblemFile, load_problem
from cascade_tools.stages.problem_file import problem_from

from .cli_calls import assert_refused, call

Json = dict[str, Any]
# HybridServe's vision transformers at batch 4; the times are assumed.
REACH = (1.0, 0.403767, 0.354133, 0.1727)
TIME_MS = (3.06, 4.28, 6.2, 12.5)
UTILIZATION = (0.153, 0.279, 0.589, 0.906)
WEIGHTS_MIB = (23, 87, 332, 1163)


def vit(**changes: Any) -> Json:
    """The published tiers on eight equal GPUs."""
    tiers = [
        {
            "name": name,
            "reach": reach,
            "batch": 4,
            "weights_mib": weights,
            "activation_mib": 100,
            "time_ms": {"A": ms},
            "utilization": {"A": share},
        }
        for name, reach, weights, ms, share in zip(
            ("tiny", "small", "base", "large"), REACH, WEIGHTS_MIB, TIME_MS, UTILIZATION, strict=True
        )
    ]
    devices = [{"type": "A", "count": 8, "memory_mib": 24576, "reserved_mib": 600}]
    return {"tiers": tiers, "devices": devices, "rule": "loose", "objective": "max_rate", **changes}


def one(**changes: Any) -> Json:
    """One tier on two GPUs of 1,000 MiB."""
    tier = {
        "name": "only",
        "reach": 1,
        "batch": 2,
        "weights_mib": 300,
        "activation_mib": 50,
        "time_ms": {"A": 4.0},
        "utilization": {"A": 1.0},
    }
    return {"tiers": [{**tier, **changes}], "devices": [{"type": "A", "count": 2, "memory_mib": 1000}]}


def written(folder: Path, content: Json | str) -> Path:
    path = folder / "problem.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


# What may be written


def at(content: Json, *path: str | int, value: Any) -> Json:
    """The content with one value changed, or taken away where the value is `...`."""
    inner: Any = content
    for key in path[:-1]:
        inner = inner[key]
    if value is ...:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return content


MISTAKES: dict[str, tuple[Json, str]] = {
    "no tiers": (at(vit(), "tiers", value=[]), "tiers: must have 1 to"),
    "tiers missing": (at(vit(), "tiers", value=...), "tiers: Field required"),
    "devices missing": (at(vit(), "devices", value=...), "devices: Field required"),
    "unknown key": (vit(solver="gurobi"), "solver: unknown key"),
    "unknown key of a tier": (at(vit(), "tiers", 1, "speed", value=1), "tiers.1.speed: unknown key"),
    "unknown key of a device": (at(vit(), "devices", 0, "mem", value=1), "devices.0.mem: unknown key"),
    "a text for a number": (at(vit(), "tiers", 0, "batch", value="four"), "tiers.0.batch:"),
    "a truth value for a number": (at(vit(), "tiers", 0, "reach", value=True), "tiers.0.reach:"),
    "reach above one": (at(vit(), "tiers", 0, "reach", value=1.5), "tiers.0.reach:"),
    "no reach at all": (one(reach=0), "tiers: no row reaches"),
    "not a number": (at(vit(), "tiers", 0, "weights_mib", value=float("nan")), "tiers.0.weights_mib:"),
    "utilization above one": (
        at(vit(), "tiers", 3, "utilization", "A", value=1.2),
        "tiers.3.utilization.A:",
    ),
    "no utilization of a type": (at(vit(), "tiers", 3, "utilization", value={"B": 0.5}), "utilization: has"),
    "energy of a type without time": (one(energy_j={"B": 1.0}), "energy_j: names device type 'B'"),
    "a tier that runs nowhere": (
        one(time_ms={"B": 1.0}, utilization={"B": 1.0}),
        "tiers.0.time_ms: tier 'only' runs on no device",
    ),
    "a name twice": (at(vit(), "tiers", 1, "name", value="tiny"), "tiers: the name 'tiny' is given twice"),
    "stages that are no list": (one(stages=4), "tiers.0.stages: must be a list of numbers of stages"),
    "times of a type that no device has": (
        at(vit(), "tiers", 3, "time_ms", "B", value=1.0),
        "tiers.3.time_ms: names device type 'B', and no device is of that type: they are 'A'",
    ),
    "no number of stages": (one(stages=[]), "tiers.0.stages: must be"),
    "stages twice": (one(stages=[2, 2]), "tiers.0.stages: must be"),
    "no stages": (one(stages=[0]), "tiers.0.stages.0:"),
    "overhead of no number": (one(stage_overhead={"two": 0.1}), "tiers.0.stage_overhead.two"),
    "an overhead twice": (one(stage_overhead={"2": 0.1, 2: 0.2}), "tiers.0.stage_overhead: 2 is given twice"),
    "nothing left of a device": (
        at(vit(), "devices", 0, "reserved_mib", value=24576),
        "devices.0: reserved_mib: must be below",
    ),
    "half a device": (at(vit(), "devices", 0, "count", value=2.5), "devices.0.count:"),
    "a rule that is none": (vit(rule="tight"), "rule: "),
    "a closure that is none": (vit(closure="rack"), "closure: "),
    "an objective that is none": (vit(objective="min_cost"), "objective: must be max_rate, or"),
    "no rate": (vit(objective={"minimise": "gpus"}), "objective.rate_rps: Field required"),
    "minimise what": (vit(objective={"rate_rps": 5, "minimise": "dollars"}), "objective.minimise: "),
    "energy without figures": (
        vit(objective={"rate_rps": 5, "minimise": "energy"}),
        "tiers.0.energy_j: tier 'tiny' has nothing for device type 'A'",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_message_that_names_the_field(tmp_path: Path, mistake: str) -> None:
    content, words = MISTAKES[mistake]
    with pytest.raises(UsageError) as caught:
        load_problem(written(tmp_path, content))
    assert f"problem.yaml: {words.partition(':')[0]}" in caught.value.message or words in caught.value.message
    assert words in caught.value.message
    assert "\n" not in caught.value.message, "one message"
    assert "docs/placement.md" in caught.value.hint


@pytest.mark.parametrize(("text", "words"), [("", "is empty"), ("- 1", "found a list"), ("four", "'four'")])
def test_a_file_without_fields_is_told_in_words(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        load_problem(written(tmp_path, text))
    assert caught.value.hint


def test_numbers_that_yaml_takes_for_texts_are_numbers(tmp_path: Path) -> None:
    text = yaml.safe_dump(one()).replace("A: 4.0", "A: 4e-1")
    assert yaml.safe_load(text)["tiers"][0]["time_ms"]["A"] == "4e-1"
    assert load_problem(written(tmp_path, text)).tiers[0].time_ms["A"] == 0.4


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "give either the folder of a cascade or --problem"),
        (("folder", "--problem", "problem.yaml"), "give either the folder of a cascade or --problem"),
        (("--problem", "problem.yaml", "--devices", "two.yaml"), "--devices: belongs to a cascade"),
        (("--problem", "nowhere.yaml"), "nowhere.yaml: no such file"),
    ],
)
def test_arguments_that_do_not_go_together_are_refused(arguments: tuple[str, ...], words: str) -> None:
    assert_refused(call("place", *arguments), 2, words)


# What becomes of it


def test_a_stage_has_its_share_of_weights_and_time_and_all_of_the_activation() -> None:
    content = one(stages=[1, 2, 4], stage_overhead={"2": 0.1, 8: 0.5}, energy_j={"A": 0.8})
    tier = problem_from(ProblemFile.model_validate(content)).tiers[0]
    whole, half, quarter = tier.variants
    assert [variant.stages for variant in tier.variants] == [1, 2, 4]
    assert [variant.memory_mib for variant in tier.variants] == [350, 200, 125]
    assert [variant.further_mib for variant in tier.variants] == [350, 200, 125]
    assert whole.seconds_per_row["A"] == pytest.approx(0.002)
    assert half.seconds_per_row["A"] == pytest.approx(0.002 * 1.1 / 2)
    assert quarter.seconds_per_row["A"] == pytest.approx(0.002 / 4)
    assert [variant.energy_j["A"] * variant.stages for variant in tier.variants] == pytest.approx([0.8] * 3)
    assert {variant.batch for variant in tier.variants} == {2}


def test_devices_are_in_their_hosts_without_what_is_reserved() -> None:
    content = vit(
        devices=[
            {"type": "A", "count": 5, "memory_mib": 1000, "reserved_mib": 100, "per_host": 2, "idle_w": 60},
            {"type": "A", "count": 2, "memory_mib": 2000},
            {"type": "B", "memory_mib": 3000},
            {"type": "B", "count": 2, "memory_mib": 500, "per_host": 8},
        ]
    )
    devices = problem_from(ProblemFile.model_validate(content)).devices
    # Those without `per_host` are together in the first host.
    assert [device.host for device in devices] == [1, 1, 2, 2, 3, 0, 0, 0, 4, 4]
    assert [device.memory_mib for device in devices] == [900] * 5 + [2000] * 2 + [3000] + [500] * 2
    assert [device.idle_w for device in devices] == [60.0] * 5 + [0.0] * 5


def test_memory_is_rounded_so_that_it_fits() -> None:
    content = one(weights_mib=100.2, activation_mib=0.3)
    content["devices"][0] |= {"memory_mib": 1000.9, "reserved_mib": 0.1}
    problem = problem_from(ProblemFile.model_validate(content))
    assert (problem.tiers[0].variants[0].memory_mib, problem.devices[0].memory_mib) == (101, 1000)


# The answer


def test_the_published_tiers_on_eight_gpus(tmp_path: Path) -> None:
    """GPUs over the sum of reach x time / batch x utilization: 7,620 rows/s; in a process of its own."""
    path = written(tmp_path, vit())
    done = subprocess.run(
        [sys.executable, "-m", "cascade_tools.cli.app", "place", "--problem", path.name, "--json"],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "Highs" not in done.stdout
    content = json.loads(done.stdout.splitlines()[-1])
    assert content["rate_rps"] == pytest.approx(7620.0, abs=1.0)
    assert content["bound_rps"] == pytest.approx(7620.0, abs=1.0)
    assert content["gap"] == pytest.approx(0.0, abs=1e-3)
    assert isinstance(content["status"], str)
    assert content["seconds"] >= 0.0
    assert set(content["baselines"]) == {"giant_only", "full_lp", "greedy", "dedicated"}
    for baseline in content["baselines"].values():
        assert baseline["feasible"] == (baseline["rate_rps"] is not None)
        assert (baseline["rate_rps"] or 0.0) <= content["rate_rps"] * (1.0 + 1e-6)
    giant_only = 8 / (TIME_MS[3] / 1000 / 4 * UTILIZATION[3])
    assert content["baselines"]["giant_only"]["rate_rps"] == pytest.approx(giant_only, rel=1e-6)
    assert {entry["tier"] for entry in content["instances"]} == {"tiny", "small", "base", "large"}
    assert len(content["load"]) == 8
    assert_holds(content, vit())
    assert [entry.name for entry in tmp_path.iterdir()] == ["problem.yaml"], "nothing is written"


def assert_holds(content: Json, problem: Json) -> None:
    """Memory, busy share and coverage of an answer, from the problem as it was written."""
    tiers = {tier["name"]: tier for tier in problem["tiers"]}
    done = dict.fromkeys(tiers, 0.0)
    used = [0.0] * len(content["load"])
    busy = [0.0] * len(content["load"])
    for entry in content["instances"]:
        tier = tiers[entry["tier"]]
        assert entry["stages"] == 1
        used[entry["device"]] += entry["count"] * (tier["weights_mib"] + tier["activation_mib"])
        busy[entry["device"]] += entry["busy_instances"] * tier["utilization"]["A"]
        assert entry["busy_instances"] <= entry["count"] + 1e-9
        done[entry["tier"]] += entry["busy_instances"] / tier["time_ms"]["A"] * 1000 * tier["batch"]
    for number, device in enumerate(content["load"]):
        assert used[number] <= device["memory_mib"]
        assert device["used_memory_mib"] == pytest.approx(used[number])
        assert busy[number] <= 1.0 + 1e-6
        assert device["busy_share"] == pytest.approx(busy[number])
    for name, tier in tiers.items():
        assert done[name] >= tier["reach"] * content["rate_rps"] * (1.0 - 1e-6)


def test_by_the_strict_rule_the_largest_shares_a_gpu_with_nobody(tmp_path: Path) -> None:
    outcome = call("place", "--problem", written(tmp_path, vit(rule="strict")), "--json")
    assert outcome.code == 0, outcome.err
    homes: dict[int, list[Json]] = {}
    for entry in outcome.content["instances"]:
        homes.setdefault(entry["device"], []).append(entry)
    with_large = [here for here in homes.values() if any(entry["tier"] == "large" for entry in here)]
    assert with_large
    assert all(len(here) == 1 and here[0]["count"] == 1 for here in with_large)
    assert outcome.content["bound_rps"] >= outcome.content["rate_rps"]


def test_the_fewest_gpus_at_a_rate(tmp_path: Path) -> None:
    # Each GPU does 500 rows/s, and one of the eight is not needed for 3,400.
    content = one()
    content["devices"][0]["count"] = 8
    content["objective"] = {"rate_rps": 3400, "minimise": "gpus"}
    outcome = call("place", "--problem", written(tmp_path, content), "--json")
    assert outcome.code == 0, outcome.err
    found = outcome.content
    assert (found["minimise"], found["value"], found["bound"]) == ("gpus", 7.0, 7.0)
    assert found["rate_rps"] == pytest.approx(3400.0)
    assert found["bound_rps"] == pytest.approx(4000.0)
    assert len({entry["device"] for entry in found["instances"]}) == 7


INFEASIBLE: dict[str, tuple[Json, str]] = {
    "a tier that fits nowhere": (one(weights_mib=1300), "memory"),
    "a rate that is too high": ({**one(), "objective": {"rate_rps": 1001}}, "rate"),
}


@pytest.mark.parametrize("case", INFEASIBLE)
def test_without_a_placement_the_constraint_is_named(tmp_path: Path, case: str) -> None:
    content, constraint = INFEASIBLE[case]
    outcome = call("place", "--problem", written(tmp_path, content), "--json")
    assert_refused(outcome, 3)
    assert outcome.content["constraint"] == constraint
    assert outcome.content["detail"]
    assert "missing_mib" in outcome.content
    if constraint == "memory":
        assert outcome.content["missing_mib"] == 350


def test_stages_of_a_giant_are_on_devices_of_one_host(tmp_path: Path) -> None:
    content = one(weights_mib=1600, stages=[1, 2], stage_overhead={2: 0.04})
    content["devices"][0] |= {"count": 4, "per_host": 2}
    outcome = call("place", "--problem", written(tmp_path, content), "--json")
    assert outcome.code == 0, outcome.err
    hosts: dict[int, set[int]] = {}
    for entry in outcome.content["instances"]:
        assert entry["stages"] == 2
        hosts.setdefault(entry["host"], set()).add(entry["stage"])
    assert hosts == {0: {1, 2}, 1: {1, 2}}
    assert outcome.content["rate_rps"] == pytest.approx(2 * 500 * 2 / 1.04)
