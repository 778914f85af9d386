"""Profiles from elsewhere: Model Analyzer's tables and a person's own, and what each refusal names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cascade_tools.artifacts import Profile
from cascade_tools.errors import UsageError
from cascade_tools.spec import Cascade
from cascade_tools.stages.given_profile import read_profile
from tests.helpers import write_cascade

# As Model Analyzer 1.4x writes them: figures rounded to .1, and an empty line at the end.
INFERENCE = (
    "Model,Batch,Concurrency,Model Config Path,Instance Group,Max Batch Size,Satisfies Constraints,"
    """Throughput (infer/sec),p99 Latency (ms)
pair_small,8,2,pair_small_config_default,1:GPU,8,Yes,4000.0,5.1
pair_small,8,1,pair_small_config_default,1:GPU,8,Yes,2000.0,4.4
pair_small,1,1,pair_small_config_default,1:GPU,8,Yes,500.0,2.4
pair_small,8,2,pair_small_config_0,2:GPU,8,No,3200.0,5.9
pair_small,8,1,pair_small_config_1,1:GPU,16,Yes,1900.0,4.9
elsewhere,1,1,elsewhere_config_default,1:GPU,8,Yes,10.0,99.0
pair_large,1,1,pair_large_config_default,1:GPU,8,Yes,50.0,0.0

"""
)
GPU = (
    "Model,GPU UUID,Batch,Concurrency,Model Config Path,Instance Group,Satisfies Constraints,"
    """GPU Memory Usage (MB),GPU Utilization (%),GPU Power Usage (W)
pair_small,GPU-1,8,2,pair_small_config_default,1:GPU,Yes,822.0,70.0,120.0
pair_small,GPU-1,8,1,pair_small_config_default,1:GPU,Yes,822.0,40.0,95.4
pair_small,GPU-1,1,1,pair_small_config_default,1:GPU,Yes,822.0,25.0,80.4
pair_small,GPU-1,8,2,pair_small_config_0,2:GPU,No,1022.0,60.0,110.0
pair_small,GPU-1,8,1,pair_small_config_1,1:GPU,Yes,830.0,41.0,99.0
pair_large,GPU-1,1,1,pair_large_config_default,1:GPU,Yes,2457.0,98.0,255.4

"""
)
SERVER = """\
Model,GPU UUID,GPU Memory Usage (MB),GPU Utilization (%),GPU Power Usage (W)
triton-server,GPU-1,457.0,0.0,55.4

"""
TABLE = """\
source: a paper
idle_watts: {gpu: 60}
points:
  - {tier: small, device: gpu, batch: 1, time_ms: 2, utilization: .2, memory_mib: 100}
  - tier: small
    device: gpu
    batch: 4
    time_ms: 4.0
    p99_ms: 5.0
    utilization: 0.5
    memory_mib: 120
    energy_j: 0.25
    modelled: [memory, energy]
  - {tier: large, device: gpu, batch: 1, instances: 2, time_ms: 9, utilization: 1, memory_mib: 0,
     throughput_rps: 200}
  - {tier: large, device: gpu, batch: 1, format: pt2, time_ms: 9, utilization: .9, memory_mib: 10,
     modelled: [time, utilization, memory]}
