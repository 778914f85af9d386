"""RAPL counters as the kernel shows them, over a folder tree of the same shape."""

from pathlib import Path

import pytest

from cascade_tools.machine.meters import find_meter


def package(root: Path, number: int, energy_uj: int, range_uj: int = 1_000_000) -> Path:
    folder = root / f"intel-rapl:{number}"
    folder.mkdir()
    (folder / "energy_uj").write_text(f"{energy_uj}\n")
    (folder / "max_energy_range_uj").write_text(f"{range_uj}\n")
    return folder


def test_joules_count_from_the_start_over_all_packages(tmp_path: Path) -> None:
    first, second = package(tmp_path, 0, 500_000), package(tmp_path, 1, 100)
    meter = find_meter(tmp_path)
    assert meter is not None
    assert meter.name == "rapl"
    assert meter.read_j() == 0.0
    (first / "energy_uj").write_text("700000\n")
    (second / "energy_uj").write_text("50100\n")
    assert meter.read_j() == pytest.approx(0.25)


def test_a_counter_that_wraps_around_goes_on(tmp_path: Path) -> None:
    only = package(tmp_path, 0, 900_000)
    meter = find_meter(tmp_path)
    assert meter is not None
    (only / "energy_uj").write_text("100000\n")
    assert meter.read_j() == pytest.approx(0.2)
    (only / "energy_uj").write_text("300000\n")
    assert meter.read_j() == pytest.approx(0.4)


def test_parts_of_a_package_are_not_counted_again(tmp_path: Path) -> None:
    package(tmp_path, 0, 0)
    inner = tmp_path / "intel-rapl:0:0"
    inner.mkdir()
    (inner / "energy_uj").write_text("0\n")
    (inner / "max_energy_range_uj").write_text("1000000\n")
    meter = find_meter(tmp_path)
    assert meter is not None
    (inner / "energy_uj").write_text("500000\n")
    assert meter.read_j() == 0.0


def test_without_a_readable_counter_there_is_no_meter(tmp_path: Path) -> None:
    assert find_meter(tmp_path) is None
    assert find_meter(tmp_path / "missing") is None
    folder = package(tmp_path, 0, 0)
    (folder / "energy_uj").unlink()
    (folder / "energy_uj").mkdir()  # not readable as a file, whoever asks
    assert find_meter(tmp_path) is None
