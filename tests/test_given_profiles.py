"""Cascades whose profile is given: the shipped one, what works without models, and the verb's other forms."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from cascade_tools.artifacts import Profile
from cascade_tools.errors import UsageError
from cascade_tools.resources import shipped_cascade
from cascade_tools.spec import load_cascade, load_devices
from cascade_tools.stages.digests import source_digests
from cascade_tools.stages.given_profile import digest_given, read_profile
from tests.helpers import spec_content, write_cascade

from .cli_calls import Outcome, assert_refused, call

VIT = shipped_cascade("vit-cluster")
BATCHES = (1, 4, 8, 32, 64)
# HybridServe (arXiv 2505.12566) and its authors' prototype.
UTILIZATION = {
    "tiny": (0.123, 0.153, 0.218, 0.483, 0.751),
    "small": (0.168, 0.279, 0.411, 0.861, 0.857),
    "base": (0.260, 0.589, 0.906, 0.918, 0.909),
    "large": (0.298, 0.906, 0.942, 0.971, 0.976),
}
MEMORY = {"tiny": (48, 502), "small": (118, 958), "base": (382, 2022), "large": (1192, 3440)}
ENERGY_J = {"tiny": 0.07421349, "small": 0.13577228, "base": 0.31118394, "large": 0.86746682}
REACH = {"tiny": 1.0, "small": 0.403767, "base": 0.354133, "large": 0.1727}
TABLE = """\
points:
  - {tier: small, device: gpu, batch: 1, time_ms: 2, utilization: .5, memory_mib: 100}
  - {tier: small, device: gpu, batch: 64, time_ms: 20, utilization: .9, memory_mib: 100}
  - {tier: large, device: gpu, batch: 1, time_ms: 9, utilization: .9, memory_mib: 800}