"""
CSV = """\
# a comment
tier,device,batch,time_ms,utilization,memory_mib,energy_j,modelled
small, gpu, 1, 2, .2, 100, ,
large, gpu, 4, 9, .9, 800, .5, time energy
"""
MIB_PER_MB = 1e6 / 2**20


@pytest.fixture
def pair(tmp_path: Path) -> Cascade:
    cascade = write_cascade(tmp_path / "pair")
    (cascade.folder / "devices.yaml").write_text("devices: [{type: h200, kind: gpu, memory_mib: 80000}]\n")
    return cascade


def write_results(folder: Path, inference: str = INFERENCE, gpu: str = GPU, server: str = SERVER) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in (("model-inference", inference), ("model-gpu", gpu), ("server-only", server)):
        (folder / f"metrics-{name}.csv").write_text(text)
    return folder


def read_text(cascade: Cascade, name: str, text: str) -> Profile:
    path = cascade.folder / name
    path.write_text(text)
    return read_profile(cascade, path)


# Model Analyzer


def test_one_client_per_instance_gives_the_points(pair: Cascade, tmp_path: Path) -> None:
    made = read_profile(pair, write_results(tmp_path / "results"))
    assert [(p.tier, p.batch, p.instances) for p in made.points] == [
        ("small", 8, 1),  # of two configurations, the one of the higher throughput
        ("small", 1, 1),
        ("small", 8, 2),
        ("large", 1, 1),
    ]
    assert {p.device for p in made.points} == {"h200"}
    assert {(p.origin, p.energy_origin, p.modelled) for p in made.points} == {
        ("given", "given", ("time", "utilization"))
    }
    assert made.idle_watts == {"h200": 55.4}
    assert made.hop is None


def test_units_are_converted(pair: Cascade, tmp_path: Path) -> None:
    made = read_profile(pair, write_results(tmp_path / "results") / "metrics-model-inference.csv")
    first, _, two, large = made.points
    assert first.throughput_rps == 2000.0
    assert first.latency_p50_ms == pytest.approx(4.0)  # 8 rows at 2000 rows/s
    assert first.latency_p99_ms == 4.4
    assert first.kernel_utilization == pytest.approx(0.4)
    assert first.memory_mib == pytest.approx((822.0 - 457.0) * MIB_PER_MB)
    assert first.energy_j == pytest.approx((95.4 - 55.4) / 2000.0)
    assert two.latency_p50_ms == pytest.approx(5.0)  # two instances, 8 rows each, 3200 rows/s
    assert two.memory_mib == pytest.approx((1022.0 - 457.0) * MIB_PER_MB / 2)
    assert large.latency_p99_ms is None  # rounded away
    assert large.cpu_ms_per_row is None


def test_the_servers_own_times_come_before_those_of_the_clients(pair: Cascade, tmp_path: Path) -> None:
    columns = ",Server Queue time (ms),Server Compute Input time (ms),Server Compute Infer time (ms)"
    lines = INFERENCE.splitlines()
    lines[0] += columns + ",Server Compute Output time (ms)"
    lines[1:-1] = [f"{line},0.3,0.1,1.5,0.2" for line in lines[1:-1]]
    made = read_profile(pair, write_results(tmp_path / "results", "\n".join(lines)))
    assert [p.latency_p50_ms for p in made.points] == [pytest.approx(1.8)] * 4
    assert {p.queue_ms for p in made.points} == {0.3}


def test_releases_that_name_the_aggregate_are_read_alike(pair: Cascade, tmp_path: Path) -> None:
    def named(text: str) -> str:
        return (
            text.replace("GPU Memory", "Max GPU Memory")
            .replace("GPU Utilization", "Average GPU Utilization")
            .replace("GPU Power", "Average GPU Power")
        )

    old = write_results(tmp_path / "old", INFERENCE.replace(":GPU", "/GPU"), named(GPU), named(SERVER))
    new = write_results(tmp_path / "new")
    assert read_profile(pair, old).points == read_profile(pair, new).points


ANALYZER_REFUSED: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "no gpu file": (
        lambda folder: (folder / "metrics-model-gpu.csv").unlink(),
        ("metrics-model-gpu.csv: no such file", "utilization and memory"),
    ),
    "no server file": (
        lambda folder: (folder / "metrics-server-only.csv").unlink(),
        ("metrics-server-only.csv: no such file", "without a model"),
    ),
    "no inference file": (
        lambda folder: (folder / "metrics-model-inference.csv").unlink(),
        ("holds no metrics-model-inference.csv",),
    ),
    "request rates": (
        lambda folder: write_results(folder, INFERENCE.replace("Concurrency", "Request Rate")),
        ("metrics-model-inference.csv, line 1: no column 'Concurrency'",),
    ),
    "no number": (
        lambda folder: write_results(folder, INFERENCE.replace("500.0", "None")),
        ("metrics-model-inference.csv, line 4, column 'Throughput (infer/sec)': missing",),
    ),
    "text": (
        lambda folder: write_results(folder, INFERENCE.replace("500.0", "fast")),
        ("line 4, column 'Throughput (infer/sec)': 'fast' is no number",),
    ),
    "idle kernels": (
        lambda folder: write_results(folder, gpu=GPU.replace(",25.0,", ",0.0,")),
        ("metrics-model-gpu.csv, line 4, column 'GPU Utilization (%)': 0.0 must be above 0",),
    ),
    "a cpu": (
        lambda folder: write_results(folder, INFERENCE.replace("1:GPU", "1:CPU")),
        ("line 2, column 'Instance Group'", "CPU"),
    ),
    "several models at once": (
        lambda folder: write_results(
            folder, INFERENCE.replace("pair_small,1,1", '"pair_small,pair_large",1,1')
        ),
        ("line 4, column 'Model': 'pair_small,pair_large' were measured at the same time",),
    ),
    "several gpus": (
        lambda folder: write_results(
            folder, gpu=GPU + "pair_small,GPU-2,8,1,pair_small_config_default,1:GPU,Yes,1,1,1\n"
        ),
        ("column 'GPU UUID'", "GPU-2"),
    ),
    "queued clients only": (
        lambda folder: write_results(
            folder, INFERENCE.replace(",1,1,", ",1,4,").replace("8,1,", "8,4,").replace("8,2,", "8,16,")
        ),
        ("no row has as many clients",),
    ),
    "other models": (
        lambda folder: write_results(folder, INFERENCE.replace("pair_", "nobody_")),
        ("no row of a model of this cascade",),
    ),
    "too many cells": (
        lambda folder: write_results(folder, INFERENCE.replace("500.0", "500.0,1,1")),
        ("metrics-model-inference.csv, line 4, column 10: 11 values under 9 columns",),
    ),
}


@pytest.mark.parametrize("name", ANALYZER_REFUSED)
def test_what_model_analyzer_did_not_write_is_named(pair: Cascade, tmp_path: Path, name: str) -> None:
    folder = write_results(tmp_path / "results")
    change, words = ANALYZER_REFUSED[name]
    change(folder)
    with pytest.raises(UsageError) as caught:
        read_profile(pair, folder)
    for word in words:
        assert word in caught.value.message


def test_the_gpu_must_be_named_where_there_are_several_types(pair: Cascade, tmp_path: Path) -> None:
    devices = "devices: [{type: a, kind: gpu, memory_mib: 9}, {type: b, kind: gpu, memory_mib: 9}]"
    (pair.folder / "devices.yaml").write_text(devices)
    folder = write_results(tmp_path / "results")
    with pytest.raises(UsageError, match="2 types of GPU"):
        read_profile(pair, folder)
    assert {p.device for p in read_profile(pair, folder, "b").points} == {"b"}


# Given tables


def test_a_table_in_yaml(pair: Cascade) -> None:
    made = read_text(pair, "profile.yaml", TABLE)
    small, batch_4, two, modelled = made.points
    assert (small.latency_p50_ms, small.latency_p99_ms, small.latency_tail_ms) == (2.0, None, 2.0)
    assert (small.origin, small.modelled, small.energy_j) == ("given", (), None)
    assert small.throughput_rps == 500.0
    assert (batch_4.latency_tail_ms, batch_4.energy_origin, batch_4.modelled) == (
        5.0,
        "modelled",
        ("memory",),
    )
    assert (two.instances, two.throughput_rps, two.format) == (2, 200.0, "onnx")
    assert (modelled.origin, modelled.modelled, modelled.format) == ("modelled", (), "pt2")
    assert made.environment == {"source": "a paper"}
    assert made.idle_watts == {"gpu": 60.0}


def test_a_table_in_csv(pair: Cascade) -> None:
    small, large = read_text(pair, "profile.csv", CSV).points
    assert (small.tier, small.energy_j, small.energy_origin) == ("small", None, None)
    assert (large.batch, large.energy_j, large.energy_origin, large.modelled) == (
        4,
        0.5,
        "modelled",
        ("time",),
    )


TABLE_REFUSED = {
    "unknown tier": (
        "tier: large, device: gpu, batch: 1, format",
        "tier: huge, device: gpu, batch: 1, format",
        "line 16, column 'tier': 'huge' is no tier of the cascade",
    ),
    "unknown column": ("p99_ms", "p90_ms", "line 9, column 'p90_ms': unknown column"),
    "no memory": (", memory_mib: 100", "", "line 4, column 'memory_mib': missing"),
    "utilization above 1": (
        "utilization: 0.5",
        "utilization: 50",
        "line 10, column 'utilization': 50 must be above 0 and at most 1",
    ),
    "no whole batch": ("batch: 4", "batch: 4.5", "line 7, column 'batch': '4.5' is no whole number"),
    "time of nothing": ("time_ms: 2,", "time_ms: 0,", "line 4, column 'time_ms': 0 must be above 0"),
    "p99 below the median": ("p99_ms: 5.0", "p99_ms: 3.0", "line 9, column 'p99_ms': 3 is below the median"),
    "twice": (
        "batch: 4",
        "batch: 1",
        "line 5, column 'tier': the same point as in line 4",
    ),
    "unknown figure": ("[memory, energy]", "[joules]", "line 13, column 'modelled': 'joules' is none of"),
    "energy without energy": ("energy_j: 0.25", "energy_j:", "line 13, column 'modelled': names energy"),
    "unknown key": ("source:", "sauce:", "line 1: unknown key 'sauce'"),
    "nested": (
        "utilization: 0.5",
        "utilization: {gpu: .5}",
        "line 10, column 'utilization': must be one value",
    ),
    "no list": ("points:", "points: 3\nsource2:", "points"),
    "idle watts of nothing": ("{gpu: 60}", "60", "line 2, column 'idle_watts': must be a mapping"),
    "a source of parts": ("a paper", "{title: a paper}", "line 1, column 'source': must be a text"),
    "no yaml": ("source: a paper", "source: [", "not valid YAML"),
}


@pytest.mark.parametrize("name", TABLE_REFUSED)
def test_a_refused_table_names_line_and_column(pair: Cascade, name: str) -> None:
    old, new, words = TABLE_REFUSED[name]
    assert old in TABLE
    with pytest.raises(UsageError) as caught:
        read_text(pair, "profile.yaml", TABLE.replace(old, new))
    assert str(pair.folder / "profile.yaml") in caught.value.message
    assert words in caught.value.message


CSV_REFUSED = {
    "no column": ("time_ms,", "ms,", "no column 'time_ms'"),
    "named twice": ("energy_j", "tier", "line 2: the column 'tier' is named twice"),
    "no number": (".9", "x", "line 4, column 'utilization': 'x' is no number"),
    "an open quote": ("large", '"large', "not CSV"),
    "nothing": (CSV, "\n", "empty"),
}


@pytest.mark.parametrize("name", CSV_REFUSED)
def test_a_refused_csv_names_line_and_column(pair: Cascade, name: str) -> None:
    old, new, words = CSV_REFUSED[name]
    assert old in CSV
    with pytest.raises(UsageError) as caught:
        read_text(pair, "profile.csv", CSV.replace(old, new))
    assert "profile.csv" in caught.value.message
    assert words in caught.value.message


# A profile of another machine


def test_a_profile_is_taken_as_it_is(pair: Cascade) -> None:
    made = read_text(pair, "profile.yaml", TABLE)
    again = read_text(pair, "profile.json", made.model_dump_json())
    assert again == made


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("profile.json", "{}", "not a profile"),
        ("profile.json", "no", "not a profile"),
        ("profile.txt", "", "must be .json"),
        ("profile.yaml", "- 1", "must be a mapping"),
    ],
)
def test_other_files_are_refused(pair: Cascade, name: str, text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        read_text(pair, name, text)


def test_missing_files_and_other_cascades_are_refused(pair: Cascade) -> None:
    for name in ("no.yaml", "no.csv", "no.json"):
        with pytest.raises(UsageError, match="no such file"):
            read_profile(pair, pair.folder / name)
    made = read_text(pair, "profile.yaml", TABLE).model_copy(update={"cascade": "other"})
    with pytest.raises(UsageError, match="belongs to cascade 'other'"):
        read_text(pair, "profile.json", made.model_dump_json())
