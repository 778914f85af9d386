"""Files that stages leave: written whole or not at all, and refused unless they are what is expected."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cascade_tools.artifacts import Calibration, Exported, InputSpec, ScoreTable
from cascade_tools.errors import ArtifactError, CascadeError
from cascade_tools.store import (
    Workspace,
    digest_bytes,
    digest_file,
    digest_files,
    digest_value,
    load_npz,
    load_score_table,
    readable_disk_errors,
    save_score_table,
    write_atomically,
)
from tests.helpers import Array, run_with_file_limit, write_cascade


def calibration(cascade: str = "pair") -> Calibration:
    return Calibration(
        cascade=cascade,
        made_from={"sources": "abc"},
        inputs=(InputSpec(name="X", datatype="FP32", dims=(3,)),),
        classes=4,
        rows={"fit": 1, "search": 3},
        tiers=(),
    )


@pytest.fixture
def work(tmp_path: Path) -> Workspace:
    return Workspace(write_cascade(tmp_path / "pair"), tmp_path / "build")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_written_file_has_its_content_and_is_readable_by_all(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "file.json"
    write_atomically(path, b"content")
    assert path.read_bytes() == b"content"
    assert path.stat().st_mode & 0o777 == 0o644
    assert names(path.parent) == ["file.json"]


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"a long first content")
    inode = path.stat().st_ino
    with path.open("rb") as reader:
        write_atomically(path, b"short")
        # Who has the old file open goes on reading it.
        assert reader.read() == b"a long first content"
    assert path.read_bytes() == b"short"
    assert path.stat().st_ino != inode


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    script = """
        from pathlib import Path
        from cascade_tools.store import write_atomically
        try:
            write_atomically(Path(sys.argv[1]), b"x" * 5000)
        except OSError as error:
            print("refused:", error.strerror)
    """
    assert run_with_file_limit(1000, script, str(path)) == "refused: File too large\n"
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_a_failed_first_write_leaves_nothing(tmp_path: Path) -> None:
    script = """
        from pathlib import Path
        from cascade_tools.errors import CascadeError
        from cascade_tools.store import readable_disk_errors, write_atomically
        path = Path(sys.argv[1])
        try:
            with readable_disk_errors(path):
                write_atomically(path, b"x" * 5000)
        except CascadeError as error:
            print(error.message)
            print(error.exit_code)
    """
    path = tmp_path / "file"
    said = run_with_file_limit(1000, script, str(path))
    assert said == f"{path}: could not be written: File too large\n1\n"
    assert names(tmp_path) == []


def test_a_place_that_cannot_be_written_is_one_clear_message(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"not a folder")
    with pytest.raises(CascadeError) as caught, readable_disk_errors(tmp_path / "file"):
        write_atomically(tmp_path / "file" / "below", b"x")
    assert "could not be written: " in caught.value.message
    assert "nothing was changed" in caught.value.hint


def test_an_artifact_comes_back_as_it_was_saved(work: Workspace) -> None:
    work.save("calibration.json", calibration())
    assert work.load("calibration.json", Calibration, "calibrate") == calibration()


def refused(work: Workspace, content: object) -> ArtifactError:
    work.build.mkdir(exist_ok=True)
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    (work.build / "calibration.json").write_bytes(raw)
    with pytest.raises(ArtifactError) as caught:
        work.load("calibration.json", Calibration, "calibrate")
    assert str(work.build / "calibration.json") in caught.value.message
    assert (
        caught.value.hint
        == f"run `cascade-tools calibrate {work.cascade.folder} --build-dir {work.build.parent}`"
    )
    return caught.value


def test_a_missing_artifact_names_the_verb_that_makes_it(work: Workspace) -> None:
    with pytest.raises(ArtifactError) as caught:
        work.load("calibration.json", Calibration, "calibrate")
    assert caught.value.message.endswith("calibration.json: missing")
    assert (
        caught.value.hint
        == f"run `cascade-tools calibrate {work.cascade.folder} --build-dir {work.build.parent}`"
    )
    assert caught.value.exit_code == 2


def test_the_usual_build_folder_is_not_named(work: Workspace) -> None:
    usual = Workspace(work.cascade, Path("build") / work.cascade.name)
    assert usual.command("search") == f"cascade-tools search {work.cascade.folder}"


def test_a_folder_in_the_place_of_an_artifact_is_refused(work: Workspace) -> None:
    (work.build / "calibration.json").mkdir(parents=True)
    with pytest.raises(ArtifactError, match="cannot be read"):
        work.load("calibration.json", Calibration, "calibrate")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b"null", b"{}"])
def test_a_corrupt_artifact_is_refused(work: Workspace, content: bytes) -> None:
    assert "not a Calibration" in refused(work, content).message


def test_half_an_artifact_is_refused(work: Workspace) -> None:
    whole = calibration().model_dump_json().encode()
    assert "not a Calibration" in refused(work, whole[: len(whole) // 2]).message


def test_an_artifact_of_another_kind_is_refused(work: Workspace) -> None:
    other = Exported(cascade="pair", made_from={}, environment={}, tiers=())
    assert "kind: Input should be 'calibration'" in refused(work, other.model_dump()).message


def test_an_artifact_of_another_cascade_is_refused(work: Workspace) -> None:
    message = refused(work, calibration("other").model_dump()).message
    assert "belongs to cascade 'other', not 'pair'" in message


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"format": 2}, "format"),
        ({"classes": "many"}, "classes"),
        ({"colour": "red"}, "colour: unknown key"),
        ({"inputs": [{"name": "X"}]}, "inputs.0.datatype"),
    ],
)
def test_a_field_that_does_not_fit_is_named(work: Workspace, change: dict[str, object], field: str) -> None:
    assert field in refused(work, {**calibration().model_dump(), **change}).message


def table() -> ScoreTable:
    return ScoreTable(
        tiers=("small", "large"),
        confidence=np.array([[0.25, 0.5], [0.75, np.nan], [0.1, 1.0]], np.float32),
        label=np.array([[1, 2], [3, 4], [5, 6]]),
        target=np.array([1, 4, 0]),
        group=np.array([7, 7, 8]),
        split=np.array(["fit", "fit", "search"]),
    )


def arrays() -> dict[str, Array]:
    """A score table as a person would save one: only what is needed."""
    return {"confidence": table().confidence, "label": table().label, "target": table().target}


def test_a_score_table_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    save_score_table(tmp_path / "scores.npz", table())
    found = load_score_table(tmp_path / "scores.npz")
    assert found.tiers == ("small", "large")
    for name in ("confidence", "label", "target", "group", "split"):
        np.testing.assert_array_equal(getattr(found, name), getattr(table(), name))
        assert getattr(found, name).dtype == getattr(table(), name).dtype


def test_a_table_without_names_groups_and_splits_gets_plain_ones(tmp_path: Path) -> None:
    np.savez(tmp_path / "scores.npz", **arrays())
    found = load_score_table(tmp_path / "scores.npz")
    assert found.tiers == ("tier0", "tier1")
    assert found.group.tolist() == [0, 1, 2]
    assert found.split.tolist() == ["search"] * 3


def test_a_part_of_a_table_keeps_its_rows_together() -> None:
    part = table().part("fit")
    assert part.target.tolist() == [1, 4]
    assert part.label.tolist() == [[1, 2], [3, 4]]
    assert part.group.tolist() == [7, 7]
    assert len(table().part("search").target) == 1


@pytest.mark.parametrize("name", ["confidence", "label", "target"])
def test_a_missing_array_is_named(tmp_path: Path, name: str) -> None:
    left = {key: values for key, values in arrays().items() if key != name}
    np.savez(tmp_path / "scores.npz", **left)
    with pytest.raises(ArtifactError, match=f"no array '{name}'"):
        load_score_table(tmp_path / "scores.npz", "a hint")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"confidence": np.ones((3, 3))}, r"confidence must have shape \(3, 2\), found \(3, 3\)"),
        ({"confidence": np.ones(3)}, r"confidence must have shape \(3, 2\)"),
        ({"label": np.ones((2, 2), int)}, r"label must have shape \(3, 2\), found \(2, 2\)"),
        ({"group": np.arange(2)}, r"group must have shape \(3,\)"),
        ({"split": np.array(["fit"])}, r"split must have shape \(3,\)"),
        ({"tier": np.array(["a", "b", "c"])}, r"confidence must have shape \(3, 3\)"),
    ],
)
def test_arrays_that_do_not_fit_together_are_named(
    tmp_path: Path, change: dict[str, Array], message: str
) -> None:
    np.savez(tmp_path / "scores.npz", **{**arrays(), **change})
    with pytest.raises(ArtifactError, match=message):
        load_score_table(tmp_path / "scores.npz")


def test_a_table_without_rows_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "scores.npz", **{name: values[:0] for name, values in arrays().items()})
    with pytest.raises(ArtifactError, match="no rows"):
        load_score_table(tmp_path / "scores.npz")


def test_a_missing_table_keeps_the_hint(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError) as caught:
        load_score_table(tmp_path / "none.npz", "run something")
    assert caught.value.hint == "run something"
    assert "no such file" in caught.value.message


def test_plain_arrays_are_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "rows.npz", X=np.arange(3), Y=np.ones((2, 2)))
    found = load_npz(tmp_path / "rows.npz")
    assert sorted(found) == ["X", "Y"]
    assert found["X"].tolist() == [0, 1, 2]


class Trap:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.path,)


def test_pickled_arrays_are_refused_unopened(tmp_path: Path) -> None:
    trap = np.empty(1, object)
    trap[0] = Trap(tmp_path / "touched")
    np.savez(tmp_path / "rows.npz", X=trap)
    with pytest.raises(ArtifactError, match=r"not an \.npz of plain arrays"):
        load_npz(tmp_path / "rows.npz")
    assert not (tmp_path / "touched").exists()


def test_a_pickle_under_the_name_of_an_npz_is_refused_unopened(tmp_path: Path) -> None:
    (tmp_path / "rows.npz").write_bytes(pickle.dumps(Trap(tmp_path / "touched")))
    with pytest.raises(ArtifactError, match=r"not an \.npz of plain arrays"):
        load_npz(tmp_path / "rows.npz")
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.95])
def test_a_cut_off_archive_is_refused(tmp_path: Path, kept: float) -> None:
    path = tmp_path / "rows.npz"
    np.savez(path, X=np.arange(1000))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(ArtifactError, match=r"not an \.npz of plain arrays"):
        load_npz(path)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("place", [0.1, 0.3, 0.5])
def test_a_flipped_byte_is_noticed(tmp_path: Path, compressed: bool, place: float) -> None:
    path = tmp_path / "rows.npz"
    save = np.savez_compressed if compressed else np.savez
    save(path, X=np.random.default_rng(0).integers(0, 9, 5000))
    raw = bytearray(path.read_bytes())
    raw[int(place * len(raw))] ^= 0xFF
    path.write_bytes(raw)
    with pytest.raises(ArtifactError, match=r"not an \.npz of plain arrays"):
        load_npz(path)


def test_a_single_array_under_the_name_of_an_npz_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "rows.npz").open("wb") as file:
        np.save(file, np.arange(3))
    with pytest.raises(ArtifactError, match=r"not an \.npz of plain arrays: a single array"):
        load_npz(tmp_path / "rows.npz")


def test_a_digest_is_sha_256_and_a_missing_file_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    wanted = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert digest_bytes(b"abc") == digest_file(tmp_path / "file") == wanted
    assert digest_file(tmp_path / "none") == "missing"


def test_a_digest_of_files_depends_on_names_and_contents_alone(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a").write_text("A")
        (tmp_path / folder / "b").write_text("B")
    first = digest_files([tmp_path / "one" / "a", tmp_path / "one" / "b"], tmp_path / "one")
    second = digest_files([tmp_path / "two" / "b", tmp_path / "two" / "a"], tmp_path / "two")
    assert first == second
    (tmp_path / "two" / "a").write_text("B")
    (tmp_path / "two" / "b").write_text("A")
    swapped = digest_files([tmp_path / "two" / "b", tmp_path / "two" / "a"], tmp_path / "two")
    assert swapped != first
    renamed = (tmp_path / "one" / "b").rename(tmp_path / "one" / "c")
    assert digest_files([tmp_path / "one" / "a", renamed], tmp_path / "one") != first


def test_a_digest_of_values_notices_every_field() -> None:
    base = calibration()
    assert digest_value(base, "x", 1) == digest_value(calibration(), "x", 1)
    for other in ((base, "x", 2), (base, "y", 1), (base.model_copy(update={"classes": 5}), "x", 1)):
        assert digest_value(*other) != digest_value(base, "x", 1)


@pytest.mark.parametrize(
    "change",
    [
        {"label": np.array(3)},
        {"target": np.array(3)},
        {"target": np.array(["a", "b", "c"])},
        {"confidence": np.array([["a", "b"]] * 3)},
        {"tier": np.array("a")},
    ],
)
def test_a_score_table_with_arrays_of_another_kind_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    arrays = {"confidence": np.ones((3, 2)), "label": np.zeros((3, 2), int), "target": np.zeros(3, int)}
    np.savez(tmp_path / "scores.npz", **{**arrays, **change})
    with pytest.raises(ArtifactError):
        load_score_table(tmp_path / "scores.npz")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": np.array(["search", "Verify", "fit"])}, "'Verify' is none of"),
        ({"tier": np.array(["a", "a"])}, "none twice"),
        ({"confidence": np.array([[0.5, np.inf]] * 3)}, "finite"),
        ({"label": np.full((3, 2), 0.5)}, "label must be integers"),
    ],
)
def test_a_score_table_that_cannot_be_meant_is_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    arrays = {"confidence": np.ones((3, 2)), "label": np.zeros((3, 2), int), "target": np.zeros(3, int)}
    np.savez(tmp_path / "scores.npz", **{**arrays, **change})
    with pytest.raises(ArtifactError, match=message):
        load_score_table(tmp_path / "scores.npz")


def test_groups_may_be_any_values(tmp_path: Path) -> None:
    arrays = {"confidence": np.ones((3, 2)), "label": np.zeros((3, 2), int), "target": np.zeros(3, int)}
    np.savez(tmp_path / "scores.npz", **arrays, group=np.array(["one", "two", "one"]))
    assert load_score_table(tmp_path / "scores.npz").group.tolist() == [0, 1, 0]