"""
DEVICES = "devices: [{type: gpu, kind: gpu, count: 2, memory_mib: 4096}]\n"


# The shipped cascade


@pytest.fixture(scope="module")
def vit() -> Profile:
    cascade = load_cascade(VIT)
    assert cascade.profile.given is not None
    return read_profile(cascade, VIT / cascade.profile.given)


@pytest.mark.parametrize("tier", UTILIZATION)
def test_the_shipped_profile_is_what_was_published(vit: Profile, tier: str) -> None:
    points = vit.points_of(tier, "gpu-24gb")
    assert tuple(p.batch for p in points) == BATCHES
    assert tuple(p.kernel_utilization for p in points) == UTILIZATION[tier]
    assert (points[0].memory_mib, points[-1].memory_mib) == MEMORY[tier]
    assert [p.energy_j for p in points] == [None] * 4 + [ENERGY_J[tier]]
    assert {p.origin for p in points} == {"given"}
    assert points[-1].energy_origin == "given"


@pytest.mark.parametrize("tier", UTILIZATION)
def test_what_was_not_published_is_modelled_by_the_stated_rules(vit: Profile, tier: str) -> None:
    low, high = MEMORY[tier]
    for p, slower in zip(vit.points_of(tier, "gpu-24gb"), vit.points_of(tier, "gpu-16gb"), strict=True):
        time_ms = 1000.0 * p.batch * ENERGY_J[tier] / (60.0 + 240.0 * p.kernel_utilization)
        assert p.latency_p50_ms == pytest.approx(time_ms, rel=1e-3)
        assert p.latency_p99_ms is None
        assert p.memory_mib == pytest.approx(low + (high - low) * (p.batch - 1) / 63, rel=1e-3)
        assert p.modelled == (("time",) if p.batch in (1, 64) else ("time", "memory"))
        assert slower.origin == "modelled"
        assert slower.latency_p50_ms == pytest.approx(2.0 * p.latency_p50_ms, rel=1e-3)
        assert (slower.kernel_utilization, slower.memory_mib) == (p.kernel_utilization, p.memory_mib)
        assert slower.energy_j is None


def test_the_shipped_cascade_is_legal() -> None:
    cascade = load_cascade(VIT)
    assert not cascade.has_models
    assert {tier.name: tier.reach for tier in cascade.tiers} == REACH
    groups = load_devices(cascade).devices
    assert [(g.kind, g.count, g.memory_mib) for g in groups] == [("gpu", 8, 24576), ("gpu", 8, 16384)]


def test_the_shipped_cascade_plans_without_models(tmp_path: Path) -> None:
    folder, build = tmp_path / "vit-cluster", tmp_path / "build"
    shutil.copytree(VIT, folder)
    # One GPU of each type, so that the solver takes no time.
    devices = yaml.safe_load((folder / "devices" / "8x24-8x16.yaml").read_text())
    (folder / "two.yaml").write_text(
        yaml.safe_dump({"devices": [{**g, "count": 1} for g in devices["devices"]]})
    )
    spec = yaml.safe_load((folder / "cascade.yaml").read_text())
    (folder / "cascade.yaml").write_text(yaml.safe_dump({**spec, "devices": "two.yaml"}))

    shown = call("profile", folder, "--build-dir", build, "--json")
    assert shown.code == 0, shown.err
    assert "given by profile.yaml, not measured here" in shown.out
    assert "arXiv 2505.12566" in shown.out
    assert len(shown.content["points"]) == 40
    placed = call("place", folder, "--build-dir", build, "--json")
    assert placed.code == 0, placed.err
    assert placed.content["status"] == "optimal"
    assert {entry["tier"] for entry in placed.content["instances"]} == set(REACH)
    # Two GPUs of which one takes twice the time: one and a half, over what a row keeps busy of the first.
    u = {tier: UTILIZATION[tier][BATCHES.index(batch)] for tier, batch in placed.content["batch"].items()}
    busy_s = sum(REACH[tier] * ENERGY_J[tier] / (60.0 + 240.0 * u[tier]) * u[tier] for tier in REACH)
    assert placed.content["rate_rps"] == pytest.approx(1.5 / busy_s, rel=5e-3)

    states = call("status", folder, "--build-dir", build, "--json").content["stages"]
    assert {name for name, state in states.items() if state == "fresh"} == {"profile", "place"}
    assert {state for name, state in states.items() if name not in ("profile", "place")} == {"no model"}

    text = (folder / "profile.yaml").read_text()
    (folder / "profile.yaml").write_text(text.replace("0.153", "0.154"))
    status = call("status", folder, "--build-dir", build, "--json").content
    assert (status["stages"]["profile"], status["stages"]["place"]) == ("stale", "stale")
    assert status["changed"]["profile"] == ["given"]


@pytest.mark.parametrize("verb", ["run", "build-repo", "calibrate", "export", "search", "gears"])
def test_what_needs_a_model_says_so(tmp_path: Path, verb: str) -> None:
    outcome = call(verb, VIT, "--build-dir", tmp_path)
    assert_refused(outcome, 2, "cascade.yaml: tiers.tiny: has no model", "cascade-tools place")
    assert not list(tmp_path.iterdir())


# What the spec may say


def no_models(**changes: Any) -> dict[str, Any]:
    content = {
        "name": "pair",
        "tiers": [{"name": "small", "reach": 1.0}, {"name": "large", "reach": 0.5}],
        "profile": {"given": "profile.yaml"},
        "devices": "devices.yaml",
    }
    return {**content, **changes}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (no_models(profile={}), "tiers.small.source: missing"),
        (no_models(tiers=[{"name": "small"}, spec_content()["tiers"][1]]), "tiers.small.source: missing"),
        (
            no_models(tiers=[{"name": "small", "reach": 1.0}, {"name": "large"}]),
            "'reach' is given for all tiers",
        ),
        (no_models(tiers=[{"name": "small", "reach": 0.5}]), "is 1 where the rows enter"),
        ({**spec_content(), "data": {}}, "data: required"),
        ({k: v for k, v in spec_content().items() if k != "data"}, "data: required"),
        (
            {**spec_content(), "tiers": [{"name": "small", "source": {"torch": "m:s"}, "reach": 1.0}]},
            "tiers.small.reach: is for tiers without models",
        ),
        (no_models(profile={"given": "../profile.yaml"}), "profile.given: must be a relative path"),
    ],
)
def test_a_spec_that_is_half_given_is_refused(tmp_path: Path, content: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        write_cascade(tmp_path, content)
    assert words in caught.value.message


def test_without_reach_a_placement_asks_for_it(tmp_path: Path) -> None:
    tiers = [{"name": "small"}, {"name": "large"}]
    write_cascade(tmp_path, no_models(tiers=tiers), {"profile.yaml": TABLE, "devices.yaml": DEVICES})
    assert call("profile", tmp_path, "--build-dir", tmp_path / "build").code == 0
    outcome = call("place", tmp_path, "--build-dir", tmp_path / "build")
    assert_refused(outcome, 2, "tiers.small.reach: missing", "share of all rows")


def test_a_device_without_figures_is_named_with_the_tier(tmp_path: Path) -> None:
    devices = DEVICES.replace("type: gpu", "type: other")
    write_cascade(tmp_path, no_models(), {"profile.yaml": TABLE, "devices.yaml": devices})
    assert call("profile", tmp_path, "--build-dir", tmp_path / "build").code == 0
    outcome = call("place", tmp_path, "--build-dir", tmp_path / "build")
    assert_refused(outcome, 2, "devices.yaml", "'other' (tier small)")


def test_a_given_file_does_not_make_the_models_stale(tmp_path: Path) -> None:
    content = {**spec_content(), "profile": {"given": "results"}}
    cascade = write_cascade(tmp_path, content, {"ladder.py": "", "rows.py": ""})
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "a.csv").write_text("1")
    sources, given = source_digests(cascade, "rows:validation"), digest_given(cascade)
    (tmp_path / "results" / "a.csv").write_text("2")
    assert source_digests(cascade, "rows:validation") == sources
    assert digest_given(cascade) != given
    (tmp_path / "ladder.py").write_text("CHANGED = True")
    assert source_digests(cascade, "rows:validation") != sources


# The verb


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    write_cascade(tmp_path / "pair", no_models(), {"profile.yaml": TABLE, "devices.yaml": DEVICES})
    return tmp_path / "pair"


def profiled(pair: Path) -> Outcome:
    return call("profile", pair, "--build-dir", pair.parent / "build", "--json")


def test_points_above_the_largest_batch_tell_what_lies_between(pair: Path) -> None:
    outcome = profiled(pair)
    assert sorted(p["batch"] for p in outcome.content["points"]) == [1, 1, 64]
    assert "asking a tier counts as free" in outcome.err


def test_a_tier_without_a_usable_point_is_named(pair: Path) -> None:
    (pair / "profile.yaml").write_text(
        TABLE.replace("large, device: gpu, batch: 1", "large, device: gpu, batch: 64")
    )
    assert_refused(profiled(pair), 2, "profile.yaml: has no point of tier 'large'")


def test_a_diff_prints_ratios_and_fails_only_when_asked(pair: Path) -> None:
    build = pair.parent / "build"
    assert profiled(pair).code == 0
    kept = pair.parent / "first.json"
    shutil.copy(build / "pair" / "profile.json", kept)
    (pair / "profile.yaml").write_text(
        TABLE.replace("time_ms: 9", "time_ms: 10.8").replace("batch: 64", "batch: 2")
    )
    assert profiled(pair).code == 0
    outcome = call("profile", "--diff", kept, pair, "--build-dir", build, "--json")
    assert outcome.code == 0, outcome.err
    small, large = outcome.content["points"]
    assert (small["latency_p50"], small["tier"]) == (1.0, "small")
    assert large["latency_p50"] == pytest.approx(1.2)
    assert large["energy"] is None
    assert [key["batch"] for key in outcome.content["only_second"]] == [2]
    assert "only in" in outcome.out
    assert call("profile", "--diff", kept, pair, "--build-dir", build, "--fail-above", "25").code == 0
    failed = call("profile", "--diff", kept, build / "pair", "--fail-above", "15")
    assert_refused(failed, 1, "tier large, format onnx, device gpu, batch 1, instances 1", "20.0 %")


def test_an_import_is_written_and_merges_with_another(pair: Path) -> None:
    first, second, both = (pair.parent / name for name in ("a.json", "b.json", "both.json"))
    assert call("profile", pair, "--import", pair / "profile.yaml", "--out", first).code == 0
    csv = pair / "there.csv"
    csv.write_text(
        "tier,device,batch,time_ms,utilization,memory_mib\nsmall,t4,1,4,.5,100\nlarge,t4,1,18,.9,800\n"
    )
    assert call("profile", pair, "--import", csv, "--out", second).code == 0
    merged = call("profile", "--merge", first, second, "--out", both, "--json")
    assert merged.code == 0, merged.err
    assert [p["device"] for p in merged.content["points"]] == ["gpu", "gpu", "gpu", "t4", "t4"]
    assert json.loads(both.read_text()) == merged.content
    # The union is a profile like any other: it can be given.
    (pair / "profile.json").write_bytes(both.read_bytes())
    content = no_models(profile={"given": "profile.json"})
    (pair / "cascade.yaml").write_text(yaml.safe_dump(content))
    assert len(profiled(pair).content["points"]) == 5


def test_a_conflict_names_the_key_and_writes_nothing(pair: Path) -> None:
    first, second, both = (pair.parent / name for name in ("a.json", "b.json", "both.json"))
    assert call("profile", pair, "--import", pair / "profile.yaml", "--out", first).code == 0
    (pair / "profile.yaml").write_text(TABLE.replace("time_ms: 9", "time_ms: 10"))
    assert call("profile", pair, "--import", pair / "profile.yaml", "--out", second).code == 0
    outcome = call("profile", "--merge", first, second, "--out", both)
    assert_refused(outcome, 2, "b.json: tier large, format onnx, device gpu, batch 1", "a.json")
    assert not both.exists()


def test_an_import_into_the_build_folder_is_fresh_once_there_is_an_export(tmp_path: Path) -> None:
    folder, build = tmp_path / "pair", tmp_path / "build"
    write_cascade(folder, files={"devices.yaml": DEVICES, "ladder.py": "", "rows.py": ""})
    (tmp_path / "table.yaml").write_text(TABLE)
    command = ("profile", folder, "--import", tmp_path / "table.yaml", "--build-dir", build)
    assert_refused(call(*command), 2, "exported.json: missing", "cascade-tools export")
    exported = build / "pair" / "exported.json"
    exported.parent.mkdir(parents=True)
    exported.write_text("{}")
    outcome = call(*command)
    assert outcome.code == 0, outcome.err
    assert "profile: {given: FILE}" in outcome.out
    assert Profile.model_validate_json((build / "pair" / "profile.json").read_text()).points
    status = call("status", folder, "--build-dir", build, "--json")
    assert status.content["changed"]["profile"] == []  # stale only because of the export that stands in here


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--diff", "a.json"), "--diff needs two profiles"),
        (("--merge", "a.json", "b.json"), "--merge needs --out"),
        (("--merge", "--diff", "a.json", "b.json"), "one of --diff, --merge and --import"),
        (("a", "b"), "one folder"),
        (("a", "--out", "x.json"), "--out belongs to"),
        (("a", "--fail-above", "3"), "--fail-above belongs to --diff"),
        (("a", "--device", "t4"), "--device belongs to --import"),
        (("--merge", "a.json", "b.json", "--out", "x.yaml"), "written as .json"),
        (("--diff", "no.json", "b.json"), "no.json: no such file"),
        (("--diff", "t.yaml", "b.json"), "is a table, not a profile"),
    ],
)
def test_wrong_options_are_named(arguments: tuple[str, ...], words: str) -> None:
    assert_refused(call("profile", *arguments), 2, words)


def test_an_import_beside_a_given_profile_is_refused(pair: Path) -> None:
    outcome = call("profile", pair, "--import", pair / "profile.yaml")
    assert_refused(outcome, 2, "profile.given: already names profile.yaml")


def test_profiles_without_a_common_point_pass_no_gate(pair: Path) -> None:
    first, second = (pair.parent / name for name in ("one.json", "other.json"))
    csv = pair / "there.csv"
    csv.write_text(
        "tier,device,batch,time_ms,utilization,memory_mib\nsmall,t4,1,4,.5,100\nlarge,t4,1,18,.9,800\n"
    )
    assert call("profile", pair, "--import", pair / "profile.yaml", "--out", first).code == 0
    assert call("profile", pair, "--import", csv, "--out", second).code == 0
    assert_refused(call("profile", "--diff", first, second, "--fail-above", "5"), 1, "no point in common")
    assert call("profile", "--diff", first, second).code == 0


def test_what_measuring_takes_is_not_for_a_diff(pair: Path) -> None:
    outcome = call("profile", "--diff", pair, pair, "--batches", "1,8")
    assert_refused(outcome, 2, "--batches belongs to measuring")
